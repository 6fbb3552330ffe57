# SPDX-License-Identifier: MIT
"""The picture of a patch: what is drawn where, and how bright."""

import numpy as np
import pytest

from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import HEADS, Head, output_channels
from segsrgan.training.picture import _GAP, _HEADING, patch_picture

SIZE, FACTOR = 8, 24
TILE = SIZE * FACTOR


def patch(channels=2):
    return np.zeros((SIZE, SIZE, SIZE, channels), "float32")


def draw(lr, output, target):
    return patch_picture(lr, output, target, output_channels(GeneratorSpec(2)))


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


def test_a_patch_of_64_voxels_is_easy_to_see():
    big = np.zeros((64, 64, 64, 2), "float32")
    assert draw(big[..., :1], big, big).shape == (20 + 3 * 196, 5 * 196, 3)


def test_rows_are_the_middle_planes_with_the_first_axis_right_and_the_second_up():
    target = patch()
    target[4, 1, 2, 0] = target[1, 4, 2, 0] = target[1, 2, 4, 0] = 1.0
    picture = draw(patch(1), patch(), target)
    for row in range(3):  # (1, 2) of the two axes that are left
        plane = tile(picture, row, 2)
        assert np.argwhere(plane).tolist() == [[SIZE - 1 - 2, 1]]


def test_columns_are_low_resolution_result_truth_label_and_prediction():
    lr, output, target = patch(1), patch(4), patch(3)
    target[:4, ..., 0] = 0.5  # the scale is 0 to 0.5
    lr[..., 0], output[..., 0] = 0.25, 0.75
    target[..., 1], output[..., 1] = 1.0, 0.2
    output[..., 2:] = 9.0
    picture = draw(lr, output, target)
    assert [int(tile(picture, 2, column)[0, 0]) for column in range(5)] == [128, 255, 255, 255, 51]
    assert int(tile(picture, 2, 2)[0, -1]) == 0


def test_what_is_no_number_and_what_is_constant_can_be_drawn():
    output, target = patch(), patch()
    output[...] = np.nan
    target[...] = 3.0
    picture = draw(patch(1), output, target)
    assert (tile(picture, 0, 1) == 0).all() and (tile(picture, 0, 4) == 0).all()


def test_patches_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"one patch.*\(8, 8, 8, 1\).*\(4, 8, 8, 2\)"):
        draw(patch(1), patch(), patch()[:4])


def test_a_head_more_has_two_columns_more(monkeypatch):
    brain = Head("brain", "sigmoid", lambda spec: 1, "Brain_image", "dice", "Brain", 1)
    monkeypatch.setattr("segsrgan.networks.outputs.HEADS", (*HEADS, brain))
    output, target = patch(3), patch(3)
    target[..., 2], output[..., 2] = 1.0, 0.2
    picture = draw(patch(1), output, target)
    assert [int(tile(picture, 0, column)[0, 0]) for column in (3, 4, 5, 6)] == [0, 0, 255, 51]
