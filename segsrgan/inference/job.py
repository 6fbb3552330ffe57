# SPDX-License-Identifier: MIT
"""Many images: what is missing is computed, what fails is reported, the rest goes on."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.inference.outcome import SKIPPED, failures, outcome
from segsrgan.inference.places import choose_places

logger = logging.getLogger(__name__)


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


def run_job(job, make_predictor, progress=None, dask=None):
    """Runs a job: images one after the other, or spread over a Dask cluster.

    What can be seen to fail without reading an image is reported first. The predictor is made
    once, and only if there is something to compute.

    Args:
        job: a `Job`.
        make_predictor: returns a `Predictor`; what it raises ends the job. With Dask, a
            `segsrgan.inference.cluster.Recipe`.
        progress: called as `progress(label, patches done, patches in all)`; with Dask the images
            are counted.
        dask: a scheduler, see `segsrgan.inference.cluster`; this process computes when None.

    Yields:
        An `Outcome` for each image and pair.

    Raises:
        UserError: if the result folder's name is invalid, or the cluster cannot be used.
    """
    waiting = []
    for place in choose_places(job.images, job.result_name):
        pairs = []
        for pair in job.pairs:
            if job.overwrite or not place.is_finished(pair):
                pairs.append(pair)
            else:
                _compare(place, pair, job.settings)
                yield outcome(place, pair, SKIPPED)
        if not pairs:
            continue
        try:
            _check_place(place)
        except (ValueError, OSError) as error:
            yield from failures(place, pairs, error)
        else:
            waiting.append((place, pairs))
    if waiting and dask is not None:
        from segsrgan.inference.cluster import run_on_cluster

        yield from run_on_cluster(job, waiting, make_predictor, dask, progress or _silent)
    elif waiting:
        from segsrgan.inference.pipeline import run_images

        yield from run_images(job, waiting, make_predictor(), progress or _silent)


def _check_place(place):
    try:
        os.stat(place.image)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            "no such file or folder; relative paths start from the CSV's folder or --debut_path"
        ) from None
    except OSError as error:
        raise UserError(f"cannot be opened ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"is no path ({error}); correct the CSV file") from error
    place.check_writable()


def _compare(place, pair, settings):
    """Says if finished results are not those that would be made now."""
    if place.has_changed(pair):
        logger.warning(
            "%s: has changed since the results of %s were made, which are kept; --overwrite "
            "replaces them",
            place.image,
            place.label(pair),
        )
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


def _silent(label, done, total):
    """No progress is shown."""
