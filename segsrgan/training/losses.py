# SPDX-License-Identifier: MIT
"""Losses, as functions of tensors `(batch, x, y, z, channels)` in `keras.ops`."""

from keras import ops


def charbonnier(target, prediction, nu=1e-3):
    """Mean of `sqrt(d^2 + nu^2)` over all voxels (Delannoy et al. 2020, Eq. 6)."""
    difference = ops.cast(target, "float32") - ops.cast(prediction, "float32")
    return ops.mean(ops.sqrt(ops.square(difference) + nu**2))


def soft_dice_loss(target, prediction, smooth=1.0):
    """One minus the soft Dice, averaged over samples and channels.

    `(2 sum(t p) + smooth) / (sum(t) + sum(p) + smooth)` over the voxels of a sample.
    """
    target, prediction = ops.cast(target, "float32"), ops.cast(prediction, "float32")
    axes = (1, 2, 3)
    overlap = 2 * ops.sum(target * prediction, axis=axes) + smooth
    total = ops.sum(target, axis=axes) + ops.sum(prediction, axis=axes) + smooth
    return 1 - ops.mean(overlap / total)
