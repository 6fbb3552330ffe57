# SPDX-License-Identifier: MIT
"""From any affine of voxel indices to a grid at right angles: the one place where shear is undone.

A tilted gantry moves each slice within its plane, by as much from one to the next: the slices
are moved back. No scanner shears an image in another way, so anything else is refused.
"""

import logging

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.volume import Volume, nearest_rotation

_logger = logging.getLogger(__name__)

# Cosines of the angles between axes. Below the first, corners move by less than a voxel's tenth.
_NEGLIGIBLE = 1e-3
_ROUNDED = 0.02  # numbers of two decimals deviate less
_VOXEL_SIZES = (0.005, 100.0)  # mm; beyond them a unit is wrong
_LARGEST, _FARTHEST = 5e3, 1e6  # mm: an image's extent, and from the origin


def problem(affine, shape):
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
    cosines = _cosines(matrix / spacing)
    if cosines.max() > _ROUNDED and cosines.min() > _NEGLIGIBLE:
        angles = ", ".join(f"{angle:.1f}" for angle in np.degrees(np.arccos(cosines)))
        return (
            f"its axes meet at {angles} degrees; expected right angles, or slices that are only "
            "shifted within their planes (a tilted gantry); resample it with the program that "
            "wrote it"
        )
    if cosines.max() > _ROUNDED:
        across, direction = _across(matrix, spacing)
        step = np.delete(matrix[:, across] @ direction, across) * (shape[across] - 1)
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


def volume_of(array, affine, name, labels=False):
    """The volume of an array whose voxels an affine places in patient space.

    Args:
        array: (x, y, z).
        affine: (3, 4) or (4, 4), from voxel indices to mm (LPS). The spacing is the length of
            its columns.
        name: of the image, for messages.
        labels: whether voxels are moved as they are; else shear is undone by linear interpolation.

    Returns:
        A volume of the array itself, or of one that holds its slices moved within their planes,
        with a warning in mm. Axes that are at right angles but for rounding become the nearest
        rotation about the middle of the image, with a warning in degrees where it matters.

    Raises:
        VolumeError: if the affine is singular or not finite, or sheared as no scanner does it.
    """
    if reason := problem(affine, array.shape):
        raise VolumeError(f"{name}: {reason}")
    affine = np.asarray(affine, np.float64)[:3]
    matrix, spacing = affine[:, :3], np.linalg.norm(affine[:, :3], axis=0)
    rotation = nearest_rotation(matrix)
    middle = (np.array(array.shape) - 1) / 2  # stays in place
    origin = affine[:, 3] + matrix @ middle - rotation @ (spacing * middle)
    moved = distance(affine, np.column_stack([rotation * spacing, origin]), array.shape)
    cosines = _cosines(matrix / spacing)
    is_tilt = cosines.max() > _NEGLIGIBLE >= cosines.min()
    if cosines.max() > _ROUNDED or (is_tilt and moved > spacing.min() / 2):
        return _upright(array, affine, name, labels)
    if cosines.max() > _NEGLIGIBLE:
        turned = np.degrees(np.arccos(np.clip((matrix / spacing * rotation).sum(axis=0), -1, 1)))
        text = "%s: its axes are at right angles only but for %.2f degrees (%.2g mm); taking the"
        _logger.warning(text + " nearest rotation", name, turned.max(), moved)
    return Volume(array, tuple(spacing), tuple(origin), rotation)


def _numbers(array):
    """Numbers in as few digits as tell them apart from others."""
    return np.vectorize(lambda number: float(f"{number:.4g}"))(array).tolist()


def _cosines(axes):
    """Absolute cosines (3,) of the angles between the two unit axes beside each."""
    return np.abs([axes[:, (k + 1) % 3] @ axes[:, (k + 2) % 3] for k in range(3)])


def _across(matrix, spacing):
    """The axis across the slices of a tilted image, and the upright directions (3, 3) of all."""
    # Both axes of a right angle lie in the slices; of two such pairs the thicker axis is across.
    right = np.flatnonzero(_cosines(matrix / spacing) <= _NEGLIGIBLE)
    across = int(max(right, key=lambda k: (round(spacing[k], 3), k)))
    plane = [k for k in range(3) if k != across]
    direction = np.empty((3, 3))
    left, _, turned = np.linalg.svd(matrix[:, plane] / spacing[plane], full_matrices=False)
    direction[:, plane] = left @ turned  # the two unit vectors nearest to the pair
    normal = np.cross(direction[:, plane[0]], direction[:, plane[1]])
    direction[:, across] = normal * np.sign(normal @ matrix[:, across])
    return across, direction


def _upright(array, affine, name, labels):
    """The slices moved back within their planes, on a grid that holds all of them."""
    from scipy import ndimage  # slow to load

    matrix, origin, spacing = affine[:, :3], affine[:, 3], np.linalg.norm(affine[:, :3], axis=0)
    across, direction = _across(matrix, spacing)
    plane = [k for k in range(3) if k != across]
    step = matrix[:, across] @ direction
    count, sizes = array.shape[across], np.array(array.shape)[plane]
    slope = np.round(step[plane] / spacing[plane], 6)  # of an axis that is not sheared exactly 0
    offsets = np.outer(np.arange(count), slope)  # voxels
    text = (
        "%s: sheared (a tilted gantry), its slices are shifted by up to %.1f mm; moving them back"
    )
    _logger.warning(text, name, np.linalg.norm(offsets[-1] * spacing[plane]))
    first = np.floor(offsets.min(axis=0))
    room = (np.ceil(offsets.max(axis=0)) - first).astype(int)
    slices = np.moveaxis(array, across, 0)
    result = np.full((count, *(sizes + room)), array.min(), array.dtype)
    for k in range(count):
        result[k, : sizes[0], : sizes[1]] = slices[k]
        shift, options = offsets[k] - first, {"mode": "grid-constant", "cval": array.min()}
        result[k] = ndimage.shift(result[k], shift, order=0 if labels else 1, **options)
    origin = origin + direction[:, plane] @ (first * spacing[plane])
    spacing = np.where(np.arange(3) == across, step[across], spacing)
    return Volume(np.moveaxis(result, 0, across).copy(), tuple(spacing), tuple(origin), direction)
