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


def binary_cross_entropy(target, prediction, epsilon=1e-6):
    """Mean binary cross-entropy of probabilities.

    Unlike the Charbonnier loss of a sigmoid it keeps its slope where the answer is wrong and
    sure, so that a rare class does not stay at probability 0.
    """
    target = ops.cast(target, "float32")
    p = ops.clip(ops.cast(prediction, "float32"), epsilon, 1 - epsilon)
    return -ops.mean(target * ops.log(p) + (1 - target) * ops.log(1 - p))


def gradient_penalty(gradient):
    """Mean of `(|g| - 1)^2` over the samples (Delannoy et al. 2020, Eq. 8).

    Args:
        gradient: (b, ...) of a critic with respect to each sample.
    """
    gradient = ops.cast(gradient, "float32")
    squares = ops.sum(ops.square(gradient), axis=tuple(range(1, len(gradient.shape))))
    # sqrt has an infinite slope at 0; the inner where keeps it out of the gradient.
    positive = squares > 0
    norm = ops.where(positive, ops.sqrt(ops.where(positive, squares, 1.0)), 0.0)
    return ops.mean(ops.square(norm - 1))
