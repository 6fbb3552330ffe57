# SPDX-License-Identifier: MIT
"""Normalisation to [0, 1] and back."""

import numpy as np
import pytest
from volumes.samples import noise

from segsrgan.volumes import Normalisation


@pytest.mark.parametrize(
    ("array", "expected", "scaled"),
    [
        ([2, 4, 8], (0, 8, 2), [0.25, 0.5, 1]),
        ([-2, 0, 6], (-2, 8, -2), [0, 0.25, 1]),  # negative values: shifted first
        ([-8, -6, -4], (-8, 4, -8), [0, 0.5, 1]),
    ],
)
def test_images_are_divided_by_their_maximum_above_zero(array, expected, scaled):
    array = np.array(array, float)
    assert Normalisation.of(array) == Normalisation(*expected)
    assert Normalisation.of(array).apply(array).tolist() == scaled


def test_inverted_values_never_fall_below_the_minimum():
    normalisation = Normalisation.of(np.array([2.0, 8.0]))
    assert normalisation.invert(np.array([-1.0, 0.1, 0.25, 0.5, 2.0])).tolist() == [2, 2, 2, 4, 16]


@pytest.mark.parametrize("offset", [-500.0, 0.0, 200.0])
def test_invert_undoes_apply(offset):
    array = noise((4, 5, 6)) * 1000 + np.float32(offset)
    before = array.copy()
    normalisation = Normalisation.of(array)
    scaled = normalisation.apply(array)
    assert scaled.dtype == np.float32
    assert scaled.min() >= 0
    assert scaled.max() == pytest.approx(1)
    assert normalisation.invert(scaled) == pytest.approx(array, abs=1e-3)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_numbers_are_counted(bad):
    array = noise((4, 4, 4))
    array[0, 0, :3] = bad
    with pytest.raises(ValueError, match="3 of 64 NaN or infinite"):
        Normalisation.of(array)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([0, 0], "all equal"),
        ([5, 5], "all equal"),
        ([-5, -5], "all equal"),
        ([0, 1e-42], "scale it"),
    ],
)
def test_images_without_contrast_or_a_usable_scale_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        Normalisation.of(np.array(values, float))
