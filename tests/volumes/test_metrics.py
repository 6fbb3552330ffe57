# SPDX-License-Identifier: MIT
"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity
from volumes.samples import noise

from segsrgan.volumes import connected_components, dice, psnr, ssim


def line(*values):
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


def test_dice_by_hand():
    assert dice(line(1, 1, 1, 0), line(0, 1, 1, 1)) == pytest.approx(2 * 2 / 6)
    assert dice(line(1, 1, 0, 0), line(0, 0, 1, 1)) == 0
    assert dice(line(3, 0), line(7, 0)) == 1


def test_dice_counts_only_inside_the_mask():
    assert dice(line(1, 1, 1, 0), line(0, 1, 1, 1), line(0, 1, 1, 0)) == 1


def test_dice_of_two_empty_arrays_is_one():
    assert dice(line(0, 0), line(0, 0)) == 1.0
    assert dice(line(1, 0), line(0, 0)) == 0.0


def test_psnr_by_hand():
    # Peak 2, error 0.2 everywhere: 10 log10(4 / 0.04) = 20 dB.
    reference = line(1, 2, 1.5)
    assert psnr(reference, reference + 0.2) == pytest.approx(20, abs=1e-4)
    assert psnr(reference, reference) == math.inf


def test_psnr_takes_peak_and_error_inside_the_mask():
    reference, image = line(1, 2, 100), line(1.2, 2.2, 0)
    assert psnr(reference, image, line(1, 1, 0)) == pytest.approx(20, abs=1e-4)


def test_psnr_of_unsigned_integers_does_not_wrap_around():
    assert psnr(line(0, 100).astype(np.uint8), line(10, 90).astype(np.uint8)) == pytest.approx(20)


def test_ssim_of_one_window_by_formula():
    x, y = noise((7, 7, 7), 1).astype(float), noise((7, 7, 7), 2).astype(float)
    data_range = x.max() - x.min()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = np.cov(x.ravel(), y.ravel())
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= x.mean() ** 2 + y.mean() ** 2 + c1
    expected /= covariance[0, 0] + covariance[1, 1] + c2
    assert ssim(x, y) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_one_for_equal_images_and_falls_with_noise():
    x = noise((12, 11, 10))
    scores = [ssim(x, x + scale * noise(x.shape, 3)) for scale in (0, 0.2, 1)]
    assert scores[0] == pytest.approx(1)
    assert scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize("corner", [(10, 9, 8), (0, 0, 0)])
def test_masked_ssim_is_the_mean_of_the_whole_map_inside(corner):
    x, y = noise((30, 28, 26), 1), noise((30, 28, 26), 2)
    mask = np.zeros(x.shape, np.uint8)
    mask[tuple(slice(first, first + 5) for first in corner)] = 1
    inside = mask > 0
    data_range = float(x[inside].max() - x[inside].min())
    kinds = {"win_size": 7, "data_range": data_range, "full": True}
    local = structural_similarity(x.astype(float), y.astype(float), **kinds)[1]
    assert ssim(x, y, mask) == pytest.approx(local[inside].mean(), abs=1e-9)


def test_connected_components_by_neighbourhood():
    # Two voxels sharing an edge, a third sharing only a corner with the second.
    binary = np.zeros((4, 4, 4), np.uint8)
    binary[0, 0, 0] = binary[1, 1, 0] = binary[2, 2, 1] = 1
    counts = [connected_components(binary, connectivity=kind) for kind in (1, 2, 3)]
    assert counts == [3, 2, 1]
    assert connected_components(np.zeros((3, 3, 3))) == 0


def test_connected_components_inside_a_mask():
    binary = line(1, 1, 1, 0, 1)
    assert connected_components(binary) == 2
    assert connected_components(binary, line(1, 0, 1, 1, 0)) == 2
    assert connected_components(binary, line(1, 1, 1, 1, 0)) == 1


@pytest.mark.parametrize("metric", [dice, psnr, ssim])
def test_shapes_that_differ_are_refused_with_both(metric):
    with pytest.raises(ValueError, match=r"\(8, 8, 8\), \(8, 8, 9\)"):
        metric(noise((8, 8, 8)), noise((8, 8, 9)))
    with pytest.raises(ValueError, match=r"\(8, 8, 7\)"):
        metric(noise((8, 8, 8)), noise((8, 8, 8)), np.ones((8, 8, 7)))


@pytest.mark.parametrize("metric", [dice, psnr, ssim])
def test_an_empty_mask_is_refused(metric):
    with pytest.raises(ValueError, match="empty"):
        metric(noise((8, 8, 8)), noise((8, 8, 8)), np.zeros((8, 8, 8)))


def test_images_without_a_scale_are_refused():
    flat = np.zeros((8, 8, 8))
    with pytest.raises(ValueError, match="positive"):
        psnr(flat, flat)
    with pytest.raises(ValueError, match="contrast"):
        ssim(flat, flat)


@pytest.mark.parametrize("window", [4, 1, 9])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ValueError, match=f"received {window}"):
        ssim(noise((8, 8, 8)), noise((8, 8, 8)), window=window)


def test_unknown_connectivity_is_refused():
    with pytest.raises(ValueError, match="1, 2 or 3"):
        connected_components(np.ones((3, 3, 3)), connectivity=26)
