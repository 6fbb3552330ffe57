# SPDX-License-Identifier: MIT
"""Views on a common isotropic grid: values, and how far each voxel is from an acquired slice.

All places are physical, so that any orientation, spacing and transform works, and every value is
interpolated once, from the acquired voxels. The index of a view's voxel is an affine function of
the index of the grid's voxel::

    grid index -> patient space (reference) -> transform -> patient space (view) -> view index
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.volumes import Grid
from segsrgan.volumes.volume import MAX_VOXELS
from supermask.rigid import Rigid

THROUGH = ("linear", "nearest")
_EDGE = 1e-4  # voxels; headers round
_SLAB = 2**19  # voxels whose coordinates are held at once
# Of a cube: axis k is its axis `order[k]`, backwards where `signs[k]` is -1.
ORIENTATIONS = tuple(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)


def canonical_direction(direction):
    """The axes (columns, orthonormal) in the order and with the signs nearest to the patient's.

    The result (3, 3) is right-handed. However the voxels of a stack are stored, its common grid is
    the same.
    """
    candidates = [direction[:, order] * signs for order, signs in ORIENTATIONS]
    return max((matrix for matrix in candidates if np.linalg.det(matrix) > 0), key=np.trace)


def isotropic_grid(points, direction, spacing, size=None, margin=0.0):
    """An isotropic grid around points.

    Args:
        points: (n, 3) mm, what the grid has in its middle.
        direction: (3, 3) of its axes.
        spacing: mm, one number.
        size: voxels of each edge, one number or three; None: as many as the points and the margin
            need.
        margin: mm added on each side of the points when `size` is None.

    Returns:
        A `Grid` whose middle is that of the box around the points along its axes.

    Raises:
        UserError: if it had too many voxels.
    """
    along = np.asarray(points, np.float64) @ direction
    low, high = along.min(axis=0), along.max(axis=0)
    if size is None:
        shape = np.maximum(1, np.ceil((high - low + 2 * margin) / spacing - 1e-3))
    else:
        shape = np.broadcast_to(np.asarray(size), 3)
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise UserError(
            f"a grid of {' x '.join(f'{n:.0f}' for n in shape)} voxels of {spacing:g} mm is too "
            "large; take a larger spacing, or a size"
        )
    origin = direction @ ((low + high) / 2 - (shape - 1) / 2 * spacing)
    return Grid(tuple(int(n) for n in shape), (spacing,) * 3, tuple(origin), direction)


def corners(grid):
    """The eight outer corners (8, 3) of a grid's field of view, mm."""
    ends = np.indices((2, 2, 2)).reshape(3, -1).T
    return grid.index_to_physical(ends * np.array(grid.shape) - 0.5)


def overlaps(first, second):
    """Whether the fields of view of two grids share a point (separating axis theorem)."""
    boxes = corners(first), corners(second)
    axes = [*first.direction.T, *second.direction.T]
    axes += [np.cross(a, b) for a in first.direction.T for b in second.direction.T]
    for axis in axes:
        if np.linalg.norm(axis) < 1e-6:
            continue
        (low, high), (other_low, other_high) = (((b @ axis).min(), (b @ axis).max()) for b in boxes)
        if high <= other_low or other_high <= low:
            return False
    return True


def affine(source, grid, transform=None):
    """The map of indices of `grid` to continuous indices of `source`, two `Grid`s.

    Returns `(matrix (3, 3), offset (3,))`, voxels. `transform` is a `Rigid` from the reference, to
    which `grid` belongs, to the view; identity when None.
    """
    transform = transform or Rigid()
    start, *steps = source.physical_to_index(
        transform.apply(grid.index_to_physical(np.concatenate([np.zeros((1, 3)), np.eye(3)])))
    )
    return (np.array(steps) - start).T, start


def sample(volume, grid, transform=None, through="linear", order=1):
    """The values of a view at the voxel centres of a grid, 0 outside its field of view.

    Args:
        volume: a `Volume`, real or bool.
        grid: of the result.
        transform: a `Rigid` from the reference to the view; identity when None.
        through: "linear" between slices, or "nearest": the nearest slice's value, as in the paper.
        order: of the interpolation in plane: 0 (nearest), 1 (linear) or 3 (cubic; then `through`
            "linear" is cubic, too).

    Returns:
        float32 (x, y, z).

    Raises:
        ValueError: if `through` is unknown.
    """
    if through not in THROUGH:
        raise ValueError(f"through must be one of {', '.join(THROUGH)}, received {through!r}")
    matrix, offset = affine(volume.grid, grid, transform)
    axis = volume.grid.thick_axis if through == "nearest" else None
    array = np.asarray(volume.array, np.float32)
    if order > 1:
        array = ndimage.spline_filter(array, order=order, mode="mirror", output=np.float32)
    last = np.array(array.shape)[:, None, None, None] - 1
    result = np.empty(grid.shape, np.float32)
    for slab in _slabs(grid.shape):
        points = _indices(matrix, offset, grid.shape, slab)
        outside = ((points < -0.5 - _EDGE) | (points > last + 0.5 + _EDGE)).any(axis=0)
        if axis is not None:
            # Not to the even one, as np.rint does midway: every slice has as many voxels.
            np.floor(points[axis] + 0.5, out=points[axis])
        np.clip(points, 0, last, out=points)
        result[slab] = ndimage.map_coordinates(
            array, points, np.float32, order=order, mode="mirror", prefilter=False
        )
        result[slab][outside] = 0
    return result


class Sampling(NamedTuple):
    """How the voxels of a grid lie to a view's acquired slices.

    Attributes:
        distance: (x, y, z) float32, mm along the slice normal to the nearest slice's middle.
        inside: (x, y, z) bool, whether the voxel lies in the field of view.
    """

    distance: np.ndarray
    inside: np.ndarray


def sampling(source, grid, transform=None):
    """The `Sampling` of a view, from geometry alone.

    Args:
        source: the view's `Grid`; if it is isotropic, all distances are 0.
        grid: an isotropic `Grid`.
        transform: a `Rigid` from the reference to the view; identity when None.
    """
    matrix, offset = affine(source, grid, transform)
    inside = np.ones(grid.shape, bool)
    for axis in range(3):
        index = _coordinate(matrix[axis], offset[axis], grid.shape)
        inside &= (index >= -0.5 - _EDGE) & (index <= source.shape[axis] - 0.5 + _EDGE)
    axis = source.thick_axis
    if axis is None:
        return Sampling(np.zeros(grid.shape, np.float32), inside)
    index = _coordinate(matrix[axis], offset[axis], grid.shape)
    nearest = np.clip(np.rint(index), 0, source.shape[axis] - 1)
    distance = np.abs(index - nearest) * source.spacing[axis]
    return Sampling(distance.astype(np.float32), inside)


def voxels_of(volume, threshold=0.5, most=20000):
    """Physical points (n, 3) of the voxels of a mask from a threshold up, at most about `most`.

    They are spread over the whole mask, always the same ones, its outermost corners among them.
    """
    # In the order of the patient's axes: the same ones however the voxels are stored.
    direction = volume.grid.direction
    order, signs = max(ORIENTATIONS, key=lambda item: np.trace(direction[:, item[0]] * item[1]))
    flips = tuple(slice(None, None, sign) for sign in signs)
    index = np.argwhere(volume.array.transpose(order)[flips] >= threshold)
    step = max(1, math.ceil(len(index) / most))
    ends = np.concatenate([index.argmin(axis=0), index.argmax(axis=0)]) if len(index) else []
    chosen = np.unique(np.concatenate([np.arange(0, len(index), step), ends]).astype(int))
    stored = np.empty((len(chosen), 3), int)
    for axis, sign, column in zip(order, signs, index[chosen].T, strict=True):
        stored[:, axis] = column if sign > 0 else volume.array.shape[axis] - 1 - column
    return volume.grid.index_to_physical(stored)


def _coordinate(row, offset, shape):
    """One coordinate (x, y, z) of the source's index, for all voxels of a grid."""
    x, y, z = (np.arange(n) * step for n, step in zip(shape, row, strict=True))
    return (x + offset)[:, None, None] + y[:, None] + z


def _indices(matrix, offset, shape, slab):
    rows = slab.stop - slab.start, *shape[1:]
    offset = offset + matrix[:, 0] * slab.start
    return np.stack(
        [_coordinate(row, start, rows) for row, start in zip(matrix, offset, strict=True)]
    )


def _slabs(shape):
    rows = max(1, _SLAB // (shape[1] * shape[2]))
    return [slice(i, min(i + rows, shape[0])) for i in range(0, shape[0], rows)]
