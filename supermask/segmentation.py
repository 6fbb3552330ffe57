# SPDX-License-Identifier: MIT
"""The segmentor applied to a view, on any grid, in patches of bounded size."""

from copy import copy

import numpy as np
from scipy import ndimage

from segsrgan.volumes import Accumulator, Volume, plan
from supermask.geometry import canonical_direction, corners, isotropic_grid, sample, sampling
from supermask.settings import PATCH

_ISLAND = 0.1  # of the largest part's volume, below which another part does not tell where it is


def segment(segmentor, view, grid, transform=None, patch=PATCH):
    """The object's probability that the segmentor sees in a view.

    Args:
        segmentor: a model of `build_segmentor`.
        view: a `View`.
        grid: an isotropic `Grid`; the segmentor works at its own spacing over the same field.
        transform: a `Rigid` from the reference to the view; identity when None.
        patch: edge of what it sees at once, voxels.

    Returns:
        float32 (x, y, z) in [0, 1] on the grid; 0 outside the view's field of view.
    """
    spec = segmentor.spec
    work = grid if grid.spacing[0] == spec.spacing else grid.corner_aligned(spec.spacing)
    image = view.image_on(work, transform, spec.through)
    probability = _in_patches(segmentor, image, patch)
    inside = sampling(view.grid, work, transform).inside
    probability = np.where(inside, probability, np.float32(0))
    return probability if work is grid else sample(Volume.from_grid(probability, work), grid)


def with_mask(view, segmentor, patch=PATCH):
    """The view with the segmentor's probability as its mask, over its whole field of view."""
    direction = canonical_direction(view.grid.direction)
    grid = isotropic_grid(corners(view.grid), direction, segmentor.spec.spacing)
    return _masked(view, Volume.from_grid(segment(segmentor, view, grid, None, patch), grid))


def without_islands(view):
    """The view without the small parts of its mask: what tells where the object is.

    A segmentor sees a few voxels of the object in other places, too. They would move its middle,
    to which AlignNet looks, and enlarge the grid around it.

    Args:
        view: a `View` with a mask.

    Returns:
        A `View`; parts below a tenth of the largest one's volume are 0 in its mask.
    """
    parts, count = ndimage.label(view.mask.array >= 0.5)
    if count < 2:
        return view
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    islands = (sizes < _ISLAND * sizes.max())[parts] & (parts > 0)
    return _masked(view, view.mask.with_array(np.where(islands, np.float32(0), view.mask.array)))


def _masked(view, mask):
    """The view with a mask of ours, which need not lie on the stack's voxels as a given one."""
    result = copy(view)
    object.__setattr__(result, "mask", mask)
    return result


def _in_patches(segmentor, image, patch):
    multiple = segmentor.spec.multiple
    edge = max(multiple, patch - patch % multiple)
    sizes = [min(edge, n + -n % multiple) for n in image.shape]
    tiling = plan(image.shape, sizes, [max(1, 3 * n // 4) for n in sizes], multiple=multiple)
    padded, result = tiling.pad(image), Accumulator(tiling, 1, blend="gaussian")
    for start in tiling.starts:
        batch = padded[tiling.region(start)][np.newaxis, ..., np.newaxis]
        result.add(np.asarray(segmentor.predict_on_batch(batch))[0], start)
    return np.clip(result.result()[..., 0], 0, 1)
