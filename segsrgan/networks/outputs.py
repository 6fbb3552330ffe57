# SPDX-License-Identifier: MIT
"""The outputs of the networks: one list of heads, which all else follows.

The generator's channels are those of the heads, in the order of the list; the discriminator sees
the same. A further head is one more entry of `HEADS`: networks whose spec names it in `heads` have
it, those that are trained already stay what they are.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """One output of the generator.

    Attributes:
        name: what results and losses call it.
        activation: what the network's last channels become: "image" (the input minus a
            correction, or the channel itself), "sigmoid" (a probability in [0, 1]) or "softmax"
            (probabilities of classes, whose sum is 1).
        width: function of a spec, the number of its channels; 0 where a network lacks it.
        target: column of a training's CSV file with the truth.
        loss: name of the reconstruction loss that is its default.
        file: the prefix of its result file.
        spline_order: of the interpolation onto the grid of the result.
    """

    name: str
    activation: str
    width: Callable
    target: str
    loss: str
    file: str
    spline_order: int


def optional(name):
    """The `width` of a head of one channel that networks have if their spec's `heads` name it."""
    return lambda spec: int(name in spec.heads)


HEADS = (
    Head("sr", "image", lambda spec: 1, "HR_image", "charbonnier", "SR", 3),
    Head("cortex", "sigmoid", lambda spec: 1, "Label_image", "charbonnier", "Cortex", 1),
    Head("mask", "softmax", lambda spec: spec.mask_classes, "Mask_image", "charbonnier", "Mask", 1),
)


def output_channels(spec):
    """The heads that the network of a spec has, and where they lie among its channels.

    Returns:
        dict, `Head` -> slice of the last axis of an output or target `(b, x, y, z, channels)`.
    """
    channels, start = {}, 0
    for head in HEADS:
        if width := head.width(spec):
            channels[head] = slice(start, start + width)
            start += width
    return channels


def channel_count(spec):
    """The number of channels of a network's output."""
    return sum(head.width(spec) for head in HEADS)
