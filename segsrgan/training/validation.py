# SPDX-License-Identifier: MIT
"""What shows how well a training goes: scores of the test patches, and pictures of them."""

import math

import numpy as np
from skimage.util import montage

from segsrgan.volumes import dice, ssim
from segsrgan.volumes.intensities import grey

# SSIM is slow: this many patches, evenly spread, are enough for its mean.
_SSIM_PATCHES = 200
_SSIM_WINDOW = 7
# Pixels: a patch of 64 voxels is shown three times its size.
_TILE, _GAP, _HEADING = 192, 4, 20
_RED = np.array([255, 40, 40], np.float32)


def validate(predict, batches, channels, loss=None, count=None):
    """Scores of a generator on fixed batches, a dict of floats.

    `dice` and `mse` are pooled over all voxels (as in the released code). The means over the
    patches (as in the paper, section 4.3), where they are defined, are `patch_dice`, `psnr` (peak:
    each patch's maximum), `psnr_input` of the interpolated input, `ssim` and `val_loss`.

    Args:
        predict: function from a `Batch` to an array (b, p, p, p, 2 + classes).
        batches: iterable of `Batch`.
        channels: `{Head: slice}`, see `segsrgan.networks.outputs.output_channels`.
        loss: function `(target, output) -> scalar`, whose mean is `val_loss`.
        count: patches in all, to spread those that SSIM is computed on; None: all of them.
    """
    every = max(1, (count or 0) // _SSIM_PATCHES)
    (image,), labels = (_channels_of(channels, kind) for kind in ("image", "sigmoid"))
    rows, overlaps, totals = [], np.zeros(len(labels)), np.zeros(len(labels))
    for batch in batches:
        output = np.asarray(predict(batch))
        value = float(loss(batch.target, output)) if loss else math.nan
        for x, y, t in zip(batch.lr[..., 0], output, batch.target, strict=True):
            row = {"val_loss": value}
            row |= _image_scores(x, y[..., image[1]], t[..., image[1]], not len(rows) % every)
            for index, (name, channel) in enumerate(labels):
                truth, mask = t[..., channel] > 0.5, y[..., channel] > 0.5
                row[f"patch_{_dice_name(name)}"] = dice(mask, truth)
                overlaps[index] += np.count_nonzero(truth & mask)
                totals[index] += np.count_nonzero(truth) + np.count_nonzero(mask)
            rows.append(row)
    pooled = {
        _dice_name(name): float(2 * overlap / total) if total else 1.0
        for (name, _), overlap, total in zip(labels, overlaps, totals, strict=True)
    }
    return pooled | {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _channels_of(channels, activation):
    """`(name, channel)` of each head of one kind, "image" or "sigmoid", which have one channel."""
    return [(h.name, part.start) for h, part in channels.items() if h.activation == activation]


def _dice_name(head):
    """The column of a head's Dice: the cortex has the one that the released SegSRGAN wrote."""
    return "dice" if head == "cortex" else f"dice_{head}"


def _image_scores(lr, image, reference, with_ssim):
    """Scores of one patch; NaN where they are not defined."""
    mse, baseline = (float(np.mean((a - reference) ** 2)) for a in (image, lr))
    peak = float(reference.max()) ** 2
    scores = {"mse": mse, "psnr": _decibel(peak, mse), "psnr_input": _decibel(peak, baseline)}
    defined = min(reference.shape) >= _SSIM_WINDOW and reference.max() > reference.min()
    score = ssim(reference, image, window=_SSIM_WINDOW) if with_ssim and defined else math.nan
    return scores | {"ssim": score}


def _mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def _decibel(peak, mse):
    """PSNR, or NaN in an empty patch."""
    return 10 * math.log10(peak / max(mse, 1e-12)) if peak > 0 else math.nan


def patch_picture(lr, output, target, channels):
    """Draws the middle planes of a patch, uint8 (height, width, 3), RGB.

    ```
          LR   SR   HR   label  prediction
    yz    [ ]  [ ]  [ ]  [ ]    [ ]
    xz    ...
    xy    ...
    ```

    LR (x, y, z, 1), SR and HR share one grey scale, from the darkest to the brightest voxel of the
    HR patch; label and prediction go from black at 0 to white at 1. What is not a number is black.
    Output and target are (x, y, z, image + label + classes), `channels` says where which head is;
    each probability of one class has two columns, its truth and its prediction.
    """
    hr = target[..., 0]
    scale = float(hr.min()), float(hr.max())
    columns = {"LR": (lr[..., 0], *scale), "SR": (output[..., 0], *scale), "HR": (hr, *scale)}
    for name, channel in _channels_of(channels, "sigmoid"):
        head = "" if name == "cortex" else f"{name} "
        columns[f"{head}label"] = (target[..., channel], 0.0, 1.0)
        columns[f"{head}prediction"] = (output[..., channel], 0.0, 1.0)
    return planes_picture(columns)


def planes_picture(images):
    """Draws the middle planes of cubic volumes in columns, uint8 (height, width, 3), RGB.

    The first axis of a plane points to the right, the second up.

    Args:
        images: `{title: (volume (x, y, z), value drawn black, value drawn white)}`.
    """
    volumes = [grey(*image) for image in images.values()]
    rows = [[np.rot90(v.take(len(v) // 2, axis)) for v in volumes] for axis in range(3)]
    return _titled(rows, images)


def side_views(lr, hr, label):
    """The middle plane yz of a cubic sample, seen from the side: the thick axis z points up.

    LR and HR, both (x, y, z), share one grey scale, from the darkest to the brightest voxel of HR.
    The three views, uint8 (z, y, 3), RGB, are LR, HR, and HR with the label, above 0.5, in red.
    """
    low, high = float(hr.min()), float(hr.max())
    lr, hr, label = (np.rot90(array[len(array) // 2]) for array in (lr, hr, label))
    views = [np.stack([grey(plane, low, high)] * 3, axis=-1) for plane in (lr, hr, hr)]
    inside = label > 0.5
    views[2][inside] = (views[2][inside] / 2 + _RED / 2).astype(np.uint8)
    return views


def contact_sheet(rows):
    """Draws the `side_views` of samples below each other, uint8 (height, width, 3), RGB."""
    return _titled(rows, ("LR", "HR", "label"))


def _titled(rows, titles):
    """Rows of planes of one size, uint8 (edge, edge[, 3]), enlarged, below their titles."""
    from PIL import Image, ImageDraw  # slow to import

    planes = np.stack([plane for row in rows for plane in row])
    factor = max(1, round(_TILE / planes.shape[1]))
    planes = planes.repeat(factor, axis=1).repeat(factor, axis=2)
    if planes.ndim == 3:
        planes = np.stack([planes] * 3, axis=-1)
    grid = montage(
        planes,
        fill=(255,) * 3,
        grid_shape=(len(rows), len(titles)),
        padding_width=_GAP,
        channel_axis=-1,
    )
    heading = [(_HEADING - _GAP, 0), (0, 0), (0, 0)]  # the grid begins with a gap
    picture = Image.fromarray(np.pad(grid, heading, constant_values=255)[:, :-_GAP])
    draw = ImageDraw.Draw(picture)
    for index, title in enumerate(titles):
        draw.text((index * (planes.shape[2] + _GAP) + _GAP, _GAP), title, fill=(0, 0, 0))
    return np.asarray(picture)
