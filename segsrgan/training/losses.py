# SPDX-License-Identifier: MIT
"""Losses, as functions of tensors `(batch, x, y, z, channels)` in `keras.ops`.

A reconstruction loss is a function `(target, output, channels, weights)`, an entry of
`RECONSTRUCTIONS`, and its name in `segsrgan.training.settings.RECONSTRUCTIONS`: `target` and
`output` are (b, x, y, z, image + label + classes), `channels` is the `{Head: slice}` of
`segsrgan.networks.outputs.output_channels`, and `weights` the `TrainingSettings`.
"""

from keras import ops

from segsrgan.training.cases import UNKNOWN

# Of the range of the image: patches that are all but empty do not count more than others.
_LEAST_TENTH = 2e-3


def charbonnier(target, prediction, nu=1e-3):
    """Mean of `sqrt(d^2 + nu^2)` over all voxels (Delannoy et al. 2020, Eq. 6)."""
    difference = ops.cast(target, "float32") - ops.cast(prediction, "float32")
    return ops.mean(ops.sqrt(ops.square(difference) + nu**2))


def soft_dice_loss(target, prediction):
    """One minus the soft Dice, averaged over samples and channels.

    `(2 sum(t p) + 1) / (sum(t) + sum(p) + 1)` over the voxels of a sample.
    """
    target, prediction = ops.cast(target, "float32"), ops.cast(prediction, "float32")
    axes = (1, 2, 3)
    overlap = 2 * ops.sum(target * prediction, axis=axes) + 1
    total = ops.sum(target, axis=axes) + ops.sum(prediction, axis=axes) + 1
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
    """Mean of `(|g| - 1)^2` over the samples of a critic's gradient (b, ...) (Eq. 8)."""
    gradient = ops.cast(gradient, "float32")
    squares = ops.sum(ops.square(gradient), axis=tuple(range(1, len(gradient.shape))))
    # sqrt has an infinite slope at 0; the inner where keeps it out of the gradient.
    positive = squares > 0
    norm = ops.where(positive, ops.sqrt(ops.where(positive, squares, 1.0)), 0.0)
    return ops.mean(ops.square(norm - 1))


def reconstruct_charbonnier(target, output, channels, weights):
    """Each output by the loss that is its head's default, the mean over all channels.

    With the Charbonnier loss for all of them that is Delannoy et al. 2020, Eqs. 6 and 7.
    """
    terms = {
        "charbonnier": lambda t, p: charbonnier(t, p, weights.nu),
        "dice": soft_dice_loss,
        "cross_entropy": binary_cross_entropy,
    }
    total, width = 0.0, 0
    for head, part in channels.items():
        size = part.stop - part.start
        pair = target[..., part], output[..., part]
        pair = pair if head.activation == "image" else _known(*pair)
        total += size * terms[head.loss](*pair)
        width += size
    return total / width


def reconstruct_dice(target, output, channels, weights):
    """Charbonnier loss of the image plus the soft Dice loss of all that is a probability."""
    (image, label), (sr, probability) = (_divided(array, channels) for array in (target, output))
    label, probability = _known(label, probability)
    return charbonnier(image, sr, weights.nu) + soft_dice_loss(label, probability)


def reconstruct_balanced(target, output, channels, weights):
    """Charbonnier loss of the image, binary cross-entropy and soft Dice loss of probabilities.

    The Charbonnier loss alone leaves a rare class at probability 0 for long. Images are measured in
    tenths of the standard deviation of the target's patch, so that errors in a faint patch count as
    much as those in a strong one.
    """
    (image, label), (sr, probability) = (_divided(array, channels) for array in (target, output))
    image, sr = ops.cast(image, "float32"), ops.cast(sr, "float32")
    tenth = ops.maximum(0.1 * ops.std(image, axis=(1, 2, 3), keepdims=True), _LEAST_TENTH)
    image, sr = image / tenth, sr / tenth
    label, probability = _known(label, probability)
    return (
        weights.lambda_image * charbonnier(image, sr, weights.nu)
        + weights.lambda_entropy * binary_cross_entropy(label, probability)
        + weights.lambda_dice * soft_dice_loss(label, probability)
    )


RECONSTRUCTIONS = {
    "charbonnier": reconstruct_charbonnier,
    "dice": reconstruct_dice,
    "balanced": reconstruct_balanced,
}


def _known(target, output):
    """Labels and probabilities, both 0 where the label is not known."""
    target, output = ops.cast(target, "float32"), ops.cast(output, "float32")
    known = target != UNKNOWN
    return ops.where(known, target, 0.0), ops.where(known, output, 0.0)


def _divided(array, channels):
    """The channels of images, and those of probabilities."""
    images = [part for head, part in channels.items() if head.activation == "image"]
    others = [part for head, part in channels.items() if head.activation != "image"]
    return tuple(
        ops.concatenate([array[..., part] for part in parts], axis=-1) for parts in (images, others)
    )
