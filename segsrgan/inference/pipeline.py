# SPDX-License-Identifier: MIT
"""Images through a predictor: one is computed, the next is read, the last one is written.

At most one image is read ahead and one result is being written; both are counted as memory that
is taken. Reading ahead that does not fit is done again in its turn.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segsrgan.errors import MemoryShortage
from segsrgan.inference.outcome import FINISHED, failures, outcome
from segsrgan.memory import PeakMemory
from segsrgan.volumes import writing

if TYPE_CHECKING:
    from segsrgan.inference.predictor import Prepared


def run_images(job, waiting, predictor, progress):
    """Computes images and writes their results, in order.

    Whatever ends it, results appear whole or not at all.

    Args:
        job: a `Job`.
        waiting: a list of (`Place`, list of (patch, step) pairs).
        predictor: a `Predictor`.
        progress: called as `progress(label, patches done, patches in all)`.

    Yields:
        An `Outcome` for each image and pair.
    """
    yield from _Pipeline(job, predictor, progress).run(waiting)


@dataclass
class _Read:
    prepared: Prepared
    seconds: float
    peak_bytes: int


class _Pipeline:
    def __init__(self, job, predictor, progress):
        self._job = job
        self._predictor = predictor
        self._progress = progress
        self._ahead = None
        self._writing = None

    def run(self, waiting):
        try:
            for k, (place, pairs) in enumerate(waiting):
                following = waiting[k + 1] if k + 1 < len(waiting) else None
                yield from self._run_image(place, pairs, following)
            yield from self._written()
        except KeyboardInterrupt:
            # What is whole is told; reading is abandoned, it leaves nothing.
            yield from self._written()
            raise
        finally:
            if self._writing is not None:
                self._writing.wait()

    def _run_image(self, place, pairs, following):
        start = time.perf_counter()
        try:
            read = yield from self._take(place, pairs)
            self._read_ahead(following)
            place = place.claim()
        except Exception as error:
            self._read_ahead(following)
            yield from self._written()
            yield from failures(place, pairs, error, time.perf_counter() - start)
            return
        for pair in pairs:
            start = time.perf_counter()
            try:
                prediction, peak = yield from self._compute(place, pair, read.prepared)
            except Exception as error:
                yield from self._written()
                yield from failures(place, [pair], error, time.perf_counter() - start)
                continue
            seconds = read.seconds + time.perf_counter() - start
            peak = max(peak, read.peak_bytes)
            yield from self._written()
            self._writing = _Task(self._write, prediction, place, pair, seconds, peak)
            del prediction
            read.seconds = 0.0

    def _take(self, place, pairs):
        """The image that was read ahead, else read now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            try:
                return ahead.result()
            except (MemoryShortage, MemoryError):
                yield from self._written()
        return self._read(place, pairs)

    def _read_ahead(self, following):
        if following is not None and self._ahead is None:
            self._ahead = _Task(self._read, *following, daemon=True)

    def _read(self, place, pairs):
        start = time.perf_counter()
        smallest = min((patch for patch, _ in pairs if patch is not None), default=None)
        with PeakMemory() as memory:
            prepared = self._predictor.prepare(
                place.image, self._job.new_resolution, self._job.series, smallest
            )
        return _Read(prepared, time.perf_counter() - start, memory.bytes)

    def _compute(self, place, pair, prepared):
        """The prediction and the peak memory; where memory is short, with nothing beside it."""
        try:
            return self._predict(place, pair, prepared)
        except (MemoryShortage, MemoryError):
            if self._writing is None and self._ahead is None:
                raise
        yield from self._written()
        if self._ahead is not None:
            self._ahead.wait()
            self._ahead = None
        return self._predict(place, pair, prepared)

    def _predict(self, place, pair, prepared):
        label = f"{place.image.name} {place.label(pair)}"
        with PeakMemory() as memory:
            prediction = self._predictor.predict_prepared(
                prepared, *pair, progress=lambda done, total: self._progress(label, done, total)
            )
        return prediction, memory.bytes

    def _write(self, prediction, place, pair, seconds, peak):
        start = time.perf_counter()
        try:
            _write(prediction, place, pair, self._job.settings)
        except Exception as error:
            return failures(place, [pair], error, seconds + time.perf_counter() - start)
        seconds += time.perf_counter() - start
        return [outcome(place, pair, FINISHED, seconds=seconds, peak_bytes=peak)]

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


def _write(prediction, place, pair, settings):
    volumes = {
        "Mask": prediction.mask,
        "Cortex_mask": prediction.cortex_mask,
        "SR": prediction.sr,
        "Cortex": prediction.cortex,
    }
    with place.replacing(pair, settings, mask=prediction.mask is not None) as files:
        for kind, path in files.items():
            writing.write_volume(volumes[kind], path)
