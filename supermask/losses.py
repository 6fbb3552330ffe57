# SPDX-License-Identifier: MIT
"""Losses of the segmentor and of AlignNet, in `keras.ops` (Gu et al. 2023, section 2).

Images and masks are `(batch, x, y, z, 1)`, float32, in [0, 1].
"""

from keras import ops

from segsrgan.training.losses import soft_dice_loss

__all__ = [
    "box_mean",
    "consistency_of_alignment",
    "consistency_of_segmentation",
    "identity_loss",
    "l2",
    "local_cross_correlation",
    "similarity_loss",
    "soft_dice_loss",
]

_TINY = 1e-5  # variances below this are noise: a thousandth of the intensity range, squared


def box_mean(x, window):
    """The mean of each voxel's neighbourhood, by running sums: the cost is that of any window.

    Args:
        x: (b, x, y, z, c).
        window: edge of the neighbourhood in voxels, odd; at borders it is cut.

    Returns:
        As `x`.

    Raises:
        ValueError: if the window is not odd and positive.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and positive, received {window}; try 15")
    for axis in (1, 2, 3):
        x = _running_mean(x, window // 2, axis)
    return x


def _running_mean(x, half, axis):
    """Mean of up to `2 half + 1` voxels along one axis.

    With the sums `s[i] = x[0] + ... + x[i - 1]` a window from a to b has `s[b + 1] - s[a]`.
    """
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
    """The squared correlation of two images in each voxel's neighbourhood.

    Args:
        a: (b, x, y, z, 1).
        b: (b, x, y, z, 1), where contrast counts.
        window: edge of the neighbourhood in voxels, odd (15 in the paper's code).

    Returns:
        `(correlation, weight)`, both (b, x, y, z, 1): 0 to 1, and 1 where `b` has contrast in the
        neighbourhood, else 0.
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
    """The root of the mean square difference of each sample, averaged over the samples."""
    squares = ops.square(ops.cast(a, "float32") - ops.cast(b, "float32"))
    # The small number keeps the slope of the root finite where both are equal.
    return ops.mean(ops.sqrt(ops.mean(squares, axis=(1, 2, 3, 4)) + 1e-12))


def identity_loss(image, moved):
    """L_ID of one image: against what aligning it with itself makes of it (Eq. 1)."""
    return l2(image, moved)


def consistency_of_segmentation(of_aligned_j, mask_i, of_aligned_i, mask_j):
    """L_cons1, which trains the segmentor (Eq. 2).

    Args:
        of_aligned_j: the segmentation of image j aligned to i, S(f j->i).
        mask_i: that of image i.
        of_aligned_i: S(f i->j).
        mask_j: that of image j.
    """
    return l2(of_aligned_j, mask_i) + l2(of_aligned_i, mask_j)


def consistency_of_alignment(moved_mask_i, mask_j, moved_mask_j, mask_i):
    """L_cons2, which trains AlignNet (Eq. 2, each moved mask in the pose that it is moved to).

    Args:
        moved_mask_i: the segmentation of image i, moved into the pose of j.
        mask_j: that of image j.
        moved_mask_j: the segmentation of image j, moved into the pose of i.
        mask_i: that of image i.
    """
    return l2(moved_mask_i, mask_j) + l2(moved_mask_j, mask_i)
