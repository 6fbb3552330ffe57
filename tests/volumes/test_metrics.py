# SPDX-License-Identifier: MIT
"""Metrics: by hand, by formula, by brute force, and compared with scikit-image."""

import math
from functools import partial

import numpy as np
import pytest
from skimage.metrics import structural_similarity
from volumes.samples import noise

from segsrgan.volumes.metrics import (
    SurfaceDistances,
    _boundary_radii,
    boundary_agreement,
    connected_components,
    dice,
    overlap_errors,
    psnr,
    ssim,
    surface_distances,
    surface_voxels,
)

SPACING = (0.7, 1.1, 2.5)


def box(shape, *ranges):
    """A bool array (x, y, z), True between the ends along each axis."""
    array = np.zeros(shape, bool)
    array[tuple(slice(*ends) for ends in ranges)] = True
    return array


TRUTH = box((12, 12, 12), (2, 6), (2, 6), (2, 6))  # 64 voxels
SHIFTED = box((12, 12, 12), (3, 7), (2, 6), (2, 6))  # 48 of them in common


def blobs(seed, fraction=0.5, shape=(9, 8, 7)):
    return np.random.default_rng(seed).random(shape) < fraction


def line(*values):
    return np.array(values, dtype=np.float32).reshape(-1, 1, 1)


def test_dice_by_hand():
    assert dice(line(1, 1, 1, 0), line(0, 1, 1, 1)) == pytest.approx(2 * 2 / 6)
    assert dice(line(1, 1, 1, 0), line(0, 1, 1, 1), line(0, 1, 1, 0)) == 1  # inside the mask
    assert dice(line(1, 1, 0, 0), line(0, 0, 1, 1)) == dice(line(1, 0), line(0, 0)) == 0
    assert dice(line(3, 0), line(7, 0)) == dice(line(0, 0), line(0, 0)) == 1


def test_psnr_by_hand():
    # Peak 2, error 0.2 everywhere: 10 log10(4 / 0.04) = 20 dB.
    reference = line(1, 2, 1.5)
    assert psnr(reference, reference + 0.2) == pytest.approx(20, abs=1e-4)
    assert psnr(reference, reference) == math.inf
    # Peak and error are those inside the mask, and unsigned integers do not wrap around.
    reference, image = line(1, 2, 100), line(1.2, 2.2, 0)
    assert psnr(reference, image, line(1, 1, 0)) == pytest.approx(20, abs=1e-4)
    assert psnr(line(0, 100).astype(np.uint8), line(10, 90).astype(np.uint8)) == pytest.approx(20)


def test_ssim_of_one_window_by_formula():
    x, y = noise((7, 7, 7), 1).astype(float), noise((7, 7, 7), 2).astype(float)
    data_range = x.max() - x.min()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = np.cov(x.ravel(), y.ravel())
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= x.mean() ** 2 + y.mean() ** 2 + c1
    expected /= covariance[0, 0] + covariance[1, 1] + c2
    assert ssim(x, y) == pytest.approx(expected, abs=1e-6) and ssim(x, x) == pytest.approx(1)


@pytest.mark.parametrize("corner", [(10, 9, 8), (0, 0, 0)])
def test_masked_ssim_is_the_mean_of_the_whole_map_inside(corner):
    x, y = noise((30, 28, 26), 1), noise((30, 28, 26), 2)
    inside = box(x.shape, *((first, first + 5) for first in corner))
    options = {"win_size": 7, "data_range": float(np.ptp(x[inside])), "full": True}
    local = structural_similarity(x.astype(float), y.astype(float), **options)[1]
    assert ssim(x, y, inside.astype("u1")) == pytest.approx(local[inside].mean(), abs=1e-9)


def test_components_are_connected_by_corners():
    # Two voxels sharing an edge, a third sharing only a corner with the second.
    binary = np.zeros((4, 4, 4), np.uint8)
    binary[0, 0, 0] = binary[1, 1, 0] = binary[2, 2, 1] = 1
    assert connected_components(binary) == 1
    assert connected_components(np.zeros((3, 3, 3))) == 0
    assert connected_components(line(1, 1, 1, 0, 1)) == 2


CUBE, EMPTY, LONG = np.ones((8, 8, 8)), np.zeros((8, 8, 8)), np.ones((8, 8, 9))
SHAPES = r"one shape .*\(8, 8, 8\), \(8, 8, 9\)"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        *((partial(metric, CUBE, LONG), SHAPES) for metric in (dice, psnr, ssim, overlap_errors)),
        *((partial(metric, CUBE, CUBE, LONG), SHAPES) for metric in (dice, psnr, ssim)),
        *((partial(metric, CUBE, CUBE, EMPTY), "empty") for metric in (dice, psnr, ssim)),
        (lambda: psnr(EMPTY, EMPTY), "positive"),
        (lambda: ssim(EMPTY, EMPTY), "contrast"),
        (lambda: ssim(CUBE, CUBE, window=4), "received 4"),
        (lambda: ssim(CUBE, CUBE, window=1), "received 1"),
        (lambda: ssim(CUBE, CUBE, window=9), "received 9"),
        (lambda: surface_distances(CUBE, LONG, 1), SHAPES),
        (lambda: surface_voxels(np.ones((3, 3))), r"received \[\(3, 3\)\]"),
        (lambda: surface_distances(CUBE, CUBE, (1, 0, 1)), "positive"),
        (lambda: SurfaceDistances(np.ones(1), np.ones(1)).hausdorff(101), "received 101"),
    ],
)
def test_wrong_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_overlap_errors_by_hand():
    errors = overlap_errors(SHIFTED, TRUTH)
    assert errors.missed == errors.false == errors.rms == 0.25
    half = overlap_errors(box(TRUTH.shape, (2, 4), (2, 6), (2, 6)), TRUTH)
    assert half == (0.5, 0) and half.rms == pytest.approx(math.sqrt(0.125))
    assert overlap_errors(box(TRUTH.shape, (0, 8), (2, 6), (2, 6)), TRUTH) == (0, 0.5)
    assert overlap_errors(TRUTH, TRUTH) == (0, 0) and overlap_errors(TRUTH, TRUTH).rms == 0
    assert boundary_agreement(TRUTH, TRUTH) == boundary_agreement(TRUTH, TRUTH, flat=False) == 1


def test_empty_masks_are_undefined_rather_than_wrong():
    nothing = np.zeros_like(TRUTH)
    empty, excess = overlap_errors(nothing, TRUTH), overlap_errors(TRUTH, nothing)
    assert empty.missed == 1 and math.isnan(empty.false) and math.isnan(empty.rms)
    assert excess.false == 1 and math.isnan(excess.missed) and math.isnan(excess.rms)
    assert math.isnan(boundary_agreement(TRUTH, nothing))


def test_radii_follow_the_formula():
    # R = 384 / 50 = 7.68, step (7.68 - 3) / 5 = 0.936: 0, 0.936, 1.872, 2.808, 3.744 cut to whole
    assert _boundary_radii((128, 128, 128)) == [3, 3, 4, 5, 6]
    assert _boundary_radii((256, 256, 256)) == [3, 5, 7, 10, 12]
    assert min(_boundary_radii((10, 10, 10))) >= 1


@pytest.mark.parametrize("flat", [True, False])
def test_boundary_agreement_against_a_direct_loop(flat, monkeypatch):
    truth = box((11, 10, 9), (3, 9), (2, 8), (2, 7))
    prediction = truth ^ (np.random.default_rng(0).random(truth.shape) < 0.2)
    monkeypatch.setattr("segsrgan.volumes.metrics._boundary_radii", lambda shape: [2])
    offsets = np.argwhere(np.ones((5, 5, 5))) - 2
    x, y, z = offsets.T
    # The row widths 1, 5, 5, 5, 1 of OpenCV's MORPH_ELLIPSE of 5 x 5 pixels, or a ball.
    inside = (z == 0) & ((abs(x) < 2) | (y == 0)) if flat else x * x + y * y + z * z <= 4
    agree = []
    for index in np.ndindex(truth.shape):  # near a boundary lie voxels of both values
        places = offsets[inside] + index
        places = places[((places >= 0) & (places < truth.shape)).all(axis=1)]
        if len(set(truth[tuple(places.T)])) == 2:
            agree.append(prediction[index] == truth[index])
    assert boundary_agreement(prediction, truth, flat) == pytest.approx(np.mean(agree), abs=1e-12)


def test_the_percentile_is_the_larger_of_two_and_not_pooled():
    # 0, 1, ... 99 mm from the row to the voxel at its end, 0 back: pooled it would be 94.
    row, voxel = np.ones((100, 1, 1)), box((100, 1, 1), (0, 1))
    for pair in ((row, voxel), (voxel, row)):
        assert surface_distances(*pair, 1).hausdorff() == pytest.approx(94.05)


def test_the_surface_is_what_erosion_takes_away():
    assert surface_voxels(np.ones((3, 3, 3))).sum() == 26
    plus = np.zeros((5, 5, 5))
    plus[1:4, 2, 2] = plus[2, 1:4, 2] = plus[2, 2, 1:4] = 1
    assert surface_voxels(plus).sum() == 6
    assert not surface_voxels(plus)[2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_brute_force(seed):
    # With margins, for the arrays are cropped.
    a, b = np.pad(blobs(seed, 0.3), 3), np.pad(blobs(seed + 10, 0.6), 3)
    found = surface_distances(a, b, SPACING)
    first, second = (np.argwhere(surface_voxels(array)) * SPACING for array in (a, b))
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)
    forward, backward = apart.min(axis=1), apart.min(axis=0)
    assert found.forward == pytest.approx(forward) and found.backward == pytest.approx(backward)
    assert found.mean() == pytest.approx(np.mean([*forward, *backward]))
    assert found.hausdorff(100) == pytest.approx(max(*forward, *backward))
    assert surface_distances(a, a, SPACING).hausdorff(100) == 0


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_an_empty_array_has_no_distance(counts):
    found = surface_distances(*(np.full((3, 3, 3), count) for count in counts), 1)
    assert found.forward.size == found.backward.size == 0
    assert math.isnan(found.hausdorff()) and math.isnan(found.mean())
