# SPDX-License-Identifier: MIT
"""The files of a case as arrays on one grid."""

import logging
from dataclasses import replace

import numpy as np

from segsrgan.errors import UserError
from segsrgan.evaluation.alignment import align, interpolate, overlap
from segsrgan.evaluation.labels import are_labels, in_class
from segsrgan.evaluation.metrics import ImagePair, LabelPair
from segsrgan.volumes import read_volume

logger = logging.getLogger(__name__)

_COVERED = 0.99


def load_labels(case, settings):
    """The segmentations of a case.

    Args:
        case: a `Case` with both labels.
        settings: the `Settings`.

    Returns:
        `(pair, notes)`: a `LabelPair` and a list of str.

    Raises:
        ValueError: if a file is unreadable, is no segmentation, or lies on another grid.
    """
    paths, values = (case.label, case.reference_label), settings.predicted_labels
    volume = _read(paths[1])
    grid = volume.grid
    labels = are_labels(volume.array, paths[1], settings.labels)
    reference = in_class(volume.array, labels, settings.labels, settings.threshold, paths[1])
    volume = _read(paths[0])
    labels = are_labels(volume.array, paths[0], values)
    array, how = align(volume, grid, 0 if labels else 1, settings.resample, *paths)
    prediction = in_class(array, labels, values, settings.threshold, paths[0])
    notes = [f"label {how}"] if how else []
    notes += [] if labels else ["label from probabilities"]
    notes += [] if prediction.any() else ["prediction empty"]
    notes += [] if reference.any() else ["reference empty"]
    return LabelPair(prediction, reference, grid.spacing), notes


def load_images(case, settings):
    """The images of a case.

    Args:
        case: a `Case` with both images.
        settings: the `Settings`.

    Returns:
        `(pair, grid, region, notes)`: an `ImagePair`; its `Grid`, onto which a baseline comes;
        what the region is, "mask" or "reference not 0"; a list of str.

    Raises:
        ValueError: if a file is unreadable, lies on another grid, or the region is empty.
    """
    reference = _read(case.reference_image)
    image, how = align(
        _read(case.image), reference.grid, 1, settings.resample, case.image, case.reference_image
    )
    notes = [f"image {how}"] if how else []
    if case.mask is None:
        region, name = reference.array != 0, "reference not 0"
    else:
        mask, how = align(
            _read(case.mask), reference.grid, 0, settings.resample, case.mask, case.reference_image
        )
        region, name = mask != 0, "mask"
        notes += [f"mask {how}"] if how else []
    if not region.any():
        path = case.mask or case.reference_image
        raise UserError(f"{path}: every voxel is 0, so there is nothing to compare in")
    return ImagePair(image, reference.array, region), reference.grid, name, notes


def load_baseline(case, pair, grid):
    """The case's image of low resolution, interpolated by cubic splines onto the reference.

    Args:
        case: a `Case` with a baseline.
        pair: its `ImagePair`.
        grid: of the pair.

    Returns:
        An `ImagePair` of the baseline.

    Raises:
        ValueError: if it is unreadable, or lies nowhere over the reference.
    """
    volume = _read(case.baseline)
    inside = overlap(volume, grid, case.baseline, case.reference_image)
    covered = np.count_nonzero(inside & pair.region) / np.count_nonzero(pair.region)
    if covered < _COVERED:
        logger.warning(
            "%s: covers only %.0f %% of the voxels compared; beyond, its edge is repeated",
            case.baseline,
            100 * covered,
        )
    return replace(pair, image=interpolate(volume, grid, 3))


def _read(path):
    """A volume whose voxels are all numbers."""
    volume = read_volume(path)
    if not np.isfinite(volume.array).all():
        raise UserError(
            f"{path}: has voxels that are NaN or infinite; expected numbers, repair the file"
        )
    return volume
