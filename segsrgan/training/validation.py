# SPDX-License-Identifier: MIT
"""Scores of a generator on the patches of the test images."""

import math

import numpy as np

from segsrgan.volumes import dice, ssim

# SSIM is slow: this many patches, evenly spread, are enough for its mean.
_SSIM_PATCHES = 200
_SSIM_WINDOW = 7


def validate(predict, batches, loss=None, count=None):
    """Scores of a generator on fixed batches.

    Args:
        predict: function from a `Batch` to an array (b, p, p, p, 2 + classes).
        batches: iterable of `Batch`.
        loss: function `(target, output) -> scalar`, whose mean is `val_loss`.
        count: patches in all, to spread those that SSIM is computed on; None: all of them.

    Returns:
        dict of floats: `dice` pooled over all voxels and `mse` over all voxels (as in the
        released code); `patch_dice`, `psnr` (peak = each patch's maximum) and `ssim`, the means
        over the patches (as in the paper, section 4.3); `psnr_input` of the interpolated input;
        `val_loss`.
    """
    rows, overlap, total, structure = [], 0, 0, []
    every = max(1, (count or 0) // _SSIM_PATCHES)
    for batch in batches:
        output = np.asarray(predict(batch))
        value = float(loss(batch.target, output)) if loss else math.nan
        for x, y, t in zip(batch.lr[..., 0], output, batch.target, strict=True):
            image, mask, label = y[..., 0], y[..., 1] > 0.5, t[..., 1] > 0.5
            mse, baseline = (float(np.mean((a - t[..., 0]) ** 2)) for a in (image, x))
            peak = float(t[..., 0].max()) ** 2
            if len(rows) % every == 0:
                structure.append(_ssim(t[..., 0], image))
            scores = mse, _decibel(peak, mse), _decibel(peak, baseline), dice(mask, label)
            rows.append((*scores, value))
            overlap += int(np.count_nonzero(label & mask))
            total += int(np.count_nonzero(label)) + int(np.count_nonzero(mask))
    names = ("mse", "psnr", "psnr_input", "patch_dice", "val_loss")
    result = dict(zip(names, map(float, np.mean(rows, axis=0)), strict=True))
    defined = [value for value in structure if value is not None]
    result["ssim"] = float(np.mean(defined)) if defined else math.nan
    result["dice"] = 2 * overlap / total if total else 1.0
    return result


def _ssim(reference, image):
    """SSIM, or None where it is not defined."""
    if min(reference.shape) < _SSIM_WINDOW or reference.max() <= reference.min():
        return None
    return ssim(reference, image, window=_SSIM_WINDOW)


def _decibel(peak, mse):
    return 10 * math.log10(max(peak, 1e-12) / max(mse, 1e-12))
