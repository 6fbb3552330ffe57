# SPDX-License-Identifier: MIT
"""Scores of the test patches, worked out by hand; pictures: what is drawn where, how bright."""

import math

import numpy as np
import pytest

from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import output_channels
from segsrgan.training.dataset import Batch
from segsrgan.training.validation import _GAP, _HEADING, patch_picture, validate
from segsrgan.volumes import ssim

CHANNELS = output_channels(GeneratorSpec(2))
SIZE, FACTOR = 8, 24
TILE = SIZE * FACTOR


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
    scores = validate(lambda _: output, [batch(target)], CHANNELS, mean_error)
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
    scores = validate(lambda b: outputs[len(b.lr)], batches, CHANNELS, mean_error)
    whole = np.concatenate([outputs[2], outputs[3]])
    assert scores["mse"] == pytest.approx(float(np.mean((whole - target)[..., 0] ** 2)), rel=1e-5)
    each = [ssim(t[..., 0], y[..., 0]) for t, y in zip(target, whole, strict=True)]
    assert scores["ssim"] == pytest.approx(np.mean(each))


def test_ssim_is_taken_of_a_part_of_many_patches():
    target = np.random.default_rng(0).random((2, 8, 8, 8, 2), dtype="float32")
    output = target * [[[[[1]]]], [[[[0]]]]]  # of each second patch nothing is right
    few = validate(lambda _: output, [batch(target)] * 3, CHANNELS, count=2 * 200)
    assert few["ssim"] == pytest.approx(1.0)


def test_a_head_more_has_its_own_dice(brain):
    target = np.ones((1, 8, 8, 8, 3), "float32")
    output = target.copy()
    output[:, :4, ..., 2] = 0  # half of it is missed: 2 * 1 / (2 + 1)
    scores = validate(lambda _: output, [batch(target)], output_channels(brain))
    assert scores["dice"] == scores["patch_dice"] == 1
    assert scores["dice_brain"] == scores["patch_dice_brain"] == pytest.approx(2 / 3)


def patch(channels=2):
    return np.zeros((SIZE, SIZE, SIZE, channels), "float32")


def draw(lr, output, target, channels=CHANNELS):
    return patch_picture(lr, output, target, channels)


def tile(picture, row, column):
    """The plane in a row and column, shrunk to one pixel a voxel."""
    top, left = _HEADING + row * (TILE + _GAP), _GAP + column * (TILE + _GAP)
    part = picture[top : top + TILE, left : left + TILE]
    assert part.shape == (TILE, TILE, 3)
    assert (part == part[..., :1]).all()
    return part[::FACTOR, ::FACTOR, 0]


def test_a_picture_has_five_columns_three_rows_and_titles():
    picture = draw(patch(1), patch(), patch())
    assert picture.dtype == np.uint8
    assert picture.shape == (_HEADING + 3 * (TILE + _GAP), 5 * (TILE + _GAP), 3)
    for column in range(5):
        left = column * (TILE + _GAP)
        assert (picture[:_HEADING, left : left + TILE] < 128).any()
    assert (picture[_HEADING + TILE : _HEADING + TILE + _GAP] == 255).all()
    big = np.zeros((64, 64, 64, 2), "float32")  # is as easy to see
    assert draw(big[..., :1], big, big).shape == picture.shape


def test_rows_are_the_middle_planes_with_the_first_axis_right_and_the_second_up():
    target = patch()
    target[4, 1, 2, 0] = target[1, 4, 2, 0] = target[1, 2, 4, 0] = 1.0
    picture = draw(patch(1), patch(), target)
    for row in range(3):  # (1, 2) of the two axes that are left
        plane = tile(picture, row, 2)
        assert np.argwhere(plane).tolist() == [[SIZE - 1 - 2, 1]]


def test_columns_are_low_resolution_result_truth_and_of_each_head_label_and_prediction(brain):
    lr, output, target = patch(1), patch(4), patch(3)
    target[:4, ..., 0] = 0.5  # the scale is 0 to 0.5
    lr[..., 0], output[..., 0] = 0.25, 0.75
    target[..., 1], output[..., 1] = 1.0, 0.2
    target[..., 2], output[..., 2] = 0.4, 0.6
    output[..., 3:] = 9.0
    picture = draw(lr, output, target, output_channels(brain))
    first = [int(tile(picture, 2, column)[0, 0]) for column in range(7)]
    assert first == [128, 255, 255, 255, 51, 102, 153]
    assert int(tile(picture, 2, 2)[0, -1]) == 0


def test_what_is_no_number_and_what_is_constant_can_be_drawn():
    output, target = patch(), patch()
    output[...] = np.nan
    target[...] = 3.0
    picture = draw(patch(1), output, target)
    assert (tile(picture, 0, 1) == 0).all() and (tile(picture, 0, 4) == 0).all()
