# SPDX-License-Identifier: MIT
"""Where patches lie and how they are cut."""

import numpy as np
import pytest

from segsrgan.training.cases import filled_box
from segsrgan.training.patches import box_starts, cut, overlapping_starts


def corners(starts):
    return sorted(map(tuple, starts.tolist()))


def test_patches_tile_the_bounding_box_with_the_stride():
    array = np.zeros((20, 12, 9))
    array[2:18, 1:11, 4:6] = 1  # 16, 10, 2 voxels
    # x: 2, 6, 10 (10 + 8 = 18); y: 1 (5 + 8 would end at 13 > 11); z: one, inside the image
    starts = box_starts(filled_box(array > 0), array.shape, 8, 4)
    assert corners(starts) == [(2, 1, 1), (6, 1, 1), (10, 1, 1)]


@pytest.mark.parametrize(("patch", "stride"), [(4, 1), (4, 3), (5, 2), (9, 4)])
def test_patches_by_overlap_against_brute_force(patch, stride):
    mask = np.random.default_rng(0).random((13, 11, 8)) < np.linspace(0.2, 0.9, 8)
    places = np.argwhere(np.ones([max(n - patch, 0) // stride + 1 for n in mask.shape])) * stride
    expected = [
        (x, y, z)
        for x, y, z in places.tolist()
        if mask[x : x + patch, y : y + patch, z : z + patch].sum() > patch**3 / 2
    ]
    assert expected
    assert corners(overlapping_starts(mask, patch, stride)) == sorted(expected)


def test_half_of_a_patch_is_not_enough():
    mask = np.zeros((4, 4, 4), bool)
    mask[:2] = True
    assert len(overlapping_starts(mask, 4, 1)) == 0
    mask[2, 0, 0] = True
    assert corners(overlapping_starts(mask, 4, 1)) == [(0, 0, 0)]


def test_a_patch_beyond_the_end_is_filled_with_zeros_before_it_is_flipped():
    array = np.arange(1, 9).reshape(2, 2, 2)
    out = np.full((3, 3, 3), -1)
    cut(array, (1, 0, 0), (True, False, True), out)
    expected = np.zeros((3, 3, 3))
    expected[2, :2, 1:] = [[6, 5], [8, 7]]
    np.testing.assert_array_equal(out, expected)
