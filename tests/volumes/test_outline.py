# SPDX-License-Identifier: MIT
"""What a mask misses and has too much, and its boundary: by hand, by formula, by a loop."""

import math

import numpy as np
import pytest

from segsrgan.volumes import boundary_agreement, overlap_errors
from segsrgan.volumes.metrics import _dilated as dilated
from segsrgan.volumes.metrics import boundary_radii


def box(low, high, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


TRUTH = box((2, 2, 2), (6, 6, 6))  # 64 voxels
SHIFTED = box((3, 2, 2), (7, 6, 6))  # 48 of them shared


def test_scores_of_a_shifted_box_by_hand():
    errors = overlap_errors(SHIFTED, TRUTH)
    assert errors.missed == errors.false == errors.rms == 0.25


def test_missed_and_false_fractions_are_not_confused():
    small = box((2, 2, 2), (4, 6, 6))
    assert overlap_errors(small, TRUTH) == (0.5, 0)  # half of the truth missed, nothing false
    assert overlap_errors(small, TRUTH).rms == pytest.approx(math.sqrt(0.125))
    assert overlap_errors(box((0, 2, 2), (8, 6, 6)), TRUTH) == (0, 0.5)


def test_a_perfect_mask():
    assert overlap_errors(TRUTH, TRUTH) == (0, 0) and overlap_errors(TRUTH, TRUTH).rms == 0
    assert boundary_agreement(TRUTH, TRUTH) == boundary_agreement(TRUTH, TRUTH, flat=False) == 1


def test_empty_masks_are_undefined_rather_than_wrong():
    nothing = np.zeros_like(TRUTH)
    empty, excess = overlap_errors(nothing, TRUTH), overlap_errors(TRUTH, nothing)
    assert empty.missed == 1 and math.isnan(empty.false) and math.isnan(empty.rms)
    assert excess.false == 1 and math.isnan(excess.missed) and math.isnan(excess.rms)
    assert math.isnan(boundary_agreement(TRUTH, nothing))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        overlap_errors(TRUTH, TRUTH[:-1])


def test_radii_follow_the_formula():
    # R = 384 / 50 = 7.68, step (7.68 - 3) / 5 = 0.936: 0, 0.936, 1.872, 2.808, 3.744 cut to whole
    assert boundary_radii((128, 128, 128)) == [3, 3, 4, 5, 6]
    assert boundary_radii((256, 256, 256)) == [3, 5, 7, 10, 12]
    assert min(boundary_radii((10, 10, 10))) >= 1


def test_the_kernel_is_opencvs_ellipse():
    # cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)) and (7, 7), from OpenCV's documentation.
    point = np.zeros((9, 9, 1), bool)
    point[4, 4] = True
    rows = {2: [1, 5, 5, 5, 1], 3: [1, 5, 7, 7, 7, 5, 1]}
    for radius, widths in rows.items():
        grown = dilated(point, radius)[..., 0]
        assert list(grown.sum(axis=1)[4 - radius : 5 + radius]) == widths
        np.testing.assert_array_equal(grown, grown.T if radius == 0 else grown[::-1])


def test_the_flat_score_looks_at_slices_and_the_other_at_the_volume():
    # The truth fills a slice range; an error on its last slice touches its border in the third
    # dimension only, so the slice-wise gradient meets it only near the in-plane border.
    truth = box((6, 6, 6), (26, 26, 12), (32, 32, 32))
    wrong = truth.copy()
    wrong[12:20, 12:20, 11] = False
    assert boundary_agreement(wrong, truth) == 1
    assert boundary_agreement(wrong, truth, flat=False) < 1


def naive_accuracy(prediction, truth, offsets):
    """Agreement where the truth's neighbourhood holds both values, voxel by voxel."""
    agree = total = 0
    for index in np.ndindex(truth.shape):
        values = set()
        for offset in offsets:
            place = tuple(np.add(index, offset))
            if all(0 <= k < n for k, n in zip(place, truth.shape, strict=True)):
                values.add(bool(truth[place]))
        if len(values) == 2:
            total += 1
            agree += prediction[index] == truth[index]
    return agree / total


@pytest.mark.parametrize("flat", [True, False])
def test_boundary_agreement_against_a_direct_loop(flat, monkeypatch):
    rng = np.random.default_rng(0)
    truth = box((3, 2, 2), (9, 8, 7), (11, 10, 9))
    prediction = truth ^ (rng.random(truth.shape) < 0.2)
    monkeypatch.setattr("segsrgan.volumes.metrics.boundary_radii", lambda shape: [2])
    reach = range(-2, 3)
    if flat:
        offsets = [(x, y, 0) for x in reach for y in reach if abs(x) < 2 or y == 0]
    else:
        offsets = [
            (x, y, z) for x in reach for y in reach for z in reach if x * x + y * y + z * z <= 4
        ]
    expected = naive_accuracy(prediction, truth, offsets)
    assert boundary_agreement(prediction, truth, flat) == pytest.approx(expected, abs=1e-12)
