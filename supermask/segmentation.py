# SPDX-License-Identifier: MIT
"""The segmentor, a 3-D U-Net (Çiçek et al. 2016; Gu et al. 2023, sec. 2.2), and its use on views.

A view is segmented on any grid, in patches of bounded size.
"""

from copy import copy
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.config import check, setting
from segsrgan.volumes import Accumulator, Volume, plan
from supermask.geometry import (
    THROUGH,
    canonical_direction,
    corners,
    isotropic_grid,
    sample,
    sampling,
)
from supermask.settings import PATCH

_MOMENTUM, _EPSILON = 0.9, 1e-5
_ISLAND = 0.1  # of the largest part's volume, below which a part says nothing about the place


@dataclass(frozen=True)
class SegmentorSpec:
    """What distinguishes one segmentor from another.

    Attributes:
        kernel: channels of the first convolution; each level has it doubled and doubled again,
            32-64, 64-128, 128-256 in the paper.
        levels: resolutions.
        spacing: voxel size of the grid that it is trained on, mm.
        through: how slices are brought onto that grid: the "nearest" one's value, as in the paper,
            or "linear" between them.

    Raises:
        UserError: if a value is out of range.
    """

    kernel: int = setting(int, 32, low=1, high=512)
    levels: int = setting(int, 3, low=1, high=8)
    spacing: float = setting(float, 1.0, low=0, above=True, example=1)
    through: str = setting(str, "nearest", choices=THROUGH)

    def __post_init__(self):
        check(self)

    @property
    def multiple(self):
        """What sizes must be divisible by."""
        return 2 ** (self.levels - 1)

    @property
    def largest_shapes(self):
        """The shape of the largest array by its name; all others follow from it."""
        wide = self.kernel * self.multiple
        return {f"down_{self.levels - 1}_b/kernel": (3, 3, 3, wide, 2 * wide)}


def build_segmentor(spec=None):
    """Builds the segmentor of a spec.

    Args:
        spec: a `SegmentorSpec`; the paper's by default.

    Returns:
        A `keras.Model` with the attribute `spec`: images `(b, x, y, z, 1)` in [0, 1], of sizes
        divisible by `spec.multiple`, to probabilities of the same shape, float32.

    Example:
        >>> build_segmentor(SegmentorSpec(kernel=2)).output_shape
        (None, None, None, None, 1)
    """
    import keras  # slow to load, and masks that are drawn need none of it

    def block(x, filters, name):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
        x = keras.layers.Conv3D(filters, 3, name=name, **options)(x)
        norm = keras.layers.BatchNormalization(
            momentum=_MOMENTUM, epsilon=_EPSILON, name=f"{name}_norm"
        )
        return keras.layers.ReLU(name=f"{name}_relu")(norm(x))

    spec = spec or SegmentorSpec()
    image = x = keras.Input((None, None, None, 1), name="image")
    skips = []
    for level in range(spec.levels):
        wide = spec.kernel * 2**level
        if level:
            x = keras.layers.MaxPooling3D(2, name=f"pool_{level}")(x)
        x = block(x, wide, f"down_{level}_a")
        x = block(x, 2 * wide, f"down_{level}_b")
        skips.append(x)
    for level in reversed(range(spec.levels - 1)):
        wide = 2 * spec.kernel * 2**level
        x = keras.layers.Conv3DTranspose(2 * wide, 2, strides=2, name=f"up_{level}")(x)
        x = keras.layers.Concatenate(name=f"join_{level}")([skips[level], x])
        x = block(x, wide, f"up_{level}_a")
        x = block(x, wide, f"up_{level}_b")
    # Not in the compute dtype of a mixed-precision policy: probabilities are compared.
    x = keras.layers.Conv3D(1, 1, activation="sigmoid", dtype="float32", name="head")(x)
    model = keras.Model(image, x, name="segmentor")
    model.spec = spec
    return model


def segment(segmentor, view, grid, transform=None, patch=PATCH):
    """The object's probability that the segmentor sees in a view, float32 (x, y, z) in [0, 1].

    Args:
        segmentor: a model of `build_segmentor`.
        view: a `View`.
        grid: an isotropic `Grid`; the segmentor works at its own spacing over the same field.
        transform: a `Rigid` from the reference to the view; identity when None.
        patch: edge of what it sees at once, voxels.
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
    """The view without the small parts of its mask: what shows where the object is.

    A segmentor sees a few voxels of the object in other places, too. They would move its middle,
    to which AlignNet looks, and enlarge the grid around it. Parts below a tenth of the largest
    one's volume become 0 in the mask.
    """
    parts, count = ndimage.label(view.mask.array >= 0.5)
    if count < 2:
        return view
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    islands = (sizes < _ISLAND * sizes.max())[parts] & (parts > 0)
    return _masked(view, view.mask.with_array(np.where(islands, np.float32(0), view.mask.array)))


def _masked(view, mask):
    """The view with a computed mask, which need not lie on the stack's voxels as a drawn one."""
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
