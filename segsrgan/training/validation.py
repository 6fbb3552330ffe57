# SPDX-License-Identifier: MIT
"""Scores of a generator on the patches of the test images."""

import math

import numpy as np

from segsrgan.volumes import dice, ssim

# SSIM is slow: this many patches, evenly spread, are enough for its mean.
_SSIM_PATCHES = 200
_SSIM_WINDOW = 7


def validate(predict, batches, channels, loss=None, count=None):
    """Scores of a generator on fixed batches.

    Args:
        predict: function from a `Batch` to an array (b, p, p, p, 2 + classes).
        batches: iterable of `Batch`.
        channels: `{Head: slice}`, see `segsrgan.networks.outputs.output_channels`.
        loss: function `(target, output) -> scalar`, whose mean is `val_loss`.
        count: patches in all, to spread those that SSIM is computed on; None: all of them.

    Returns:
        dict of floats: `dice` pooled over all voxels and `mse` over all voxels (as in the
        released code); `patch_dice`, `psnr` (peak = each patch's maximum) and `ssim`, the means
        over the patches (as in the paper, section 4.3), where they are defined; `psnr_input` of
        the interpolated input;
        `val_loss`.
    """
    every = max(1, (count or 0) // _SSIM_PATCHES)
    image, label = (channels_of(channels, kind) for kind in ("image", "sigmoid"))
    rows, overlaps, totals = [], np.zeros(len(label)), np.zeros(len(label))
    for batch in batches:
        output = np.asarray(predict(batch))
        value = float(loss(batch.target, output)) if loss else math.nan
        for x, y, t in zip(batch.lr[..., 0], output, batch.target, strict=True):
            row = {"val_loss": value}
            row |= _image_scores(x, y[..., image["sr"]], t[..., image["sr"]], not len(rows) % every)
            for index, (name, channel) in enumerate(label.items()):
                truth, mask = t[..., channel] > 0.5, y[..., channel] > 0.5
                row[f"patch_{_dice_name(name)}"] = dice(mask, truth)
                overlaps[index] += np.count_nonzero(truth & mask)
                totals[index] += np.count_nonzero(truth) + np.count_nonzero(mask)
            rows.append(row)
    pooled = {
        _dice_name(name): float(2 * overlap / total) if total else 1.0
        for name, overlap, total in zip(label, overlaps, totals, strict=True)
    }
    return pooled | {name: _mean([row[name] for row in rows]) for name in rows[0]}


def channels_of(channels, activation):
    """The channels of one kind of head, `{name: channel}`.

    Args:
        channels: `{Head: slice}`, see `segsrgan.networks.outputs.output_channels`.
        activation: "image" or "sigmoid"; such heads have one channel each.
    """
    return {h.name: part.start for h, part in channels.items() if h.activation == activation}


def _dice_name(head):
    """The column of a head's Dice: the cortex has the one that the released SegSRGAN wrote."""
    return "dice" if head == "cortex" else f"dice_{head}"


def _image_scores(lr, image, reference, with_ssim):
    """Scores of one patch; NaN where they are not defined."""
    mse, baseline = (float(np.mean((a - reference) ** 2)) for a in (image, lr))
    peak = float(reference.max()) ** 2
    return {
        "mse": mse,
        "psnr": _decibel(peak, mse),
        "psnr_input": _decibel(peak, baseline),
        "ssim": _ssim(reference, image) if with_ssim else math.nan,
    }


def _mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _ssim(reference, image):
    """SSIM, or NaN where it is not defined."""
    if min(reference.shape) < _SSIM_WINDOW or reference.max() <= reference.min():
        return math.nan
    return ssim(reference, image, window=_SSIM_WINDOW)


def _decibel(peak, mse):
    """PSNR, or NaN in an empty patch."""
    return 10 * math.log10(peak / max(mse, 1e-12)) if peak > 0 else math.nan
