# SPDX-License-Identifier: MIT
"""The paper's scores under the paper's names."""

import math

import numpy as np
import pytest

from supermask.fusion import score


def box(low, high, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


TRUTH = box((2, 2, 2), (6, 6, 6))  # 64 voxels


def test_over_is_what_is_missed_and_under_what_is_false():
    small = box((2, 2, 2), (4, 6, 6))  # half of the truth
    found = score(small, TRUTH)
    assert (found.os, found.us) == (0.5, 0)
    assert (found.dsc, found.rms) == (pytest.approx(2 / 3), pytest.approx(math.sqrt(0.125)))
    large = score(box((0, 2, 2), (8, 6, 6)), TRUTH)
    assert (large.os, large.us) == (0, 0.5)


def test_perfect_and_empty_masks():
    assert score(TRUTH, TRUTH) == (1, 0, 0, 0, 1, 1)
    found = score(np.zeros_like(TRUTH), TRUTH)  # undefined rather than wrong
    assert (found.dsc, found.os) == (0, 1) and math.isnan(found.us) and math.isnan(found.rms)


def test_the_boundary_is_scored_slice_by_slice_and_in_space():
    truth = box((6, 6, 6), (26, 26, 12), (32, 32, 32))
    wrong = truth.copy()
    wrong[12:20, 12:20, 11] = False  # far from the outline of its slice, on that of the volume
    found = score(wrong, truth)
    assert found.mba == 1 > found.mba_3d
