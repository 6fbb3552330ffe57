# SPDX-License-Identifier: MIT
"""What a mask misses, what it has too much, and how it follows its truth's boundary.

The measures of the SuperMask paper (Gu et al. 2023, section 3.3), whose names for them stand in
brackets. Masks are arrays (x, y, z) in which every voxel other than 0 belongs to the object.
Lengths are voxels: the measures are made for isotropic grids.
"""

import math

import numpy as np
from scipy import ndimage

_STEPS = 5  # radii of the boundary's neighbourhood
_FIRST_RADIUS = 3
_SIZES_PER_RADIUS = 50  # the largest radius is the sum of the sizes over this


def missed_share(prediction, truth):
    """`1 - |A and B| / |B|`: the share of the truth B that is missed [OS]; nan if it is empty.

    Args:
        prediction: (x, y, z).
        truth: likewise.

    Raises:
        ValueError: if the shapes differ or are not 3-D.
    """
    a, b = _binary(prediction, truth)
    total = np.count_nonzero(b)
    return 1 - np.count_nonzero(a & b) / total if total else math.nan


def false_share(prediction, truth):
    """`1 - |A and B| / |A|`: the share of the prediction A that is false [US]; likewise."""
    return missed_share(truth, prediction)


def share_rms(prediction, truth):
    """The root of the mean square of `missed_share` and `false_share` [RMS]; likewise."""
    missed, false = missed_share(prediction, truth), false_share(prediction, truth)
    return math.sqrt((missed**2 + false**2) / 2)


def boundary_agreement(prediction, truth, flat=True):
    """Agreement near the truth's boundary, the mean over five radii [mBA].

    The neighbourhood is the truth's morphological gradient: its dilation less its erosion. The
    radii are `3 + int((R - 3) / 5 * i)` for i = 0 to 4, where R is the sum of the sizes over 50.

    Args:
        prediction: (x, y, z).
        truth: likewise.
        flat: True: slice by slice along the last axis, with OpenCV's elliptic kernel, as in the
            paper's code. False: in three dimensions, with a ball.

    Returns:
        0 to 1; nan if the truth has no boundary.

    Raises:
        ValueError: if the shapes differ or are not 3-D.
    """
    a, b = _binary(prediction, truth)
    if not b.any():
        return math.nan
    agree = a == b
    grow = _discs if flat else _balls
    shares = []
    for dilated, kept in grow(b, boundary_radii(b.shape)):
        boundary = dilated & ~kept
        total = np.count_nonzero(boundary)
        if not total:
            return math.nan
        shares.append(np.count_nonzero(agree & boundary) / total)
    return float(np.mean(shares))


def boundary_radii(shape):
    """The five radii, in voxels, of the boundary accuracy in a volume of a shape."""
    largest = sum(shape) / _SIZES_PER_RADIUS
    step = (largest - _FIRST_RADIUS) / _STEPS
    return [max(1, _FIRST_RADIUS + int(step * i)) for i in range(_STEPS)]


def _discs(mask, radii):
    """Dilation and erosion by elliptic kernels in the planes of the first two axes."""
    for radius in radii:
        yield _dilated(mask, radius), ~_dilated(~mask, radius)


def _balls(mask, radii):
    """Dilation and erosion by balls; what lies beyond the array changes nothing."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, np.inf)
    for radius in radii:
        yield outside <= radius, inside > radius


def _dilated(mask, radius):
    """Dilation of each slice by OpenCV's MORPH_ELLIPSE kernel of 2 radius + 1 pixels.

    Row dy of the kernel reaches `rint(sqrt(radius^2 - dy^2))` to both sides::

        radius 2:   . . X . .
                    X X X X X
                    X X X X X
                    X X X X X
                    . . X . .
    """
    result = np.zeros_like(mask)
    rows = len(mask)
    for dy in range(-radius, radius + 1):
        reach = int(np.rint(math.sqrt(radius**2 - dy**2)))
        wide = ndimage.maximum_filter1d(mask, 2 * reach + 1, axis=1, mode="constant")
        low, high = max(0, dy), min(rows, rows + dy)
        result[low:high] |= wide[low - dy : high - dy]
    return result


def _binary(prediction, truth):
    a, b = np.asarray(prediction) != 0, np.asarray(truth) != 0
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"masks must have one shape (x, y, z), received {a.shape} and {b.shape}")
    return a, b
