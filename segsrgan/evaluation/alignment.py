# SPDX-License-Identifier: MIT
"""Bringing what is compared onto one grid: as it is, reordered, or resampled if that is wanted."""

import numpy as np

from segsrgan.errors import UserError
from segsrgan.volumes import Volume, resample_to

# Share of the smallest voxel that corners may lie apart: headers round, and nothing shows it.
_TOLERANCE = 0.01
_PARALLEL = 1e-6
_EDGE = 1e-3  # voxels, for the same reason


def align(volume, grid, order, resample, path, reference):
    """Bring a volume onto the grid of its reference.

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
            f"{path}: expected the reference's grid, {_text(grid)} ({reference}), received "
            f"{_text(volume.grid)}{_apart(volume.grid, grid)}; --resample puts it on that grid"
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


def _reordered(volume, grid):
    """The volume with the axes of the grid, or None if its own point elsewhere."""
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


def _text(grid):
    shape = " x ".join(map(str, grid.shape))
    return f"{shape} voxels of {' x '.join(f'{size:.5g}' for size in grid.spacing)} mm"


def _apart(grid, other):
    """How far the outermost voxels lie apart, where the numbers of voxels are the same."""
    if grid.shape != other.shape:
        return ""
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(grid.shape) - 1)
    apart = grid.index_to_physical(corners) - other.index_to_physical(corners)
    return f", its corners up to {np.linalg.norm(apart, axis=-1).max():.3g} mm elsewhere"
