# SPDX-License-Identifier: MIT
"""Losses of the segmentor and of AlignNet, in `keras.ops` (Gu et al. 2023, section 2).

Images and masks are `(batch, x, y, z, 1)`, float32, in [0, 1].
"""

from keras import ops

_TINY = 1e-5  # variances below this are noise: a thousandth of the intensity range, squared


def box_mean(x, window):
    """The mean of each voxel's neighbourhood in (b, x, y, z, c), by running sums.

    The window, the edge of the neighbourhood in voxels, is odd; at borders it is cut. The cost is
    that of any window.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, received {window}; try 15")
    for axis in (1, 2, 3):
        x = _running_mean(x, window // 2, axis)
    return x


def _running_mean(x, half, axis):
    # With the sums s[i] = x[0] + ... + x[i - 1] a window from a to b has s[b + 1] - s[a].
    size = ops.shape(x)[axis]
    positions = ops.arange(size)
    first = ops.maximum(positions - half, 0)
    last = ops.minimum(positions + half + 1, size)
    sums = ops.cumsum(x, axis=axis)
    sums = ops.concatenate([ops.zeros_like(ops.take(sums, ops.arange(1), axis=axis)), sums], axis)
    total = ops.take(sums, last, axis=axis) - ops.take(sums, first, axis=axis)
    shape = [1] * len(x.shape)
    shape[axis] = -1
    return total / ops.reshape(ops.cast(last - first, x.dtype), shape)


def local_cross_correlation(a, b, window=15):
    """The squared correlation of two images in each voxel's neighbourhood, and its weight.

    Both are like the images; the weight is 1 where `b` has contrast in the neighbourhood, an odd
    `window` of voxels (15 in the paper's code), else 0.
    """
    a, b = ops.cast(a, "float32"), ops.cast(b, "float32")
    # Less the mean: variances are differences of large numbers.
    a = a - ops.mean(a, axis=(1, 2, 3), keepdims=True)
    b = b - ops.mean(b, axis=(1, 2, 3), keepdims=True)
    moments = box_mean(ops.concatenate([a, b, a * a, b * b, a * b], axis=-1), window)
    mean_a, mean_b, aa, bb, ab = (moments[..., k : k + 1] for k in range(5))
    cross = ab - mean_a * mean_b
    var_a = ops.maximum(aa - mean_a * mean_a, 0.0)
    var_b = ops.maximum(bb - mean_b * mean_b, 0.0)
    correlation = cross * cross / ((var_a + _TINY) * (var_b + _TINY))
    return correlation, ops.cast(var_b > _TINY, "float32")


def similarity_loss(moved, fixed, window=15):
    """L_sim: one less the mean local cross-correlation where the fixed image has contrast."""
    correlation, weight = local_cross_correlation(moved, fixed, window)
    return 1 - ops.sum(correlation * weight) / ops.maximum(ops.sum(weight), 1.0)


def l2(a, b):
    """The root of the mean square difference of each sample, averaged: also L_ID (Eq. 1)."""
    squares = ops.square(ops.cast(a, "float32") - ops.cast(b, "float32"))
    # The small number keeps the slope of the root finite where both are equal.
    return ops.mean(ops.sqrt(ops.mean(squares, axis=(1, 2, 3, 4)) + 1e-12))
