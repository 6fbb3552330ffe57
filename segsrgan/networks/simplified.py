# SPDX-License-Identifier: MIT
"""A generator rewritten for inference: the same function, computed with less."""

from dataclasses import replace

from segsrgan.networks.generator import build_generator


def simplified(model, patch=None, formulation="fast"):
    """The generator of one input, the image, that computes what `model` computes.

    The resolution map of a conditional generator holds one number everywhere. Reflect padding
    leaves it constant, so the first convolution adds one number per channel to all voxels, and
    the instance normalisation that follows takes it away again: the map and its part of the
    kernel can be left out.

    Args:
        model: a model of `build_generator`.
        patch: three sizes to fix the input; free when None.
        formulation: see `build_generator`.

    Returns:
        A `keras.Model` with the attribute `spec`: `(b, x, y, z, 1)` to
        `(b, x, y, z, 2 + classes)`.
    """
    spec = replace(model.spec, conditional=False)
    result = build_generator(spec, patch, formulation)
    first, *others = model.get_weights()  # the kernel of gen_conv1: (7, 7, 7, 1 or 2, k)
    result.set_weights([first[..., :1, :], *others])
    return result
