# SPDX-License-Identifier: MIT
"""What a job did, as a table to read and as a CSV file."""

import csv
import io
import os
from itertools import count
from pathlib import Path

from segsrgan.files import write_text

COLUMNS = ("image", "patch", "step", "result", "seconds", "peak_memory_MB", "folder", "detail")


def format_table(outcomes):
    """The outcomes as lines of aligned columns.

    Args:
        outcomes: a list of `Outcome`.

    Returns:
        A str of several lines: image, patch, step, result, seconds, peak memory.
    """
    rows = [[column.replace("_", " ") for column in COLUMNS[:6]]]
    for outcome in outcomes:
        row = _row(outcome)
        row[0] = _shortened(str(outcome.image))
        rows.append(row[:6])
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    aligned = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    aligned.insert(1, "-" * len(aligned[0]))
    return "\n".join(aligned)


def write_summary(outcomes, csv_path):
    """Writes the outcomes as `<name>_summary.csv` beside the job's CSV file.

    An older summary is replaced; where another file has that name, it is `<name>_summary_1.csv`.

    Args:
        outcomes: a list of `Outcome`.
        csv_path: the job's CSV file; where its folder cannot be written to, the current folder
            takes the summary.

    Returns:
        The path written.

    Raises:
        OSError: if neither folder can be written to.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(outcome) for outcome in outcomes)
    csv_path = Path(csv_path)
    try:
        return _write_beside(csv_path, csv_path.absolute().parent, text.getvalue())
    except OSError:
        return _write_beside(csv_path, Path.cwd(), text.getvalue())


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
    ]


def _shortened(path, width=50):
    return path if len(path) <= width else "..." + path[3 - width :]


def _write_beside(csv_path, folder, text):
    """Writes into the first file that does not exist or is a summary of ours."""
    for number in count():
        path = folder / f"{csv_path.stem}_summary{f'_{number}' if number else ''}.csv"
        if not os.path.lexists(path) or _is_summary(path):
            write_text(path, text)
            return path


def _is_summary(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(1000).rstrip() == ",".join(COLUMNS)
    except OSError:
        return False
