# SPDX-License-Identifier: MIT
"""Whether two ways of computing a generator agree: one patch through both."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.networks import build_generator
from segsrgan.volumes.metrics import dice

# Slice resolution in mm shown to conditional generators.
_RESOLUTION = 3.0
_THRESHOLD = 0.5
# PSNR of equal images, instead of infinity, which JSON does not know.
_LARGEST_PSNR = 999.0


@dataclass(frozen=True)
class Agreement:
    """How near an output comes to the reference.

    Attributes:
        psnr: of the image channel in dB, the peak being the range of the reference's.
        dice: of the segmentations, thresholded at 0.5.
        difference: the largest one of any voxel and channel.
    """

    psnr: float
    dice: float
    difference: float

    def holds(self, least_psnr=50.0, least_dice=0.999):
        """Whether the two are one network in practice."""
        return self.psnr >= least_psnr and self.dice >= least_dice

    def __str__(self):
        return f"{self.psnr:.1f} dB, Dice {self.dice:.4f}, difference {self.difference:.1e}"


def sample_patch(size=64):
    """A patch like those of a head: smooth structures on a background of 0.

    Args:
        size: edge in voxels.

    Returns:
        float32 `(1, size, size, size, 1)` in [0, 1], the same at each call.
    """
    noise = np.random.default_rng(0).standard_normal((size,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, 2.0, mode="wrap")
    patch = np.clip(0.4 + smooth / (4 * smooth.std()), 0, 1)
    # A quarter of the structures is air, and there is a little noise everywhere else.
    patch = np.where(patch > 0.25, np.clip(patch + 0.01 * noise, 0, 1), 0)
    return patch.astype(np.float32)[np.newaxis, ..., np.newaxis]


def plain_output(model, patch):
    """The output of a generator as its layers are written, without any rewriting, in float32.

    Args:
        model: a model of `build_generator`.
        patch: `(1, x, y, z, 1)`.

    Returns:
        float32 `(1, x, y, z, 2 + classes)`.
    """
    import keras

    plain = build_generator(model.spec, formulation="plain")
    plain.set_weights(model.get_weights())
    inputs = [patch, np.full_like(patch, _RESOLUTION)] if model.spec.conditional else patch
    return np.asarray(keras.ops.convert_to_numpy(plain(inputs, training=False)), np.float32)


def compare(reference, output):
    """The `Agreement` of an output with the reference, both `(1, x, y, z, 2 + classes)`."""
    reference, output = np.asarray(reference[0]), np.asarray(output[0])
    if not np.isfinite(output).all():
        return Agreement(0.0, 0.0, math.inf)
    apart = np.abs(np.subtract(output, reference, dtype=np.float64))
    error = float(np.mean(np.square(apart[..., 0])))
    peak = float(np.ptp(reference[..., 0])) or 1.0
    psnr = 10 * math.log10(peak**2 / error) if error else _LARGEST_PSNR
    overlap = dice(reference[..., 1] >= _THRESHOLD, output[..., 1] >= _THRESHOLD)
    return Agreement(min(psnr, _LARGEST_PSNR), overlap, float(apart.max()))
