# SPDX-License-Identifier: MIT
"""The thickness of slices: by settings, files and voxels."""

import json

import numpy as np
import pytest
from volumes.samples import texture, write_series

from segsrgan.errors import UserError
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.reading import read_with_source
from segsrgan.volumes.resampling import degrade
from segsrgan.volumes.thickness import estimated_width, stated_thickness, taken_thickness
from segsrgan.volumes.volume import Volume


def scan(truth, axis, ratio, width=1.0):
    spacing = [ratio if k == axis else 1 for k in range(3)]
    return degrade(truth, spacing, width * np.array(spacing))


def chosen(volume, declared=None, **settings):
    stated = stated_thickness(volume, "t2.nii", declared, **settings)
    return taken_thickness(volume, "t2.nii", stated, estimated_width(volume))


@pytest.mark.parametrize("axis, ratio", [(0, 3), (1, 4), (2, 3), (1, 5)])
@pytest.mark.parametrize("width", [0.5, 0.75, 1, 1.25])
def test_the_width_is_seen_in_the_voxels(axis, ratio, width):
    assert estimated_width(scan(texture(), axis, ratio, width)) == pytest.approx(width, rel=0.15)


def test_the_width_is_seen_through_noise():
    low = scan(texture(), 1, 4)
    noise = np.random.default_rng(1).normal(0, 0.05, low.array.shape)
    assert estimated_width(low.with_array(low.array + noise)) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("width", [0.5, 1])
def test_the_width_is_seen_in_ten_slices(width):
    low = scan(texture(), 2, 4, width)
    few = Volume(low.array[:, :, 10:20], low.spacing)
    assert estimated_width(few) == pytest.approx(width, rel=0.2)


def test_no_width_is_given_where_none_can_be_seen():
    truth = texture()
    low = scan(truth, 2, 4)
    few = Volume(low.array[:, :, :7], low.spacing)
    gains = 1 + np.random.default_rng(2).uniform(0, 2, low.array.shape[2])
    uneven = low.with_array(low.array * gains)
    for volume in (truth, scan(truth, 2, 1.5), few, uneven, low.with_array(0 * low.array)):
        assert estimated_width(volume) is None


def test_settings_go_before_headers_and_headers_before_the_distance():
    low = scan(texture((40, 40, 40)), 2, 4)
    assert chosen(low) is None
    assert chosen(low, 3.0) == 3
    assert (
        chosen(low, 8.0) == 4
        and chosen(low, 8.2) is None
        and chosen(low, 3.99) == 3.99
        and chosen(low, -1.0) is None
    )
    assert chosen(low, 3.0, thickness=5.0) == 5
    assert chosen(low, 3.0, gap=0.5) == 3.5
    assert chosen(low, 3.0, gap=0.0) == 4


@pytest.mark.parametrize("asked, word", [({"thickness": 8.1}, "twice"), ({"gap": 4.0}, "less")])
def test_an_impossible_thickness_is_refused(asked, word):
    with pytest.raises(UserError, match=rf"t2.nii: .*{word}.* 4 mm, received"):
        chosen(scan(texture((40, 40, 40)), 2, 4), **asked)


def test_an_isotropic_image_has_no_thickness(caplog):
    assert chosen(texture((40, 40, 40)), thickness=3.0) is None
    assert "no axis has thicker slices" in caplog.text


def test_thin_slices_are_taken_as_such_where_nothing_says_how_thick_they_are(caplog):
    assert chosen(scan(texture(), 1, 4, 0.5)) == pytest.approx(2, rel=0.15)
    assert "look 2 mm thick, 4 mm apart; they are taken as 2 mm thick" in caplog.text


@pytest.mark.parametrize(
    "width, declared, settings, said",
    [
        (0.5, 4.0, {}, "look 2 mm thick, 4 mm apart; they are taken as 4 mm thick"),
        (0.5, 5.0, {}, "look 2 mm thick, 4 mm apart; they are taken as 4 mm thick"),
        (1.5, None, {}, "look 5.9 mm thick, 4 mm apart; they are taken as 4 mm thick"),
        (1.0, 2.0, {}, "look 4 mm thick, 4 mm apart; they are taken as 2 mm thick"),
        (1.0, None, {"gap": 2.0}, "look 4 mm thick, 4 mm apart; they are taken as 2 mm thick"),
        (0.5, 2.0, {}, ""),
        (1.0, None, {}, ""),
        (1.0, 20.0, {}, "a SliceThickness of 20 mm is not used, its slices are 4 mm apart"),
        (1.0, 0.0, {}, "a SliceThickness of 0 mm is not used"),
    ],
)
def test_a_thickness_that_the_voxels_contradict_is_told(width, declared, settings, said, caplog):
    chosen(scan(texture(), 1, 4, width), declared, **settings)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_dicom_says_the_thickness(tmp_path):
    write_series(tmp_path, [3 * k for k in range(6)], SliceThickness=2.5)
    assert read_with_source(tmp_path)[1].thickness == 2.5


@pytest.mark.parametrize(
    "sidecar, expected",
    [
        ({"SliceThickness": 3}, 3),
        ({"SliceThickness": 3, "SpacingBetweenSlices": 4}, 4 - 1),
        ({"SliceThickness": 3, "SpacingBetweenSlices": 5}, None),  # of another image
        ({"SpacingBetweenSlices": 4}, None),
        ({"SliceThickness": -3}, None),
        ({}, None),
        ([1], None),
        ({"SliceThickness": "thick"}, None),
        ({"SliceThickness": None}, None),
    ],
)
def test_a_sidecar_says_the_thickness(sidecar, expected, tmp_path, caplog):
    path = tmp_path / "t2.nii.gz"
    write_volume(scan(texture((20, 20, 20)), 2, 4), path)
    (tmp_path / "t2.json").write_text(json.dumps(sidecar))
    assert read_with_source(path)[1].thickness == expected
    assert ("t2.json: is not a BIDS sidecar" in caplog.text) == isinstance(sidecar, list)
    is_text = "must be numbers of mm, received" in caplog.text
    assert is_text == (sidecar in ({"SliceThickness": "thick"}, {"SliceThickness": None}))
