# SPDX-License-Identifier: MIT
"""Losses against hand-computed values."""

import numpy as np
import pytest

from segsrgan.training import losses


def column(values):
    """One sample and channel, `(1, n, 1, 1, 1)`."""
    return np.array(values, "float32").reshape(1, -1, 1, 1, 1)


def test_charbonnier_of_a_difference_of_3_and_4():
    value = losses.charbonnier(column([3.0, 0.0]), column([0.0, 4.0]), nu=4.0)
    assert float(value) == pytest.approx((5.0 + np.sqrt(32.0)) / 2)  # sqrt(9+16), sqrt(16+16)


def test_charbonnier_of_equal_images_is_nu():
    x = column([0.2, 0.7])
    assert float(losses.charbonnier(x, x)) == pytest.approx(1e-3)


def test_soft_dice_by_hand():
    # overlap 0.5, sums 1 and 1: 1 - (2*0.5 + 1) / (2 + 1)
    value = losses.soft_dice_loss(column([1.0, 0.0]), column([0.5, 0.5]))
    assert float(value) == pytest.approx(1 / 3)


def test_soft_dice_averages_over_samples_and_channels():
    target = np.zeros((2, 1, 1, 1, 2), "float32")
    target[0, ..., 0] = 1
    # Sample 0, channel 0 is missed: 1 - 1/2; the three others are rightly empty: 0.
    assert float(losses.soft_dice_loss(target, np.zeros_like(target))) == pytest.approx(0.5 / 4)


def test_binary_cross_entropy_by_hand():
    value = losses.binary_cross_entropy(column([1.0, 0.0]), column([0.25, 0.5]))
    assert float(value) == pytest.approx(-(np.log(0.25) + np.log(0.5)) / 2, rel=1e-5)


def test_binary_cross_entropy_of_a_sure_error_is_finite():
    assert np.isfinite(float(losses.binary_cross_entropy(column([1.0]), column([0.0]))))


def test_gradient_penalty_by_hand():
    gradient = np.zeros((3, 2, 1, 1, 2), "float32")
    gradient[0, 0, 0, 0] = [3, 4]  # norm 5: 16
    gradient[1, 1, 0, 0, 0] = 1  # norm 1: 0; the third has norm 0: 1
    assert float(losses.gradient_penalty(gradient)) == pytest.approx((16 + 0 + 1) / 3)
