# SPDX-License-Identifier: MIT
"""Scores of a segmentor and an AlignNet on the views of test examinations."""

import math

import numpy as np

from segsrgan.training.losses import soft_dice_loss
from segsrgan.volumes import dice
from supermask.losses import similarity_loss


def validate(step, test, spacing, window, segmentor=True, alignnet=True):
    """Scores on fixed batches.

    Args:
        step: a `Step`.
        test: a `Dataset`.
        spacing: of its grid, mm.
        window: of the local cross-correlation, voxels.
        segmentor: whether there is a segmentor to be scored.
        alignnet: whether there is an AlignNet.

    Returns:
        dict of floats, means over the views or pairs. Of the segmentor: `dice`. Of AlignNet, each
        also before it with the suffix `_before`: `similarity`, the local cross-correlation;
        `overlap`, the Dice of the masks; where the motion is known `angle_error`, degrees, and
        `shift_error`, mm of the grid's middle. `val_loss`: the soft Dice loss plus the
        similarity loss, as far as there are networks for them.
    """
    result, loss = {}, 0.0
    if segmentor:
        rows = [row for batch in test.fixed_singles() for row in _of_masks(step, batch)]
        result["dice"], dice_loss = _means(rows)
        loss += dice_loss
    if alignnet and test.pairs:
        rows = []
        for batch in test.fixed_pairs():
            rows += _of_pairs(step, batch, spacing, window)
        names = dict.fromkeys(name for row in rows for name in row)
        means = {name: _mean([row.get(name, math.nan) for row in rows]) for name in names}
        result |= {name: value for name, value in means.items() if not math.isnan(value)}
        loss += 1 - result["similarity"]
    return {**result, "val_loss": loss}


def _of_masks(step, batch):
    answers = step.segment(batch.image)
    for mask, answer in zip(batch.mask, answers, strict=True):
        soft = soft_dice_loss(mask[np.newaxis], answer[np.newaxis])
        yield dice(answer[..., 0] >= 0.5, mask[..., 0] > 0.5), float(np.asarray(soft))


def _of_pairs(step, batch, spacing, window):
    found = step.align(batch.moving, batch.fixed)
    nothing = np.broadcast_to(np.eye(3, 4, dtype=np.float32), found.shape)
    rows = [{} for _ in found]
    for suffix, matrices in (("", found), ("_before", np.ascontiguousarray(nothing))):
        images, masks = (step.move(v, matrices) for v in (batch.moving, batch.moving_mask))
        for index, row in enumerate(rows):
            one = slice(index, index + 1)
            unlike = similarity_loss(images[one], batch.fixed[one], window)
            row[f"similarity{suffix}"] = 1 - float(np.asarray(unlike))
            moved, fixed = masks[index, ..., 0] >= 0.5, batch.fixed_mask[index, ..., 0] > 0.5
            row[f"overlap{suffix}"] = dice(moved, fixed)
            if batch.known[index]:
                errors = motion_errors(matrices[index], batch.matrix[index], spacing)
                row[f"angle_error{suffix}"], row[f"shift_error{suffix}"] = errors
    return rows


def motion_errors(first, second, spacing):
    """How far two motions (3, 4) are apart: degrees, and mm at the grid's middle."""
    # By the sine of half the angle: the cosine of the whole tells small ones badly apart.
    half = np.linalg.norm(first[:, :3] - second[:, :3]) / np.sqrt(8)
    angle = float(np.rad2deg(2 * np.arcsin(min(1.0, half))))
    return angle, float(spacing * np.linalg.norm(first[:, 3] - second[:, 3]))


def _means(rows):
    return tuple(_mean(column) for column in zip(*rows, strict=True))


def _mean(values):
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
