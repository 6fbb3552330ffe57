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
    matrix, origin = np.asarray(affine, np.float64)[:3, :3], np.asarray(affine, np.float64)[:3, 3]
    if not np.isfinite([*matrix.ravel(), *origin]).all() or np.linalg.matrix_rank(matrix) < 3:
        raise VolumeError(
            f"{name}: unusable geometry, its axes are {np.round(matrix, 4).tolist()}, its origin "
            f"{np.round(origin, 4).tolist()}; repair its header, for instance with that of the "
            "image it was made from"
        )
    spacing = np.linalg.norm(matrix, axis=0)
    axes = matrix / spacing
    cosines = np.abs([axes[:, (k + 1) % 3] @ axes[:, (k + 2) % 3] for k in range(3)])
    oblique = cosines > _NEGLIGIBLE  # whether the two axes beside k meet at another angle
    if 0 < oblique.sum() < 3:
        return _upright(array, matrix, origin, spacing, oblique, name, labels)
    if cosines.max() > _ROUNDED:
        angles = ", ".join(f"{angle:.1f}" for angle in np.degrees(np.arccos(cosines)))
        raise VolumeError(
            f"{name}: its axes meet at {angles} degrees; expected right angles, or slices that "
            "are only shifted within their planes (a tilted gantry); resample it with the program "
            "that wrote it"
        )
    rotation = nearest_rotation(matrix)
    turned = np.degrees(np.arccos(np.clip((axes * rotation).sum(axis=0), -1, 1)).max())
    if oblique.any():
        text = "%s: its axes are at right angles only but for %.2f degrees; taking the nearest"
        _logger.warning(text + " rotation", name, turned)
    middle = (np.array(array.shape) - 1) / 2  # stays in place
    origin = origin + matrix @ middle - rotation @ (spacing * middle)
    return Volume(array, tuple(spacing), tuple(origin), rotation)


def _upright(array, matrix, origin, spacing, oblique, name, labels):
    """The slices moved back within their planes, on a grid that holds all of them."""
    from scipy import ndimage  # slow to load

    # Both axes of a right angle lie in the slices; of two such pairs the thicker axis is across.
    across = max(np.flatnonzero(~oblique), key=lambda k: (round(spacing[k], 3), k))
    plane = [k for k in range(3) if k != across]
    direction = nearest_rotation(matrix)
    direction[:, plane] = _right_angle(matrix[:, plane] / spacing[plane])
    normal = np.cross(direction[:, plane[0]], direction[:, plane[1]])
    direction[:, across] = normal * np.sign(normal @ matrix[:, across])
    step = matrix[:, across] @ direction
    count, sizes = array.shape[across], np.array(array.shape)[plane]
    slope = np.round(step[plane] / spacing[plane], 6)  # of an axis that is not sheared exactly 0
    offsets = np.outer(np.arange(count), slope)  # voxels
    if (np.abs(offsets[-1]) >= sizes).any():
        raise VolumeError(
            f"{name}: its slices do not lie above each other, the last is shifted by "
            f"{np.linalg.norm(offsets[-1] * spacing[plane]):.0f} mm; give the slices of one stack"
        )
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


def _right_angle(pair):
    """The two unit vectors (3, 2) nearest to a pair, at a right angle."""
    left, _, right = np.linalg.svd(pair, full_matrices=False)
    return left @ right
