# SPDX-License-Identifier: MIT
"""Images for masks that come without one: a bright object among other structures."""

import numpy as np
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.training.augmentation import bspline_basis, smooth_field
from segsrgan.volumes import Volume
from supermask.geometry import canonical_direction, isotropic_grid, sample, voxels_of

_ROOM = 0.6  # of the object's extent, painted on each side of it
_TISSUES = 5
_DARK, _BRIGHT = (0.1, 0.6), (0.7, 1.0)  # means of the tissues, and of the object
_PIECES = 4  # structures along the object's extent
_OTHERS = 0.55  # of a smooth field in [-1, 1], above which other bright structures lie
_GAP = 2  # voxels between them and the object
_TEXTURE = 0.15
_PATIENT = 0.3  # of a field, where anatomies are alike
_NODES = 40  # along each edge of the field that they have in common
_BLUR = 0.7  # voxels


def paint(mask, rng, spacing=None, inverted=0.0, anatomy=None):
    """Paints an image in which a mask's object can be seen.

    The object is brighter than the tissues that it lies in; structures elsewhere are as bright.
    All are drawn anew every time and lie in a body whose borders and tissues tell its pose; the air
    around it is 0.

    Args:
        mask: a `Volume`; voxels from 0.5 belong to the object.
        rng: a `numpy.random.Generator`.
        spacing: voxel size of the image, mm; the mask's smallest when None.
        inverted: fraction of the images whose body is dark where it would be bright.
        anatomy: a whole number; where it is the same, tissues and structures lie at much the same
            places relative to the object, as in patients. None: anywhere.

    Returns:
        A float32 `Volume` of 0 to about 1 on an isotropic grid around the object.

    Raises:
        UserError: if the mask is empty.

    Examples:
        >>> image = paint(read_volume("la_003.nii.gz"), np.random.default_rng(0), spacing=3.0)
    """
    outline = mask.with_array((mask.array >= 0.5).astype(np.float32))
    if not outline.array.any():
        raise UserError("the mask is empty; there is no object to paint an image of")
    points, direction = voxels_of(outline), canonical_direction(mask.direction)
    spacing = spacing or min(mask.spacing)
    extent = float(np.ptp(points @ direction, axis=0).max()) + spacing
    grid = isotropic_grid(points, direction, spacing, margin=_ROOM * extent)
    distance = max(2.0, extent / spacing / _PIECES)  # of the nodes of smooth fields
    inside = sample(outline, grid)
    alike = None if anatomy is None else np.random.default_rng(anatomy)
    fields = [_field(grid.shape, distance, rng, alike) for _ in range(_TISSUES)]
    means = (alike or rng).permutation(np.linspace(*_DARK, _TISSUES))
    image = means[np.argmax(fields, axis=0)]
    near = ndimage.binary_dilation(inside > 0, iterations=_GAP)
    others = (_field(grid.shape, distance / 2, rng, alike) > _OTHERS) & ~near
    image[others] = rng.uniform(*_BRIGHT)
    image += (rng.uniform(*_BRIGHT) - image) * inside
    image *= 1 + _TEXTURE * smooth_field(grid.shape, distance, rng)
    if rng.random() < inverted:
        image = 1.1 - image
    image = ndimage.gaussian_filter(image * _body(grid.shape, rng), _BLUR)
    return Volume.from_grid(np.clip(image, 0, None).astype(np.float32), grid)


def _field(shape, distance, rng, alike=None):
    """A smooth random field in [-1, 1]; with the generator `alike` mostly one that others have."""
    patient = smooth_field(shape, distance, rng)
    if alike is None:
        return patient
    nodes = alike.uniform(-1, 1, (_NODES,) * 3).astype(np.float32)
    bases = [bspline_basis(n, distance).astype(np.float32) for n in shape]
    # The middles lie on each other to within a node.
    starts = [(_NODES - basis.shape[1]) // 2 for basis in bases]
    chosen = nodes[tuple(slice(s, s + b.shape[1]) for s, b in zip(starts, bases, strict=True))]
    common = np.einsum("abc,xa,yb,zc->xyz", chosen, *bases, optimize=True)
    return (1 - _PATIENT) * common + _PATIENT * patient


def _body(shape, rng):
    """An egg that nearly fills the picture, bool (x, y, z)."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    radii = rng.uniform(0.8, 1.0, 3)
    x, y, z = (axis / radius for axis, radius in zip(axes, radii, strict=True))
    taper = 1 + 0.15 * z
    return (x[:, None, None] / taper) ** 2 + (y[:, None] / taper) ** 2 + z**2 <= 1
