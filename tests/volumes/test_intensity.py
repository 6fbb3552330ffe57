# SPDX-License-Identifier: MIT
"""Normalisation to [0, 1] and back."""

import numpy as np
import pytest
from volumes.samples import noise

from segsrgan.volumes import Normalisation


def test_positive_images_are_divided_by_their_maximum():
    array = np.array([2.0, 4.0, 8.0])
    normalisation = Normalisation.of(array)
    assert normalisation == Normalisation(shift=0, scale=8, floor=2)
    assert normalisation.apply(array).tolist() == [0.25, 0.5, 1.0]


def test_negative_images_are_shifted_first():
    array = np.array([-2.0, 0.0, 6.0])
    normalisation = Normalisation.of(array)
    assert normalisation == Normalisation(shift=-2, scale=8, floor=-2)
    assert normalisation.apply(array).tolist() == [0.0, 0.25, 1.0]


def test_wholly_negative_images_span_zero_to_one():
    array = np.array([-8.0, -6.0, -4.0])
    assert Normalisation.of(array).apply(array).tolist() == [0.0, 0.5, 1.0]


def test_inverted_values_never_fall_below_the_minimum():
    normalisation = Normalisation.of(np.array([2.0, 8.0]))
    assert normalisation.invert(np.array([-1.0, 0.1, 0.25, 0.5, 2.0])).tolist() == [2, 2, 2, 4, 16]


@pytest.mark.parametrize("offset", [-500.0, 0.0, 200.0])
def test_invert_undoes_apply(offset):
    array = noise((4, 5, 6)) * 1000 + np.float32(offset)
    normalisation = Normalisation.of(array)
    scaled = normalisation.apply(array)
    assert scaled.dtype == np.float32
    assert scaled.min() >= 0
    assert scaled.max() == pytest.approx(1)
    assert normalisation.invert(scaled) == pytest.approx(array, abs=1e-3)


def test_the_source_is_left_alone():
    array = noise((4, 4, 4))
    before = array.copy()
    normalisation = Normalisation.of(array)
    normalisation.invert(normalisation.apply(array))
    assert np.array_equal(array, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(bad):
    array = noise((4, 4, 4))
    array[0, 0, :3] = bad
    with pytest.raises(ValueError, match="3 of 64 NaN or infinite"):
        Normalisation.of(array)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_constant_images_are_refused(value):
    with pytest.raises(ValueError, match="all equal"):
        Normalisation.of(np.full((3, 3, 3), value))


def test_images_without_a_usable_scale_are_refused():
    with pytest.raises(ValueError, match="scale it up"):
        Normalisation.of(np.array([0.0, 1e-42]))
