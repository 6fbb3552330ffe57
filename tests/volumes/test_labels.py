# SPDX-License-Identifier: MIT
"""Chosen labels of every stored type, and one object however its mask is written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from volumes.samples import noise

from segsrgan.errors import VolumeError
from segsrgan.evaluation.run import class_of
from segsrgan.volumes import object_of, select_labels

LARGE = 576073732  # of the Allen atlas; float32 holds every 64th number there


def line(*values, dtype=np.float32):
    return np.array(values, dtype).reshape(-1, 1, 1)


def chosen(array, *values):
    return select_labels(array, values, "a.nii").ravel().tolist()


def test_chosen_labels_are_exact_in_integers_and_tolerant_of_scaling():
    array = line(0, 1, 3, 42)
    assert [chosen(array, 3), chosen(array, 3, 42), chosen(array, 0)] == [
        [0, 0, 1, 0],
        [0, 0, 1, 1],
        [1, 0, 0, 0],
    ]
    assert chosen(line(0.0004, 2.9997, 3.0000457), 3) == [0, 1, 1]
    for dtype in (np.uint32, np.int64, np.uint64, np.float64):
        assert chosen(line(0, LARGE - 4, LARGE, dtype=dtype), LARGE) == [0, 0, 1]
    assert chosen(line(2**63 + 1, 2**63 + 2, dtype=np.uint64), 2**63 + 1) == [1, 0]
    assert chosen(line(0, 255, dtype=np.uint8), 255, 300, -1) == [0, 1]


def test_labels_that_cannot_be_told_apart_are_no_labels_or_absent_are_named(caplog):
    with pytest.raises(VolumeError, match=f"a.nii: .*above 16777216 such as {LARGE} cannot be"):
        chosen(line(0, LARGE), LARGE)
    with pytest.raises(VolumeError, match="a.nii: expected the labels 3, 42, received fractions"):
        chosen(line(0, 0.3), 3, 42)
    assert not caplog.text
    assert chosen(line(0, 2, LARGE, dtype=int), 3, 42) == [0, 0, 0]
    assert f"a.nii: has none of the labels 3, 42, only 0, 2, {LARGE}" in caplog.text


SHAPE = (20, 22, 16)
BOX = np.zeros(SHAPE, bool)
BOX[6:14, 7:16, 4:11] = True
FINE = ndimage.gaussian_filter(BOX.astype(np.float64), 1.0)  # with soft edges
RINGING = ndimage.zoom(ndimage.zoom(BOX.astype(float), 0.5, order=1), 2, order=3)[:20, :22, :16]


TISSUES = ndimage.zoom((np.indices((10, 11, 8)).sum(axis=0) // 7)[::-1] * 1.0, 2, order=1)


def levels(outside, inside):
    return np.where(BOX, inside, outside)


def one_voxel(array, value):
    array = array.copy()
    array[0, 0, 0] = value
    return array


SHARP = [
    levels(0, 1).astype(bool),
    levels(0, 255).astype(np.uint8),
    levels(0, 42),
    levels(1, 2),
    levels(1, 201).astype(np.uint8),
    levels(-1e-7, 1),
    levels(-0.02, 1.02),
    levels(0.004, 0.904),
    levels(1, 201) / 255,
    one_voxel(levels(0, 97.5), 0.4),
    levels(0.4, 97.5),
    levels(-3, 262),
    levels(0.6, 0.9),
    levels(0.01, 0.9) + 0.02 * (noise(SHAPE) - 0.5),
]
SOFT = [FINE, FINE * 100, FINE * 97.5 + 0.4, FINE * 255, np.rint(FINE * 255), FINE * 0.9 + 0.004]


@pytest.mark.parametrize("array", [*SHARP, *SOFT])
@pytest.mark.parametrize("dtype", [None, np.float32])
def test_the_object_is_the_same_however_its_mask_is_written(array, dtype):
    found = object_of(array if dtype is None else array.astype(dtype), "a.nii")
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    expected = BOX if any(array is sharp for sharp in SHARP) else FINE >= 0.5
    assert np.count_nonzero((found >= 0.5) != expected) <= 0.01 * BOX.sum()


@settings(deadline=None, max_examples=50)
@given(inside=st.floats(0.51, 1e6), floor=st.floats(-0.1, 0.4))
def test_of_two_values_the_larger_is_the_object(inside, floor):
    array = levels(inside * floor, inside).astype(np.float32)
    assert np.array_equal(object_of(array, "a.nii") >= 0.5, BOX)


def test_a_mask_that_seems_inverted_is_pointed_out(caplog):
    assert np.array_equal(object_of(levels(255, 0), "a.nii"), ~BOX)
    assert "a.nii: its object, 255, fills all corners of the image; check that" in caplog.text
    caplog.clear()
    object_of(np.where(BOX, 1, one_voxel(BOX * 0, 1)), "a.nii")
    assert not caplog.text


def test_probabilities_stay_and_what_is_nowhere_probable_is_no_object():
    assert object_of(FINE, "a.nii") == pytest.approx(FINE, abs=1e-6)
    assert object_of(FINE * 100, "a.nii") == pytest.approx(FINE, abs=0.01)
    assert object_of(RINGING, "a.nii") == pytest.approx(np.clip(RINGING, 0, 1), abs=1e-6)
    for array in (FINE * 0.03, levels(0.004, 0.03), np.zeros(SHAPE)):
        assert not (object_of(array, "a.nii") >= 0.5).any()
    assert object_of(np.ones(SHAPE), "a.nii").all()


def test_every_label_but_zero_is_the_object():
    labels = BOX * (1 + np.arange(SHAPE[0])[:, None, None] % 5 * 10)
    for array in (labels, labels.astype(np.float32) + 4e-4):
        assert np.array_equal(object_of(array, "a.nii"), BOX)
    atlas = np.where(
        BOX, 1 + (np.indices(SHAPE) // 4 * [[[[5]]], [[[25]]], [[[1]]]]).sum(axis=0), 0
    )
    assert len(np.unique(atlas)) > 15
    assert np.array_equal(object_of(atlas, "a.nii"), BOX)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (levels(0, 1) - one_voxel(levels(0, 0), 1), "holds -1, 0, 1, labels below 0"),
        (levels(-1, 0), "holds -1, 0, labels below 0"),
        (levels(3, 1) + one_voxel(levels(0, 0), 1), "holds 1, 3, 4, of which"),
        (np.where(BOX, 3, TISSUES), "holds .*, labels and fractions, as after an interpolation"),
        (800 * noise(SHAPE), "holds .* different values from .* as an image has"),
        (np.arange(7040).reshape(SHAPE), "holds 7040 different values from 0 to 7039, as an image"),
    ],
)
def test_unclear_masks_are_refused_with_their_values(array, message):
    with pytest.raises(VolumeError, match=f"a.nii: {message}") as caught:
        object_of(array, "a.nii")
    assert "--labels" in str(caught.value)


def test_a_class_is_made_of_labels_probabilities_or_a_mask(caplog):
    array, fractions = line(0, 0, 1, 3, 42), line(0, 0.25, 0.5, 0.9, 1)
    assert class_of(array, None, "a.nii").ravel().tolist() == [0, 0, 1, 1, 1]
    assert class_of(array, (3,), "a.nii").ravel().tolist() == [0, 0, 0, 1, 0]
    assert np.array_equal(class_of(fractions, None, "a.nii"), fractions)
    assert np.array_equal(class_of(levels(-0.02, 97.5), None, "a.nii"), BOX)
    assert not caplog.text
    assert class_of(line(-1, 0, 1), None, "a.nii").ravel().tolist() == [1, 0, 1]
    assert "a.nii: holds -1, 0, 1" in caplog.text and "taking every value but 0" in caplog.text
    with pytest.raises(VolumeError, match="a.nii: holds"):
        class_of(800 * noise(SHAPE), None, "a.nii")
