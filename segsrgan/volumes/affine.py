# SPDX-License-Identifier: MIT
"""From any affine of voxel indices to a grid at right angles: the one place where shear is undone.

A tilted gantry moves each slice within its plane, by as much from one to the next: the slices
are moved back. No scanner shears an image in another way, so anything else is refused.
"""

import logging

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.volume import Grid, Volume, nearest_rotation, voxels_of

_logger = logging.getLogger(__name__)

# Cosines of the angles between axes. Below the first, corners move by less than a voxel's tenth.
_NEGLIGIBLE = 1e-3
_ROUNDED = 0.02  # numbers of two decimals deviate less
_VOXEL_SIZES = (0.005, 100.0)  # mm; beyond them a unit is wrong
_LARGEST, _FARTHEST = 5e3, 1e6  # mm: an image's extent, and from the origin


def problem(affine, shape, across=None):
    """Why `volume_of` refuses an affine for an array (x, y, z), or ""."""
    matrix, origin = np.asarray(affine, np.float64)[:3, :3], np.asarray(affine, np.float64)[:3, 3]
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.linalg.norm(matrix, axis=0)
        finite = np.isfinite([*spacing, *origin]).all() and np.abs(origin).max() < _FARTHEST
    if not finite or spacing.min() == 0 or np.linalg.matrix_rank(matrix / spacing) < 3:
        return (
            f"unusable geometry, its axes are {_numbers(matrix)}, its origin {_numbers(origin)}; "
            "repair its header, for instance with that of the image it was made from"
        )
    extent = (spacing * shape).max()
    if spacing.min() < _VOXEL_SIZES[0] or spacing.max() > _VOXEL_SIZES[1] or extent > _LARGEST:
        return (
            f"voxels of {' x '.join(f'{size:.4g}' for size in spacing)} mm, {extent:.4g} mm in all;"
            f" expected {_VOXEL_SIZES[0]:g} to {_VOXEL_SIZES[1]:g} mm, at most {_LARGEST:g} in all;"
            " repair the voxel size or its unit"
        )
    cosines = _cosines(matrix)
    if cosines.max() <= _ROUNDED:
        return ""
    if (across := _across(matrix, across)) is None:
        angles = ", ".join(f"{angle:.1f}" for angle in np.degrees(np.arccos(cosines)))
        return (
            f"its axes meet at {angles} degrees; expected right angles, or slices (across the "
            "thickest axis) that are only shifted within their planes (a tilted gantry); resample "
            "it with the program that wrote it"
        )
    step = matrix[:, across] @ _directions(matrix, across) * (shape[across] - 1)
    step = np.delete(step, across)
    if (np.abs(step) >= np.delete(spacing * shape, across)).any():
        return (
            "its slices do not lie above each other, the last is shifted by "
            f"{np.linalg.norm(step):.0f} mm; give the slices of one stack"
        )
    return ""


def distance(affine, other, shape):
    """The largest distance, mm, between the places of a voxel (x, y, z) by two affines."""
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(shape) - 1)
    moved = np.subtract(affine, other)
    return float(np.linalg.norm(corners @ moved[:3, :3].T + moved[:3, 3], axis=1).max())


def volume_of(array, affine, name, labels=False, across=None):
    """The volume of an array whose voxels an affine places in patient space.

    Args:
        array: (x, y, z), as stored; see `voxels_of`.
        affine: (3, 4) or (4, 4), from voxel indices to mm (LPS). The spacing is the length of
            its columns.
        name: of the image, for messages.
        labels: whether voxels are kept and moved as they are; else they become float32, and shear
            is undone by linear interpolation.
        across: the axis across the slices, where the format says which; None: the geometry tells.

    Returns:
        A volume of the voxels, or of an array that holds its slices moved within their planes,
        with a warning in mm. Axes that are at right angles but for rounding become the nearest
        rotation about the middle of the image, with a warning in degrees where it matters.

    Raises:
        VolumeError: if the affine is singular or not finite, or sheared as no scanner does it, or
            if float32 cannot hold the intensities.
    """
    if reason := problem(affine, array.shape, across):
        raise VolumeError(f"{name}: {reason}")
    array = voxels_of(array, name, labels)
    affine = np.asarray(affine, np.float64)[:3]
    matrix, spacing = affine[:, :3], np.linalg.norm(affine[:, :3], axis=0)
    rotation = nearest_rotation(matrix)
    middle = (np.array(array.shape) - 1) / 2  # stays in place
    origin = affine[:, 3] + matrix @ middle - rotation @ (spacing * middle)
    moved = distance(affine, np.column_stack([rotation * spacing, origin]), array.shape)
    largest, across = _cosines(matrix).max(), _across(matrix, across)
    if largest > _ROUNDED or (across is not None and moved > spacing.min() / 2):
        return _upright(array, affine, name, labels, across)
    if largest > _NEGLIGIBLE:
        _warn_of_turn(name, matrix / spacing, rotation, moved)
    return Volume(array, tuple(spacing), tuple(origin), rotation)


def _warn_of_turn(name, axes, direction, moved):
    turned = np.degrees(np.arccos(np.clip((axes * direction).sum(axis=0), -1, 1)))
    text = "%s: its axes are at right angles only but for %.2f degrees (%.2g mm); taking the"
    _logger.warning(text + " nearest rotation", name, turned.max(), moved)


def _numbers(array):
    """Numbers in as few digits as tell them apart from others."""
    return np.vectorize(lambda number: float(f"{number:.4g}"))(array).tolist()


def _cosines(matrix):
    """Absolute cosines (3,) of the angles between the two axes beside each."""
    axes = matrix / np.linalg.norm(matrix, axis=0)
    return np.abs([axes[:, (k + 1) % 3] @ axes[:, (k + 2) % 3] for k in range(3)])


def _across(matrix, given=None):
    """The axis across slices that are shifted within their planes, None where no axis can be.

    Both other axes are at right angles, and no axis of the upright grid is thicker. Of two such
    axes it is the thickest, else that with square pixels.
    """
    spacing, cosines = np.linalg.norm(matrix, axis=0), _cosines(matrix)
    limit = _ROUNDED if cosines.max() > _ROUNDED else _NEGLIGIBLE
    heights = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=1)  # from slice to slice
    found = []
    if cosines.max() > _NEGLIGIBLE:
        for k in np.flatnonzero(cosines <= limit):
            upright = np.where(np.arange(3) == k, heights, spacing)
            thick = Grid((1, 1, 1), upright).thick_axis
            if given in (k, None) and (given is not None or thick in (k, None)):
                pixel = np.abs(np.diff(np.log(np.delete(spacing, k))))[0]
                found.append((thick == k, -cosines[k].round(3), -pixel.round(3), int(k)))
    return max(found)[-1] if found else None


def _directions(matrix, across):
    """Upright directions (3, 3): the unit vectors nearest to the pair in the slices, the normal."""
    plane = [k for k in range(3) if k != across]
    axes, direction = matrix / np.linalg.norm(matrix, axis=0), np.empty((3, 3))
    left, _, turned = np.linalg.svd(axes[:, plane], full_matrices=False)
    direction[:, plane] = left @ turned
    normal = np.cross(direction[:, plane[0]], direction[:, plane[1]])
    direction[:, across] = normal * np.sign(normal @ matrix[:, across])
    return direction


def _upright(array, affine, name, labels, across):
    """The slices moved back within their planes, on a grid that holds all of them."""
    from scipy import ndimage  # slow to load

    matrix, origin, spacing = affine[:, :3], affine[:, 3], np.linalg.norm(affine[:, :3], axis=0)
    direction = _directions(matrix, across)
    plane = [k for k in range(3) if k != across]
    step = matrix[:, across] @ direction
    count, sizes = array.shape[across], np.array(array.shape)[plane]
    slope = np.round(step[plane] / spacing[plane], 6)  # of an axis that is not sheared exactly 0
    offsets = np.outer(np.arange(count), slope)  # voxels
    text = (
        "%s: sheared (a tilted gantry), its slices are shifted by up to %.1f mm; moving them back"
    )
    _logger.warning(text, name, np.linalg.norm(offsets[-1] * spacing[plane]))
    axes, middle = matrix[:, plane] / spacing[plane], spacing[plane] * (sizes - 1) / 2
    moved = (axes - direction[:, plane]) @ middle  # the middle of each slice stays in place
    if _cosines(matrix)[across] > _NEGLIGIBLE:
        _warn_of_turn(name, axes, direction[:, plane], np.linalg.norm(moved))
    first = np.floor(offsets.min(axis=0))
    room = (np.ceil(offsets.max(axis=0)) - first).astype(int)
    slices = np.moveaxis(array, across, 0)
    inside = array[np.isfinite(array)]
    fill = 0 if labels or not inside.size else inside.min()
    result = np.full((count, *(sizes + room)), fill, array.dtype)
    for k in range(count):
        result[k, : sizes[0], : sizes[1]] = slices[k]
        shift, options = offsets[k] - first, {"mode": "grid-constant", "cval": fill}
        result[k] = ndimage.shift(result[k], shift, order=0 if labels else 1, **options)
    origin = origin + moved + direction[:, plane] @ (first * spacing[plane])
    spacing = np.where(np.arange(3) == across, step[across], spacing)
    return Volume(np.moveaxis(result, 0, across).copy(), tuple(spacing), tuple(origin), direction)
