# SPDX-License-Identifier: MIT
"""Masks as distances to their surface."""

import numpy as np
from scipy import ndimage

from segsrgan.volumes import Volume
from supermask.geometry import sample


class Depth:
    """How deep in the object of a view a point lies, mm, negative outside; cut at its size.

    Unlike a mask it has a slope everywhere, which an optimiser can follow.

    Args:
        view: a `View` that has an object.
    """

    def __init__(self, view):
        mask, grid = view.mask.array >= 0.5, view.mask.grid
        near = _around(mask, (1, 1, 1))
        if mask[near].all():
            inside = np.full(mask[near].shape, max(grid.spacing))
        else:
            inside = ndimage.distance_transform_edt(mask[near], sampling=grid.spacing)
        self._lowest = -2 * inside.max()
        # Farther away it has its lowest value.
        near = _around(mask, np.ceil(-self._lowest / np.array(grid.spacing)).astype(int) + 1)
        mask = mask[near]
        depth = -ndimage.distance_transform_edt(~mask, sampling=grid.spacing)
        np.maximum(depth, self._lowest, out=depth)
        depth[mask] = inside[inside > 0]
        origin = grid.index_to_physical([part.start for part in near])
        # Above the lowest, since volumes are 0 outside.
        height = (depth - self._lowest).astype(np.float32)
        self._height = Volume(height, grid.spacing, origin, grid.direction)

    def on(self, grid):
        """Its values (x, y, z) on a grid, float32."""
        return sample(self._height, grid) + np.float32(self._lowest)


def _around(mask, margin):
    """Slices of the box around what is True, and of a margin in voxels as far as there are any."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(0, part.start - room), min(size, part.stop + room))
        for part, room, size in zip(box, margin, mask.shape, strict=True)
    )
