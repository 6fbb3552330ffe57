# SPDX-License-Identifier: MIT
"""Scores of the test patches, worked out by hand."""

import math

import numpy as np
import pytest

from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import HEADS, Head, output_channels
from segsrgan.training.dataset import Batch
from segsrgan.training.validation import validate
from segsrgan.volumes import ssim

CHANNELS = output_channels(GeneratorSpec(2))


def batch(target):
    numbers = np.zeros(len(target), "float32")
    return Batch(target[..., :1] - 0.2, target, numbers, numbers)


def mean_error(target, output):
    return np.abs(target - output).mean()


def test_scores_by_hand():
    target = np.zeros((2, 2, 1, 1, 2), "float32")
    target[0, :, 0, 0] = [[1.0, 1.0], [0.0, 0.0]]  # image, label
    target[1, :, 0, 0] = [[2.0, 1.0], [0.0, 1.0]]
    output = target.copy()
    output[..., 0] += 0.1  # mse 0.01, psnr 20 dB at peak 1 and 26.02 at peak 2
    output[1, 1, ..., 1] = 0.0  # Dice 1 and 2/3, pooled 2*2/(3+2)
    scores = validate(
        lambda _: output, [batch(target)], CHANNELS, lambda t, y: np.abs(t - y).mean()
    )
    assert scores["mse"] == pytest.approx(0.01, rel=1e-5)
    assert scores["psnr"] == pytest.approx((20 + 26.0206) / 2, rel=1e-5)
    assert scores["psnr_input"] == pytest.approx(scores["psnr"] - 6.0206, rel=1e-5)
    assert scores["dice"] == pytest.approx(0.8)
    assert scores["patch_dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["val_loss"] == pytest.approx((4 * 0.1 + 1) / 8)
    assert math.isnan(scores["ssim"])  # smaller than its window


def test_an_empty_patch_has_no_psnr_and_does_not_spoil_the_mean():
    target = np.zeros((2, 2, 1, 1, 2), "float32")
    target[0, 0, 0, 0] = 1
    output = target + np.float32(0.1)
    scores = validate(lambda _: output, [batch(target)], CHANNELS)
    assert scores["psnr"] == pytest.approx(20, rel=1e-5)
    assert scores["mse"] == pytest.approx(0.01, rel=1e-5)


def test_every_patch_counts_alike_in_batches_of_any_size():
    rng = np.random.default_rng(0)
    target = rng.random((5, 8, 8, 8, 2), dtype="float32")
    outputs = {2: target[:2] * 0.9, 3: target[2:] * 0.5}
    batches = [batch(target[:2]), batch(target[2:])]
    scores = validate(
        lambda b: outputs[len(b.lr)], batches, CHANNELS, lambda t, y: np.abs(t - y).mean()
    )
    whole = np.concatenate([outputs[2], outputs[3]])
    assert scores["mse"] == pytest.approx(float(np.mean((whole - target)[..., 0] ** 2)), rel=1e-5)
    each = [ssim(t[..., 0], y[..., 0]) for t, y in zip(target, whole, strict=True)]
    assert scores["ssim"] == pytest.approx(np.mean(each))


def test_ssim_is_taken_of_a_part_of_many_patches():
    target = np.random.default_rng(0).random((2, 8, 8, 8, 2), dtype="float32")
    few = validate(lambda b: b.target, [batch(target)] * 3, CHANNELS, count=6 * 200)
    assert few["ssim"] == pytest.approx(1.0)


def test_a_head_more_has_its_own_dice(monkeypatch):
    brain = Head("brain", "sigmoid", lambda spec: 1, "Brain_image", "dice", "Brain", 1)
    monkeypatch.setattr("segsrgan.networks.outputs.HEADS", (*HEADS, brain))
    target = np.ones((1, 8, 8, 8, 3), "float32")
    output = target.copy()
    output[:, :4, ..., 2] = 0  # half of it is missed: 2 * 1 / (2 + 1)
    scores = validate(lambda _: output, [batch(target)], output_channels(GeneratorSpec(2)))
    assert scores["dice"] == scores["patch_dice"] == 1
    assert scores["dice_brain"] == scores["patch_dice_brain"] == pytest.approx(2 / 3)
