# SPDX-License-Identifier: MIT
"""Stacks super-resolved by SegSRGAN, each on its own, before they are aligned and fused."""

from dataclasses import replace

from supermask.views import in_plane


def load_sharpener(weights):
    """The generator that super-resolves stacks.

    Args:
        weights: a file of SegSRGAN, or a name of its registry.

    Returns:
        A `segsrgan.Predictor`.

    Raises:
        WeightsError: if there are no such weights.
    """
    from segsrgan.inference.predictor import Predictor  # loads TensorFlow

    return Predictor(weights)


def sharpen(view, predictor, patch=128):
    """A view whose slices SegSRGAN has filled in, at its in-plane spacing.

    Which voxels were acquired is remembered: the confidences of the fusion stay those of the
    scanner's slices.

    Args:
        view: a `View`; an isotropic one is returned as it is.
        predictor: of `load_sharpener`.
        patch: edge of what the network sees at once, voxels.

    Returns:
        A `View`.

    Raises:
        UserError: if the patch is not divisible by 4, or the result would not fit in memory.
    """
    if view.axis is None:
        return view
    spacing = in_plane(view.grid)
    sharp = predictor.predict(view.volume, patch=patch, new_resolution=spacing).sr
    return replace(view, volume=sharp, acquired=view.grid)
