# SPDX-License-Identifier: MIT
"""How near two outputs of a network are, worked out by hand."""

import math

import numpy as np
import pytest

from segsrgan.inference.agreement import Agreement, compare, sample_patch


def output(image, probability):
    """An output of 1x1xn voxels."""
    return np.stack([image, probability], axis=-1).astype(np.float32).reshape(1, 1, 1, -1, 2)


def test_the_peak_is_the_range_of_the_references_image():
    # Range 4; errors 0.4 and 0, mean square 0.08: 10 log10(16 / 0.08) dB.
    found = compare(output([-1, 3], [0.2, 0.7]), output([-0.6, 3], [0.2, 0.7]))
    assert found.psnr == pytest.approx(10 * math.log10(200), rel=1e-5)
    assert found.difference == pytest.approx(0.4)
    assert found.dice == 1


def test_dice_is_that_of_the_segmentations():
    found = compare(output([0, 1, 1], [0.5, 0.9, 0.1]), output([0, 1, 1], [0.49, 0.9, 0.2]))
    assert found.dice == pytest.approx(2 / 3)
    assert found.psnr == 999


def test_equal_and_useless_outputs():
    same = output([1, 1], [0.1, 0.2])
    assert compare(same, same) == Agreement(999.0, 1.0, 0.0)
    useless = compare(same, same * np.nan)
    assert not useless.holds()
    assert useless.difference == math.inf


@pytest.mark.parametrize(
    ("psnr", "dice", "holds"), [(50, 0.999, True), (49.9, 1, False), (99, 0.998, False)]
)
def test_the_limits_are_those_of_the_documentation(psnr, dice, holds):
    assert Agreement(psnr, dice, 0.0).holds() is holds


def test_the_sample_has_structure_background_and_the_right_range():
    patch = sample_patch(32)
    assert patch.shape == (1, 32, 32, 32, 1)
    assert patch.dtype == np.float32
    assert patch.min() == 0 and 0.9 < patch.max() <= 1
    assert 0.1 < (patch == 0).mean() < 0.5
    np.testing.assert_array_equal(patch, sample_patch(32))
