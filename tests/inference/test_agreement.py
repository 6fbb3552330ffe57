# SPDX-License-Identifier: MIT
"""How near two outputs of a network are, worked out by hand."""

import math

import numpy as np
import pytest

from segsrgan.inference.export import agreement, sample_patch


def test_the_peak_is_the_references_range():
    # Range 4; errors 0.4 and three times 0, mean square 0.04: 10 log10(16 / 0.04) dB.
    reference = np.array([-1, 3, 0.2, 0.7])
    assert agreement(reference, [-0.6, 3, 0.2, 0.7]) == pytest.approx(10 * math.log10(400))


def test_equal_and_useless_outputs():
    same = np.array([1.0, 1.0, 0.1])
    assert agreement(same, same) == agreement([1, 1], [1, 1]) == 999
    assert agreement(same, same * np.nan) == agreement(same, same * np.inf) == 0


def test_the_sample_has_structure_background_and_the_right_range():
    patch = sample_patch(32)
    assert patch.shape == (1, 32, 32, 32, 1)
    assert patch.dtype == np.float32
    assert patch.min() == 0 and 0.9 < patch.max() <= 1
    assert 0.1 < (patch == 0).mean() < 0.5
    np.testing.assert_array_equal(patch, sample_patch(32))
