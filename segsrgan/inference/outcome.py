# SPDX-License-Identifier: MIT
"""What became of the images of a job."""

import logging
from dataclasses import dataclass
from pathlib import Path

from segsrgan.errors import one_line

logger = logging.getLogger(__name__)

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"


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


def outcome(place, pair, result, **rest):
    """The `Outcome` of a `Place` and a (patch, step) pair."""
    return Outcome(place.image, *pair, result, place.folder / place.label(pair), **rest)


def failures(place, pairs, error, seconds=0.0):
    """Logs the error of an image, once, and returns an `Outcome` for each of its pairs."""
    detail = _cause(error, place.image)
    logger.error("%s: %s", place.image, detail)
    logger.debug("%s", place.image, exc_info=error)
    times = [seconds] + [0.0] * len(pairs)
    return [
        outcome(place, pair, FAILED, seconds=time, detail=detail)
        for pair, time in zip(pairs, times, strict=False)
    ]


def _cause(error, image):
    """The error in one line, without the image's path that stands before it."""
    text = one_line(error)
    return text.removeprefix(f"{image}: ").removeprefix(f"{image} ")
