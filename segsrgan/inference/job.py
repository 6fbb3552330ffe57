# SPDX-License-Identifier: MIT
"""Many images: what is missing is computed, what fails is reported, the rest goes on."""

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from segsrgan.inference.errors import InferenceError, one_line
from segsrgan.inference.places import choose_places
from segsrgan.inference.resources import PeakMemory

logger = logging.getLogger(__name__)

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"


@dataclass(frozen=True)
class Job:
    """What to compute.

    Attributes:
        images: absolute paths, each once.
        pairs: (patch, step) pairs, (None, None) for the whole image.
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
        seconds: time taken; reading and interpolating count for an image's first pair.
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


def run_job(job, make_predictor, progress=None):
    """Runs a job, image by image.

    What can be seen to fail without reading an image is reported first. The predictor is made
    once, and only if there is something to compute.

    Args:
        job: a `Job`.
        make_predictor: returns a `Predictor`; what it raises ends the job.
        progress: called as `progress(label, patches done, patches in all)`.

    Yields:
        An `Outcome` for each image and pair.

    Raises:
        InferenceError: if the result folder's name is invalid.
    """
    waiting = []
    for place in choose_places(job.images, job.result_name):
        pairs = []
        for pair in job.pairs:
            if job.overwrite or not place.is_finished(pair):
                pairs.append(pair)
            else:
                _compare_settings(place, pair, job.settings)
                yield _outcome(place, pair, SKIPPED)
        if not pairs:
            continue
        try:
            _check_place(place)
        except (ValueError, OSError) as error:
            yield from _failures(place, pairs, error)
        else:
            waiting.append((place, pairs))
    predictor = make_predictor() if waiting else None
    for place, pairs in waiting:
        yield from _run_image(job, place, pairs, predictor, progress or _silent)


def _run_image(job, place, pairs, predictor, progress):
    start = time.perf_counter()
    smallest = min((patch for patch, _ in pairs if patch is not None), default=None)
    try:
        with PeakMemory() as memory:
            prepared = predictor.prepare(place.image, job.new_resolution, job.series, smallest)
            place = place.claim()
    except Exception as error:
        yield from _failures(place, pairs, error, time.perf_counter() - start)
        return
    for pair in pairs:
        yield _run_pair(job, place, pair, predictor, prepared, progress, start, memory.bytes)
        start = time.perf_counter()


def _run_pair(job, place, pair, predictor, prepared, progress, start, earlier_peak):
    label = f"{place.image.name} {place.label(pair)}"
    try:
        with PeakMemory() as memory:
            prediction = predictor.predict_prepared(
                prepared, *pair, progress=lambda done, total: progress(label, done, total)
            )
            _write(prediction, place, pair, job.settings)
    except Exception as error:
        return next(_failures(place, [pair], error, time.perf_counter() - start))
    return _outcome(
        place,
        pair,
        FINISHED,
        seconds=time.perf_counter() - start,
        peak_bytes=max(memory.bytes, earlier_peak),
    )


def _write(prediction, place, pair, settings):
    from segsrgan.volumes.writing import write_volume

    volumes = {
        "Mask": prediction.mask,
        "Cortex_mask": prediction.cortex_mask,
        "SR": prediction.sr,
        "Cortex": prediction.cortex,
    }
    with place.replacing(pair, settings, mask=prediction.mask is not None) as files:
        for kind, path in files.items():
            write_volume(volumes[kind], path)


def _check_place(place):
    try:
        os.stat(place.image)
    except (FileNotFoundError, NotADirectoryError):
        raise InferenceError(
            "no such file or folder; relative paths start from the CSV's folder or --debut_path"
        ) from None
    except OSError as error:
        raise InferenceError(f"cannot be opened ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InferenceError(f"is no path ({error}); correct the CSV file") from error
    place.check_writable()


def _compare_settings(place, pair, settings):
    made = place.settings(pair)
    if made is None:
        return
    changed = sorted(key for key in settings if made.get(key) != settings[key])
    if changed:
        logger.warning(
            "%s: the results of %s are kept, but were made with other settings (%s); "
            "--overwrite replaces them",
            place.image,
            place.label(pair),
            ", ".join(f"{key} {made.get(key)}" for key in changed),
        )


def _failures(place, pairs, error, seconds=0.0):
    detail = _cause(error, place.image)
    logger.error("%s: %s", place.image, detail)
    logger.debug("%s", place.image, exc_info=error)
    for pair in pairs:
        yield _outcome(place, pair, FAILED, seconds=seconds, detail=detail)
        seconds = 0.0


def _cause(error, image):
    """The error in one line, without the image's path that stands before it."""
    text = one_line(error)
    return text.removeprefix(f"{image}: ").removeprefix(f"{image} ")


def _outcome(place, pair, result, **rest):
    return Outcome(place.image, *pair, result, place.folder / place.label(pair), **rest)


def _silent(label, done, total):
    """No progress is shown."""
