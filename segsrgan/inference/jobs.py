# SPDX-License-Identifier: MIT
"""Many images: what is missing is computed, what fails is reported, the rest goes on.

One image is computed, the next is read, the last one is written. At most one image is read ahead
and one result is being written; both are counted as memory that is taken. Reading ahead that does
not fit is done again in its turn.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from segsrgan.errors import MemoryShortage, UserError, one_line
from segsrgan.files import check_writable, stamp, write_text
from segsrgan.inference.results import choose_folders, result_files
from segsrgan.memory import PeakMemory

if TYPE_CHECKING:
    from segsrgan.inference.predictor import Prepared

logger = logging.getLogger(__name__)

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"
COLUMNS = ("image", "patch", "step", "result", "seconds", "peak_memory_MB", "folder", "detail")


@dataclass(frozen=True)
class Job:
    """What to compute.

    Attributes:
        images: absolute paths, each once.
        pairs: (patch, step) pairs in voxels, (None, None) for the whole image.
        result_name: the result folder is named `Result_with_<result_name>`.
        new_resolution: voxel size of the results in mm.
        overwrite: whether finished results are computed again.
        series: UID of the DICOM series to take from folders with several.
        settings: how the results are made, kept beside them (JSON values).
    """

    images: tuple[Path, ...]
    pairs: tuple[tuple[int | None, int | None], ...]
    result_name: str
    new_resolution: tuple[float, float, float] = (0.5, 0.5, 0.5)
    overwrite: bool = False
    series: str | None = None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of one image at one patch and step.

    Attributes:
        image: the image's path.
        patch: patch size in voxels, None for the whole image.
        step: voxels between patches, None for the whole image.
        result: `"finished"`, `"skipped"` (was there already) or `"failed"`.
        folder: the result folder.
        seconds: time taken to compute and write; reading and interpolating count for an image's
            first pair. Images overlap, so that the sum may exceed the time of the job.
        peak_bytes: largest resident memory of the process meanwhile.
        detail: the cause of a failure.
    """

    image: Path
    patch: int | None
    step: int | None
    result: str
    folder: Path
    seconds: float = 0.0
    peak_bytes: int = 0
    detail: str = ""


def run_job(job, make_predictor, progress=None, compute=None):
    """Runs a job: images one after the other, or spread over a Dask cluster.

    What can be seen to fail without reading an image is reported first. The predictor is made
    once, and only if there is something to compute.

    Args:
        job: a `Job`.
        make_predictor: returns a `Predictor`; what it raises ends the job.
        progress: called as `progress(label, patches done, patches in all)`.
        compute: called as `compute(job, waiting, make_predictor, progress)`, such as
            `segsrgan.inference.dask_cluster.run_on_cluster`; this process computes when None.

    Yields:
        An `Outcome` for each image and pair.

    Raises:
        UserError: if the result folder's name is invalid, or the cluster cannot be used.
    """
    waiting = []
    for results in choose_folders(job.images, job.result_name):
        pairs = []
        for pair in job.pairs:
            if job.overwrite or not results.is_finished(pair):
                pairs.append(pair)
            else:
                _warn_of_differences(results, pair, job.settings)
                yield _outcome(results, pair, SKIPPED)
        if not pairs:
            continue
        try:
            _check_readable(results.image)
            check_writable(results.folder)
        except (ValueError, OSError) as error:
            yield from failures(results, pairs, error)
        else:
            waiting.append((results, pairs))
    if waiting:
        progress = progress or (lambda label, done, total: None)
        yield from (compute or run_here)(job, waiting, make_predictor, progress)


def run_here(job, waiting, make_predictor, progress):
    """Computes images and writes their results, in order.

    Whatever ends it, results appear whole or not at all.

    Args:
        job: a `Job`.
        waiting: a list of (`ImageResults`, list of (patch, step) pairs).
        make_predictor: returns a `Predictor`.
        progress: called as `progress(label, patches done, patches in all)`.

    Yields:
        An `Outcome` for each image and pair.
    """
    yield from _Pipeline(job, make_predictor(), progress).run(waiting)


def failures(results, pairs, error, seconds=0.0):
    """Logs the error of an image, once, and returns an `Outcome` for each of its pairs."""
    image = results.image
    detail = one_line(error).removeprefix(f"{image}: ").removeprefix(f"{image} ")
    logger.error("%s: %s", image, detail)
    logger.debug("%s", image, exc_info=error)
    times = [seconds] + [0.0] * len(pairs)
    return [
        _outcome(results, pair, FAILED, seconds=time, detail=detail)
        for pair, time in zip(pairs, times, strict=False)
    ]


def format_table(outcomes):
    """The outcomes as lines of aligned columns.

    Args:
        outcomes: a list of `Outcome`.

    Returns:
        A str of several lines: image, patch, step, result, seconds, peak memory.
    """
    rows = [[column.replace("_", " ") for column in COLUMNS[:6]]]
    for outcome in outcomes:
        image, *cells = _row(outcome)[:6]
        rows.append([image if len(image) <= 50 else f"...{image[-47:]}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


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
        return _write_summary(csv_path.absolute().parent, csv_path.stem, text.getvalue())
    except OSError:
        return _write_summary(Path.cwd(), csv_path.stem, text.getvalue())


def _write_summary(folder, stem, text):
    """Writes into the first file that does not exist or is a summary of ours."""
    for number in count():
        path = folder / f"{stem}_summary{f'_{number}' if number else ''}.csv"
        if not os.path.lexists(path) or _is_summary(path):
            write_text(path, text)
            return path


def _is_summary(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(1000).rstrip() == ",".join(COLUMNS)
    except OSError:
        return False


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


def _outcome(results, pair, result, **rest):
    return Outcome(results.image, *pair, result, results.folder / results.label(pair), **rest)


def _check_readable(image):
    try:
        os.stat(image)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "no such file or folder; relative paths start from the CSV's folder or --debut_path"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be opened ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"is not a path ({error}); correct the CSV file") from error


def _warn_of_differences(results, pair, settings):
    """Says if finished results are not those that would be made now."""
    label = results.label(pair)
    if results.has_changed(pair):
        logger.warning(
            "%s: has changed since the results of %s were made, which are kept; --overwrite "
            "replaces them",
            results.image,
            label,
        )
    made = results.settings(pair) or {}
    changed = sorted(key for key in settings if key in made and made[key] != settings[key])
    if changed:
        logger.warning(
            "%s: the results of %s are kept, but were made with other settings (%s); "
            "--overwrite replaces them",
            results.image,
            label,
            ", ".join(f"{key} {made[key]}" for key in changed),
        )


@dataclass
class _Read:
    """An image ready for the network.

    Attributes:
        prepared: the image.
        stamp: of its files before they were read, see `segsrgan.files.stamp`.
        seconds: that it took, until they are counted.
        peak_bytes: largest resident memory meanwhile.
    """

    prepared: Prepared
    stamp: list | None
    seconds: float
    peak_bytes: int


class _Pipeline:
    """Reads, computes and writes; see the module's text."""

    def __init__(self, job, predictor, progress):
        self._job = job
        self._predictor = predictor
        self._progress = progress
        self._ahead = None
        self._writing = None

    def run(self, waiting):
        try:
            for (results, pairs), following in zip(waiting, [*waiting[1:], None], strict=True):
                yield from self._run_image(results, pairs, following)
            yield from self._written()
        except KeyboardInterrupt:
            # What is whole is reported; reading is abandoned, it leaves nothing.
            yield from self._written()
            raise
        finally:
            if self._writing is not None:
                self._writing.wait()

    def _run_image(self, results, pairs, following):
        start = time.perf_counter()
        try:
            read = yield from self._take(results, pairs)
            self._read_ahead(following)
            results = results.claim()
        except Exception as error:
            self._read_ahead(following)
            yield from self._written()
            yield from failures(results, pairs, error, time.perf_counter() - start)
            return
        for pair in pairs:
            yield from self._run_pair(results, pair, read)

    def _run_pair(self, results, pair, read):
        start = time.perf_counter()
        try:
            prediction, peak = yield from self._compute(results, pair, read.prepared)
        except Exception as error:
            yield from self._written()
            yield from failures(results, [pair], error, time.perf_counter() - start)
            return
        seconds = read.seconds + time.perf_counter() - start
        peak = max(peak, read.peak_bytes)
        yield from self._written()
        self._writing = _Task(self._write, prediction, results, pair, read.stamp, seconds, peak)
        read.seconds = 0.0

    def _take(self, results, pairs):
        """The image that was read ahead, else read now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            try:
                return ahead.result()
            except (MemoryShortage, MemoryError):
                yield from self._written()
        return self._read(results, pairs)

    def _read_ahead(self, following):
        if following is not None and self._ahead is None:
            self._ahead = _Task(self._read, *following, daemon=True)

    def _read(self, results, pairs):
        start = time.perf_counter()
        smallest = min((patch for patch, _ in pairs if patch is not None), default=None)
        # First, so that an image replaced from now on counts as changed.
        before = stamp(results.image)
        with PeakMemory() as memory:
            prepared = self._predictor.prepare(
                results.image, self._job.new_resolution, self._job.series, smallest
            )
        return _Read(prepared, before, time.perf_counter() - start, memory.bytes)

    def _compute(self, results, pair, prepared):
        """The prediction and the peak memory; where memory is short, with nothing beside it."""
        try:
            return self._predict(results, pair, prepared)
        except (MemoryShortage, MemoryError):
            if self._writing is None and self._ahead is None:
                raise
        yield from self._written()
        if self._ahead is not None:
            self._ahead.wait()
            self._ahead = None
        return self._predict(results, pair, prepared)

    def _predict(self, results, pair, prepared):
        label = f"{results.image.name} {results.label(pair)}"
        with PeakMemory() as memory:
            prediction = self._predictor.predict_prepared(
                prepared, *pair, progress=lambda done, total: self._progress(label, done, total)
            )
        return prediction, memory.bytes

    def _write(self, prediction, results, pair, before, seconds, peak):
        start = time.perf_counter()
        try:
            self._write_files(prediction, results, pair, before)
        except Exception as error:
            return failures(results, [pair], error, seconds + time.perf_counter() - start)
        seconds += time.perf_counter() - start
        return [_outcome(results, pair, FINISHED, seconds=seconds, peak_bytes=peak)]

    def _write_files(self, prediction, results, pair, before):
        from segsrgan.volumes.writing import write_volume

        entry = {
            "inputs": {results.image.name: before},
            "settings": self._job.settings,
            "engine": self._predictor.engine.name,
            "precision": self._predictor.engine.precision,
        }
        prefixes = result_files()
        with results.replacing(pair, entry) as path_of:
            for name, volume in prediction.volumes.items():
                write_volume(volume, path_of(prefixes[name]))

    def _written(self):
        """The outcome of what is being written, once it is."""
        task, self._writing = self._writing, None
        if task is not None:
            try:
                yield from task.result()
            except BaseException:
                self._writing = task  # interrupted while waiting for it
                raise


class _Task:
    """A call in a thread of its own; one that is a daemon ends with the program."""

    def __init__(self, function, *arguments, daemon=False):
        self._future = Future()
        thread = threading.Thread(target=self._run, args=(function, arguments), daemon=daemon)
        thread.start()

    def _run(self, function, arguments):
        try:
            self._future.set_result(function(*arguments))
        except BaseException as error:  # whatever it is, the one who waits has to know
            self._future.set_exception(error)

    def result(self):
        return self._future.result()

    def wait(self):
        self._future.exception()
