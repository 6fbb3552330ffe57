# SPDX-License-Identifier: MIT
"""What became of the images of a job: its outcomes, the table that is printed, the summary CSV."""

import csv
import io
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from segsrgan.errors import TableError, one_line, printable
from segsrgan.files import fitting_name, write_text
from segsrgan.tables import read_table

FINISHED, SKIPPED, FAILED, PLANNED = "finished", "skipped", "failed", "planned"
COLUMNS = (
    *("image", "patch", "step", "result", "seconds", "peak_memory_MB", "folder", "detail"),
    *("verdict", "reasons"),
)
# Of the table that is printed; the first line of a summary by version 3.0.
_SHOWN, _OLD_COLUMNS = 6, COLUMNS[:8]


@dataclass(frozen=True)
class Outcome:
    """What became of one image at one patch and step, in voxels or None for the whole image.

    The seconds are those to compute and write; reading and interpolating count for an image's
    first pair. Images overlap, so that the sum may exceed the time of the job. Of what is planned
    seconds and bytes are estimates, see `segsrgan.inference.jobs.plan_here`.
    """

    image: Path
    patch: int | None
    step: int | None
    result: str  # FINISHED, SKIPPED (was there already), FAILED or PLANNED
    folder: Path
    seconds: float = 0.0
    peak_bytes: int = 0  # largest resident memory of the process meanwhile
    detail: str = ""  # the cause of a failure
    verdict: str = ""  # of the results, see `segsrgan.inference.verdict`; "" without any
    reasons: tuple[str, ...] = ()  # for it


def format_table(outcomes):
    """The outcomes as lines of columns: image, patch, step, result, seconds, memory, verdict."""
    rows = [[*(column.replace("_", " ") for column in COLUMNS[:_SHOWN]), "verdict"]]
    for outcome in outcomes:
        image, *cells = map(printable, [*_row(outcome)[:_SHOWN], outcome.verdict])
        rows.append([image if len(image) <= 50 else f"...{image[-47:]}", *cells])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    line = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in others)])
    header, *lines = (line.format(*row) for row in rows)
    return "\n".join([header, "-" * len(header), *lines])


def write_summary(outcomes, csv_path, folder=None, keep=False):
    """Writes the outcomes as `<name>_summary.csv`, by default beside the CSV; returns the path.

    An older summary is replaced, but for other images' rows with `keep`; where another file has
    that name, it is `<name>_summary_1.csv`. Where nothing can be written beside the CSV, the
    current folder takes the summary; a `folder` that cannot be written to raises `OSError`.
    """
    csv_path = Path(csv_path)
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return _write_summary(Path(folder), csv_path.stem, outcomes, keep)
    try:
        return _write_summary(csv_path.absolute().parent, csv_path.stem, outcomes, keep)
    except OSError:
        return _write_summary(Path.cwd(), csv_path.stem, outcomes, keep)


def read_summary(path):
    """The outcomes that `write_summary` wrote, a list of `Outcome`; `TableError` on other files."""
    table = read_table(path, "columns of a summary by job_model.py")
    if lacking := [name for name in _OLD_COLUMNS if not table.has(name)]:
        raise TableError(
            f"{path}: lacks the columns {', '.join(lacking)}; give one that job_model.py wrote"
        )
    return [_outcome_of(row, table.path) for row in table.rows]


def is_summary(path):
    """Whether a file begins as `write_summary` writes it."""
    with suppress(OSError), open(path, "rb") as file:
        heads = (",".join(columns).encode() for columns in (COLUMNS, _OLD_COLUMNS))
        return file.readline(1000).rstrip() in heads


def _outcome_of(row, path):
    try:
        pair = (None if row.get(k) in ("", "None") else int(row.get(k)) for k in ("patch", "step"))
        image, folder = Path(row.cells["image"]), Path(row.cells["folder"])
        peak, seconds = (float(row.get(k, "0")) for k in ("peak_memory_MB", "seconds"))
        found = {"detail": row.get("detail"), "verdict": row.get("verdict")}
        found["reasons"] = tuple(filter(None, row.get("reasons").split("; ")))
        return Outcome(image, *pair, row.get("result"), folder, seconds, int(peak * 1e6), **found)
    except (KeyError, ValueError) as error:
        raise TableError(
            f"{path}: line {row.line} is not of a summary ({one_line(error)}); run the job again"
        ) from error


def _write_summary(folder, stem, outcomes, keep):
    """Writes into the first file that does not exist or is a summary of ours."""
    for number in count():
        path = folder / fitting_name(stem, f"_summary{f'_{number}' if number else ''}.csv")
        if not os.path.lexists(path) or is_summary(path):
            before = read_summary(path) if keep and os.path.exists(path) else ()
            images = {outcome.image for outcome in outcomes}
            rows = [*(outcome for outcome in before if outcome.image not in images), *outcomes]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([COLUMNS, *map(_row, rows)])
            write_text(path, text.getvalue())
            return path


def _row(outcome):
    return [
        str(outcome.image),
        str(outcome.patch),
        "" if outcome.step is None else str(outcome.step),
        outcome.result,
        f"{outcome.seconds:.1f}",
        f"{outcome.peak_bytes / 1e6:.0f}" if outcome.peak_bytes else "",
        str(outcome.folder),
        outcome.detail,
        outcome.verdict,
        "; ".join(outcome.reasons),
    ]
