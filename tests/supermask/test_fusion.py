# SPDX-License-Identifier: MIT
"""Confidences and the fusion of views."""

import numpy as np
import pytest
from scipy import ndimage

from segsrgan.volumes import Grid
from supermask.fusion import (
    Agreement,
    confidence,
    fuse,
    fuse_images,
    mapped,
    match_intensities,
)
from supermask.geometry import sampling


def row(*values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_confidence_is_that_of_the_papers_code():
    # Slices of 8 mm at 1 mm: half-width 5, sigma 2.5 voxels; of 16 mm: 9 and 4.5.
    for thickness, sigma in ((8, 2.5), (16, 4.5)):
        source = Grid((2, 2, 3), (1, 1, thickness))
        grid = Grid((1, 1, thickness), (1, 1, 1))
        found = confidence(sampling(source, grid), thickness, 1.0)[0, 0]
        assert found[0] == 1
        distance = np.minimum(np.arange(thickness), thickness - np.arange(thickness))
        np.testing.assert_allclose(found, np.exp(-0.5 * (distance / sigma) ** 2), rtol=1e-5)


def test_confidence_ends_with_the_field_of_view():
    source, grid = Grid((2, 2, 2), (1, 1, 4)), Grid((1, 1, 12), (1, 1, 1), (0, 0, -4))
    found = confidence(sampling(source, grid), 4, 1.0)[0, 0]
    assert list(found > 0) == [z - 4 >= -2 and z - 4 <= 6 for z in range(12)]


def test_a_narrow_gaussian_is_the_nearest_slices_value_and_leaves_no_gaps():
    source, grid = Grid((2, 2, 3), (1, 1, 8)), Grid((1, 1, 16), (1, 1, 1))
    found = confidence(sampling(source, grid), 8, 1.0, width=1e-3)
    assert (found > 0).all()
    ones = np.ones_like(found)
    assert (fuse([ones, 0 * ones], [found, found / 2]) > 0.6).all()


MASKS = [row(1, 1, 0, 0.8, 0), row(0, 1, 0, 0.2, 1), row(0, 0, 1, 0.2, 1)]
SURE = [row(1, 0.5, 1, 0.9, 0), row(0.25, 0.25, 0.1, 0.2, 0), row(0.25, 0.25, 0.1, 0.1, 0)]


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("gaussian", [1 / 1.5, 0.75, 0.1 / 1.2, 0.78 / 1.2, 0]),
        ("vote", [1 / 3, 2 / 3, 1 / 3, 1 / 3, 0]),
        ("nearest", [1, 1, 0, 0.8, 0]),
    ],
)
def test_fusions_by_hand(fusion, expected):
    np.testing.assert_allclose(fuse(MASKS, SURE, fusion)[:, 0, 0], expected, rtol=1e-5)


def test_a_vote_counts_those_who_see_and_a_tie_goes_to_the_surer_view():
    assert fuse(MASKS, [*SURE[:2], np.zeros_like(SURE[2])], "vote")[1] == 1
    masks, sure = [row(1, 0), row(0, 1)], [row(0.9, 0.9), row(0.2, 0.2)]
    found = fuse(masks, sure, "vote")[:, 0, 0]
    assert found[0] >= 0.5 > found[1] and np.abs(found - 0.5).max() < 0.02


def test_a_least_confidence_empties_the_rest():
    found = fuse([row(1, 1)], [row(0.5, 0.3)], least=0.4)[:, 0, 0]
    assert list(found) == [1, 0]
    assert list(fuse([row(1, 1)], [row(0.5, 0.3)])[:, 0, 0]) == [1, 1]


def test_images_are_brought_to_the_references_intensities():
    rng = np.random.default_rng(0)
    image = rng.random((6, 6, 6)).astype(np.float32)
    sure = np.ones_like(image)
    everywhere = np.ones(image.shape, bool)
    profiles = [np.diag([2.0, 0, 0])] * 2

    def matched(other, region=everywhere):
        first, found = match_intensities([image, other], [sure, 0.5 * sure], region, profiles)
        assert first == (1, 0)
        return mapped(other, *found)

    np.testing.assert_allclose(matched(3 * image + 7), image, atol=1e-5)
    np.testing.assert_allclose(matched(5 - 2 * image), image, atol=1e-5)  # inverted contrast
    flat = np.full_like(image, 4)
    assert np.isfinite(matched(flat)).all() and np.isfinite(matched(flat, ~everywhere)).all()


@pytest.mark.parametrize("gain", [2.0, -0.5])
@pytest.mark.parametrize("sigmas", [((0, 0, 2.5), (0, 1, 0)), ((0, 0, 0), (1.5, 0, 0))])
def test_a_thicker_views_lesser_contrast_is_no_gain(gain, sigmas):
    rng = np.random.default_rng(0)
    truth = np.pad(rng.random((40, 40, 40)), 8)  # an object, beyond which there is nothing
    first, second = (ndimage.gaussian_filter(truth, s).astype(np.float32) for s in sigmas)
    sure = np.zeros_like(first)
    sure[2:-2] = 1
    region = truth > 0
    profiles = [np.diag(np.square(s, dtype=float)) for s in sigmas]
    images, confidences = [first, np.float32(gain) * second + 3], [sure, sure]
    _, (found, offset) = match_intensities(images, confidences, region, profiles)
    assert found == pytest.approx(1 / gain, rel=0.01)
    assert offset == pytest.approx(-3 / gain, abs=0.05 / abs(gain))
    _, (unlike, _) = match_intensities(images, confidences, region)
    assert abs(unlike * gain - 1) > 0.1


def test_inverted_contrast_resembles():
    inverted = Agreement("axial", "sagittal", 0.9, -0.97, 1.0)
    assert not inverted.warnings()
    (text,) = inverted._replace(correlation=-0.1).warnings()
    assert "hardly resemble each other" in text


def test_images_are_fused_by_mean_median_or_the_surest():
    images = [row(10, 10, 10), row(20, 20, 20), row(90, 90, 90)]
    sure = [row(0.5, 0.25, 0), row(0.25, 0.5, 0), row(0.25, 0, 0)]

    def fused(fusion):
        return fuse_images(images, sure, fusion)[:, 0, 0].tolist()

    assert fused("gaussian") == [32.5, pytest.approx(50 / 3), 0]
    assert fused("vote") == [20, 15, 0]
    assert fused("nearest") == [10, 20, 0]
