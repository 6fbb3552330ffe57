# SPDX-License-Identifier: MIT
"""Many images: what is missing is computed, what fails is reported, the rest goes on.

One image is computed, the next is read, the last one is written. At most one image is read ahead
and one result is being written; both are counted as memory that is taken. Reading ahead that does
not fit is done again in its turn.
"""

import logging
import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from segsrgan.errors import MemoryShortage, UserError, one_line, printable
from segsrgan.files import PARTIAL, check_writable, stamp
from segsrgan.inference.results import (
    DICOM_FOLDER,
    ImageResults,
    is_map,
    result_files,
    versions,
)
from segsrgan.inference.summary import FAILED, FINISHED, PLANNED, SKIPPED, Outcome
from segsrgan.memory import PeakMemory
from segsrgan.networks.outputs import output_channels
from segsrgan.volumes.kinds import missing

logger = logging.getLogger(__name__)

_SAMPLE, _SAMPLE_SLICES = 64, 3.0  # edge of a patch that is timed, voxels; its slices in mm


@dataclass(frozen=True)
class Job:
    """What to compute."""

    results: tuple[ImageResults, ...]  # of each image, see `choose_folders` and `choose_names`
    pairs: tuple  # of (patch, step) in voxels, (None, None) for the whole image
    new_resolution: tuple[float, float, float] = (0.5, 0.5, 0.5)  # mm
    overwrite: bool = False  # computes finished results again
    series: str | None = None  # UID of the one to take from DICOM folders with several
    settings: dict = field(default_factory=dict)  # of the results, JSON values for the record
    command: str = ""  # that the job is done for, for the record
    output: Path | None = None  # the folder that has the results; None: the images' folders
    grid: object = None  # a `Grid` to have the results on, too, beside their own
    grid_end: str = ""  # one of `GRID_ENDS`, of their names; without a grid: the scan's
    dicom: bool = False  # whether the results are written as DICOM, too
    report: bool = False  # whether a page of the results is written, too


def run_job(job, make_predictor, progress=None, compute=None):
    """Yields an `Outcome` for each image and pair of a `Job`; `compute` makes what is missing.

    That is `run_here`, `segsrgan.inference.dask_cluster.run_on_cluster` or `plan_here`. What can be
    seen to fail without reading an image is reported first. `make_predictor` is called once, and
    only if there is something to compute; what it raises ends the job.
    `progress(label, patches done, patches in all, text)` is called, the text on the whole job.
    """
    waiting = []
    remedy = f"{'name another folder' if job.output else 'put the results elsewhere'} by --output"
    for results in job.results:
        pairs = []
        for pair in job.pairs:
            if job.overwrite or not results.is_finished(pair):
                pairs.append(pair)
            elif lacking := _lacking(results.entry(pair), job.settings):
                text = f"its results are finished, without what {lacking} asks for; --overwrite "
                yield from failures(results, [pair], UserError(text + "makes all of them anew"))
            else:
                _warn_of_differences(results, pair, job.settings)
                made = results.entry(pair)
                level, reasons = made.get("verdict") or "", tuple(made.get("reasons") or ())
                _log_verdict(results, pair, level, reasons)
                judged = {"verdict": level, "reasons": reasons}
                if job.report and not results.page(pair).exists():
                    _write_page(results, pair)
                yield _outcome(results, pair, SKIPPED, **judged)
        if not pairs:
            continue
        try:
            _check_readable(results.image)
            if job.dicom:
                from segsrgan.volumes.dicom_writing import check_dicom_source

                check_dicom_source(results.image)
            for pair in pairs:
                check_writable(results.folder / results.label(pair), remedy)
        except (ValueError, OSError) as error:
            yield from failures(results, pairs, error)
        else:
            waiting.append((results, pairs))
    if waiting:
        progress = progress or (lambda *call: None)
        yield from (compute or run_here)(job, waiting, make_predictor, progress)


def run_here(job, waiting, make_predictor, progress):
    """Yields an `Outcome` for each of these images and pairs, in order; this process computes.

    `waiting` is a list of (`ImageResults`, list of (patch, step) pairs). Whatever ends it, results
    appear whole or not at all.
    """
    try:
        yield from _Pipeline(job, make_predictor(), progress).run(waiting)
    finally:
        for results, _ in waiting:
            results.release()


def plan_here(job, waiting, make_predictor, progress):
    """Yields a planned `Outcome` for each of these images and pairs; nothing is computed for them.

    Each image is read. Its bytes are what a job would make sure of; its seconds are the network's
    alone, for all patches at the speed of one that is computed here, though constant ones cost
    next to nothing.
    """
    predictor, speed = make_predictor(), None
    for results, pairs in waiting:
        for pair in pairs:
            try:
                found = predictor.estimate(results.image, *pair, job.new_resolution, job.series)
            except Exception as error:
                yield from failures(results, [pair], error)
                continue
            speed = speed or _seconds_per_voxel(predictor)
            size = "x".join(map(str, found.grid.shape))
            spacing = "x".join(f"{edge:.3g}" for edge in found.grid.spacing)
            text = "%s: %s voxels of %s mm, patches: %d; would write %s"
            files = _planned_files(results, pair, job, predictor)
            logger.info(text, results.title(pair), size, spacing, found.patches, files)
            taken = {"seconds": found.voxels * speed, "peak_bytes": found.memory}
            yield _outcome(results, pair, PLANNED, **taken)


def _seconds_per_voxel(predictor):
    """The time of a patch, the second one, as compiling and loading are done by then."""
    from segsrgan.inference.export import sample_patch

    patch = sample_patch(_SAMPLE)
    for _ in range(2):
        start = time.perf_counter()
        predictor.engine.predict_batch(patch, _SAMPLE_SLICES)
    return (time.perf_counter() - start) / patch.size


def _planned_files(results, pair, job, predictor):
    """Folder and names of the results that a pair would have, a text."""
    settings, names = predictor.settings, result_files(output_channels(predictor.spec))
    if settings.strip == "no":
        del names["brain_mask"]
    kept = [prefix for name, prefix in names.items() if settings.maps or not is_map(name)]
    ends = dict.fromkeys(("", job.grid_end))
    files = [results.file_name(prefix + end, pair) for end in ends for prefix in kept]
    if settings.strip == "auto":
        masks = {results.file_name(names["brain_mask"] + end, pair) for end in ends}
        files = [f"{file} (of a head)" if file in masks else file for file in files]
    files += [results.file_name(DICOM_FOLDER, pair, "")] * job.dicom
    return f"{', '.join(files)} in {results.folder / results.label(pair)}"


def failures(results, pairs, error, seconds=0.0):
    """Logs the error of an image, once, and returns an `Outcome` for each of its pairs."""
    image = results.image
    name = printable(str(image))
    detail = one_line(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
    detail = PARTIAL.sub(r"\g<name>", detail)  # what could not be written, as it is known
    logger.error("%s: %s", image, detail)
    logger.debug("%s", image, exc_info=error)
    return [
        _outcome(results, pair, FAILED, seconds=seconds * (pair == pairs[0]), detail=detail)
        for pair in pairs
    ]


def _log_verdict(results, pair, level, reasons):
    """Says in one line what a result is worth; "" is the level of one that was never judged."""
    level = level or "has no verdict, as it was made by an older version; --overwrite makes one"
    why = f": {'; '.join(reasons)}" if reasons else ""
    logger.info("%s: %s%s", results.title(pair), level, why)


def _write_page(results, pair):
    """Writes the page of results, which are whole without it."""
    from segsrgan.inference.pages import write_scan_page

    try:
        write_scan_page(results, pair)
    except Exception as error:
        logger.warning("%s: has no page: %s", results.title(pair), one_line(error))


def _outcome(results, pair, result, **rest):
    return Outcome(results.image, *pair, result, results.folder / results.label(pair), **rest)


def _check_readable(image):
    try:
        os.stat(image)
    except (FileNotFoundError, NotADirectoryError):
        start = "no such file or folder; check the path, those of a CSV start from its folder"
        raise UserError(missing(image) if os.path.islink(image) else start) from None
    except OSError as error:
        raise UserError(f"cannot be opened ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"is not a path ({error}); correct the CSV file") from error


def _lacking(made, settings):
    """The flags for further files that finished results do not have, a text; "" if there are none.

    `made` is their entry in the record, `settings` are the job's.
    """
    made, usual = made.get("settings") or {}, {"grid": "hr", "dicom": False}
    asked = {name: settings.get(name, usual[name]) for name in usual}
    return " and ".join(f"--{k}" for k, v in asked.items() if v not in (usual[k], made.get(k)))


def _warn_of_differences(results, pair, settings):
    """Says if finished results are not those that would be made now."""
    title = results.title(pair)
    if results.has_changed(pair):
        text = "%s: the image has changed since its results were made, which are kept; --overwrite "
        logger.warning(text + "replaces them", title)
    made, asked = results.entry(pair).get("settings") or {}, settings | _pair_settings(pair)
    changed = [f"{k} {made[k]}" for k in sorted(asked) if k in made and made[k] != asked[k]]
    if changed:
        text = "%s: its results are kept, but were made with other settings (%s); --overwrite "
        logger.warning(text + "replaces them", title, ", ".join(changed))


def _pair_settings(pair):
    return dict(zip(("patch", "step"), pair, strict=True))


class _Pipeline:
    """Reads, computes and writes; see the module's text."""

    def __init__(self, job, predictor, progress):
        self._job = job
        self._predictor = predictor
        self._progress = progress
        self._ahead = None
        self._writing = None
        self._pairs = self._left = self._computed = 0  # of patch and step, over all images
        self._start = 0.0

    def run(self, waiting):
        self._left = self._pairs = sum(len(pairs) for _, pairs in waiting)
        self._start = time.monotonic()
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
                self._writing.exception()

    def _run_image(self, results, pairs, following):
        start = time.perf_counter()
        try:
            seconds, *read = yield from self._take(results, pairs)
            results = results.claim()
        except Exception as error:
            self._read_ahead(following)
            self._left -= len(pairs)
            yield from self._written()
            yield from failures(results, pairs, error, time.perf_counter() - start)
            return
        self._read_ahead(following)
        for pair in pairs:
            yield from self._run_pair(results, pair, seconds, *read)
            seconds = 0.0

    def _run_pair(self, results, pair, seconds, before, prepared, peak):
        start = time.perf_counter() - seconds
        try:
            with PeakMemory() as memory:
                prediction = yield from self._compute(results, pair, prepared)
            self._computed += 1
        except Exception as error:
            yield from self._written()
            yield from failures(results, [pair], error, time.perf_counter() - start)
            return
        finally:
            self._left -= 1
        seconds, peak = time.perf_counter() - start, max(peak, memory.bytes)
        yield from self._written()
        self._writing = _start(self._write, prediction, results, pair, before, seconds, peak)

    def _take(self, results, pairs):
        """What was read ahead, else what is read now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            try:
                return ahead.result()
            except (MemoryShortage, MemoryError):
                yield from self._written()
        return self._read(results, pairs)

    def _read_ahead(self, following):
        if following is not None:
            self._ahead = _start(self._read, *following, daemon=True)

    def _read(self, results, pairs):
        """Seconds, the stamp of the image's files before, the prepared image, the peak memory."""
        start = time.perf_counter()
        smallest = min((patch for patch, _ in pairs if patch is not None), default=None)
        # First, so that an image replaced from now on counts as changed.
        before = stamp(results.image)
        with PeakMemory() as memory:
            prepared = self._predictor.prepare(
                results.image, self._job.new_resolution, self._job.series, smallest
            )
        return time.perf_counter() - start, before, prepared, memory.bytes

    def _compute(self, results, pair, prepared):
        """The prediction; where memory is short, with nothing beside it."""
        try:
            return self._predict(results, pair, prepared)
        except (MemoryShortage, MemoryError):
            if self._writing is None and self._ahead is None:
                raise
        yield from self._written()
        if self._ahead is not None:
            self._ahead.exception()
            self._ahead = None
        return self._predict(results, pair, prepared)

    def _predict(self, results, pair, prepared):
        label = f"{results.image.name} {results.label(pair)}".rstrip()

        def progress(done, total):
            self._progress(label, done, total, self._time_left(done / total))

        return self._predictor.predict_prepared(prepared, *pair, progress=progress)

    def _time_left(self, part):
        """How far a job of several pairs is, `part` of the current one done, and its time left."""
        if self._pairs == 1:
            return ""
        text, done = f"{self._pairs - self._left + 1} of {self._pairs}", self._computed + part
        if done:
            seconds = (time.monotonic() - self._start) * (self._left - part) / done
            text += f", {timedelta(seconds=round(seconds))} left in all"
        return text

    def _write(self, prediction, results, pair, before, seconds, peak):
        start = time.perf_counter() - seconds
        level, reasons = prediction.verdict
        entry = {
            "inputs": {results.image.name: before},
            "settings": self._job.settings | _pair_settings(pair),
            "command": self._job.command,
            "versions": versions(self._predictor.engine.name),
            "engine": self._predictor.engine.name,
            "precision": self._predictor.engine.precision,
            "measures": prediction.measures,
            "verdict": level,
            "reasons": list(reasons),
        }
        try:
            with results.replacing(pair, entry) as path_of:
                prediction.write(path_of)
                if self._job.grid_end:
                    prediction.on_grid(self._job.grid).write(path_of, self._job.grid_end)
                results.describe(path_of)
                if self._job.dicom:
                    from segsrgan.volumes.dicom_writing import write_dicom

                    folder = path_of(DICOM_FOLDER, "")
                    folder.mkdir()
                    write_dicom(prediction.volumes, prediction.origin.images, folder)
        except Exception as error:
            return failures(results, [pair], error, time.perf_counter() - start)
        _log_verdict(results, pair, level, reasons)
        if self._job.report:
            _write_page(results, pair)
        found = {"peak_bytes": peak, "verdict": level, "reasons": tuple(reasons)}
        seconds = time.perf_counter() - start
        return [_outcome(results, pair, FINISHED, seconds=seconds, **found)]

    def _written(self):
        """The outcome of what is being written, once it is."""
        if self._writing is not None:
            outcomes = self._writing.result()
            self._writing = None
            yield from outcomes


def _start(function, *arguments, daemon=False):
    """The `Future` of a call in a thread of its own; a daemon ends with the program."""
    future = Future()

    def run():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # whatever it is, the one who waits has to know
            future.set_exception(error)

    threading.Thread(target=run, daemon=daemon).start()
    return future
