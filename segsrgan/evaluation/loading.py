# SPDX-License-Identifier: MIT
"""The files of a case as arrays on the grid of the reference."""

import logging
from dataclasses import replace

import numpy as np

from segsrgan.errors import UserError
from segsrgan.evaluation.metrics import ImagePair, LabelPair
from segsrgan.volumes import Volume, read_volume, resample_to

logger = logging.getLogger(__name__)

# Fraction of the smallest voxel that corners may lie apart: headers round, and nothing shows it.
_TOLERANCE = 0.01
_EDGE = 1e-3  # voxels, for the same reason
_PARALLEL = 1e-6
_COVERED = 0.99
_ROUNDING = 1e-3  # of label values and of 0 and 1: scaling and interpolation round
_SPARSE = (slice(None, None, 3),) * 3  # enough voxels to see how many values there are
_MANY = 300  # more than the atlases in use have


def load_labels(case, settings):
    """The segmentations of a case.

    Args:
        case: a `Case` with both labels.
        settings: the `EvaluationSettings`.

    Returns:
        `(pair, notes)`: a `LabelPair` and a list of str.

    Raises:
        ValueError: if a file is unreadable, is not a segmentation, or lies on another grid.
    """
    paths, threshold = (case.label, case.reference_label), settings.threshold
    volume = _read(paths[1])
    grid, values = volume.grid, settings.labels
    labels = are_labels(volume.array, paths[1], values)
    reference = in_class(volume.array, labels, values, threshold, paths[1])
    volume, values = _read(paths[0]), settings.predicted_labels
    labels = are_labels(volume.array, paths[0], values)
    array, how = align(volume, grid, 0 if labels else 1, settings.resample, *paths)
    prediction = in_class(array, labels, values, threshold, paths[0])
    notes = [f"label {how}"] if how else []
    notes += [] if labels else ["label from probabilities"]
    notes += [] if prediction.any() else ["prediction empty"]
    notes += [] if reference.any() else ["reference empty"]
    return LabelPair(prediction, reference, grid.spacing), notes


def load_images(case, settings):
    """The images of a case.

    Args:
        case: a `Case` with both images.
        settings: the `EvaluationSettings`.

    Returns:
        `(pair, grid, region, notes)`: an `ImagePair`; its `Grid`, onto which a baseline comes;
        what the region is, "mask" or "reference not 0"; a list of str.

    Raises:
        ValueError: if a file is unreadable, lies on another grid, or the region is empty.
    """
    reference = _read(case.reference_image)
    notes = []

    def aligned(role, order):
        path = getattr(case, role)
        array, how = align(
            _read(path), reference.grid, order, settings.resample, path, case.reference_image
        )
        notes.extend([f"{role} {how}"] if how else [])
        return array

    image = aligned("image", 1)
    region = (reference.array if case.mask is None else aligned("mask", 0)) != 0
    if not region.any():
        path = case.mask or case.reference_image
        raise UserError(f"{path}: every voxel is 0, so there is nothing to compare in")
    name = "mask" if case.mask else "reference not 0"
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


def are_labels(array, path, values=None):
    """Whether an array holds label values, which are whole numbers, and not probabilities.

    Args:
        array: (x, y, z) float32, finite.
        path: of the file, for messages.
        values: the label values asked for, or None.

    Raises:
        UserError: if they are neither, or probabilities where label values are asked for.
    """
    # Plane by plane: no copies as large as the image.
    if all(np.all(np.abs(plane - np.rint(plane)) <= _ROUNDING) for plane in array):
        return True
    low, high = float(array.min()), float(array.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise UserError(
            f"{path}: expected labels (whole numbers) or probabilities (0 to 1), received "
            f"fractions between {low:.4g} and {high:.4g}; check that this is the segmentation, "
            "and that it was not interpolated"
        )
    if values is not None:
        raise UserError(
            f"{path}: expected the labels {_listed(values)}, received probabilities (fractions "
            "between 0 and 1); choose no labels there, --threshold makes the class"
        )
    return False


def in_class(array, labels, values, threshold, path):
    """The voxels of the class.

    Args:
        array: (x, y, z) float32.
        labels: whether it holds label values; else probabilities.
        values: label values that make the class, None: every one but 0.
        threshold: probability from which a voxel belongs to it.
        path: of the file, for the warning where none of `values` occurs.

    Returns:
        A bool array (x, y, z).
    """
    result = np.empty(array.shape, bool)
    for inside, plane in zip(result, array, strict=True):
        if not labels:
            inside[...] = plane >= threshold
        elif values is None:
            inside[...] = np.rint(plane) != 0
        else:
            inside[...] = np.isin(np.rint(plane), values)
    if labels and values is None and len(np.unique(np.rint(array[_SPARSE]))) > _MANY:
        logger.warning(
            "%s: has more than %d values, as an image has; expected a segmentation", path, _MANY
        )
    if values is not None and not result.any():
        found = _listed(np.unique(np.rint(array)))
        logger.warning("%s: has none of the labels %s, only %s", path, _listed(values), found)
    return result


def align(volume, grid, order, resample, path, reference):
    """Brings a volume onto the grid of its reference.

    A grid with the same voxels whose axes are stored in another order or direction is the same
    grid: it is reordered, which changes no value.

    Args:
        volume: what is to be compared.
        grid: the reference's.
        order: of the spline that resamples: 0 (nearest neighbour) for labels, 1 (linear).
        resample: whether another grid is resampled; what lies beyond the volume becomes 0.
        path: of the volume, for messages.
        reference: path of the reference, for messages.

    Returns:
        `(array, how)`: (x, y, z) on the grid, and "", "reordered" or "resampled".

    Raises:
        UserError: if the grids differ and `resample` is False, or nowhere overlap.
    """
    tolerance = _TOLERANCE * min(grid.spacing)
    if volume.grid.is_close(grid, tolerance):
        return volume.array, ""
    reordered = _reordered(volume, grid)
    if reordered is not None and reordered.grid.is_close(grid, tolerance):
        return reordered.array, "reordered"
    if not resample:
        raise UserError(
            f"{path}: expected the reference's grid, {_described(grid)} ({reference}), received "
            f"{_described(volume.grid)}{_corner_distance(volume.grid, grid)}; --resample puts it "
            "on that grid"
        )
    inside = overlap(volume, grid, path, reference)
    return np.where(inside, interpolate(volume, grid, order), 0), "resampled"


def interpolate(volume, grid, order):
    """The values of a volume on another grid, at any angle to it.

    Args:
        volume: the source.
        grid: the target.
        order: of the spline: 0 (nearest neighbour), 1 (linear) or 3 (cubic).

    Returns:
        An array (x, y, z), float32; beyond the source the value at its edge is repeated.
    """
    cosines = np.abs(volume.direction.T @ grid.direction).max(axis=0)
    if np.all(cosines > 1 - _PARALLEL):
        return resample_to(volume, grid, spline_order=order).array
    kind = {0: "NearestNeighbor", 1: "Linear", 3: "Spline"}[order]
    return resample_to(volume, grid, "sitk", kind).array


def overlap(volume, grid, path, reference):
    """Which voxel centres of a grid lie in the field of view of a volume.

    Args:
        volume: its field of view reaches half a voxel beyond its outermost centres.
        grid: the reference's.
        path: of the volume, for messages.
        reference: path of the reference, for messages.

    Returns:
        A bool array (x, y, z) of the grid's shape.

    Raises:
        UserError: if none does.
    """
    inside = np.empty(grid.shape, bool)
    last = np.array(volume.array.shape) - 0.5 + _EDGE
    first, second = volume.grid.physical_to_index(
        grid.index_to_physical(np.moveaxis(np.indices((2, *grid.shape[1:])), 0, -1))
    )
    step = (second - first)[0, 0]
    for x, plane in enumerate(inside):  # a plane at a time, so that the indices take no memory
        index = first + x * step
        plane[...] = ((index >= -0.5 - _EDGE) & (index <= last)).all(axis=-1)
    if not inside.any():
        raise UserError(
            f"{path}: lies nowhere over its reference ({reference}); check that both belong to "
            "one patient and that no program has changed their headers"
        )
    return inside


def _read(path):
    """A volume whose voxels are all numbers."""
    volume = read_volume(path)
    if not np.isfinite(volume.array).all():
        raise UserError(
            f"{path}: has voxels that are NaN or infinite; expected numbers, repair the file"
        )
    return volume


def _reordered(volume, grid):
    """The volume with the axes of the grid, or None if two of its axes lie along one of them."""
    cosines = volume.direction.T @ grid.direction
    axes = np.abs(cosines).argmax(axis=0)
    if sorted(axes) != [0, 1, 2]:
        return None
    signs = np.where(cosines[axes, range(3)] < 0, -1, 1)
    first = np.zeros(3)
    first[axes] = np.where(signs < 0, np.array(volume.array.shape)[axes] - 1, 0)
    steps = tuple(slice(None, None, int(sign)) for sign in signs)
    return Volume(
        volume.array.transpose(axes)[steps],
        np.array(volume.spacing)[axes],
        volume.grid.index_to_physical(first),
        volume.direction[:, axes] * signs,
    )


def _described(grid):
    shape = " x ".join(map(str, grid.shape))
    return f"{shape} voxels of {' x '.join(f'{size:.5g}' for size in grid.spacing)} mm"


def _corner_distance(grid, other):
    """How far the outermost voxels lie apart, where the numbers of voxels are the same."""
    if grid.shape != other.shape:
        return ""
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(grid.shape) - 1)
    apart = grid.index_to_physical(corners) - other.index_to_physical(corners)
    return f", its corners up to {np.linalg.norm(apart, axis=-1).max():.3g} mm elsewhere"


def _listed(values, shown=12):
    text = ", ".join(f"{value:g}" for value in values[:shown])
    return text + (" ..." if len(values) > shown else "")
