# SPDX-License-Identifier: MIT
"""Metrics: by hand, by formula, by brute force, and compared with SimpleITK and scikit-image."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.metrics import structural_similarity
from volumes.samples import noise

from segsrgan.volumes import (
    SurfaceDistances,
    boundary_agreement,
    connected_components,
    dice,
    overlap_errors,
    psnr,
    ssim,
    surface_distances,
    surface_voxels,
)
from segsrgan.volumes.metrics import _boundary_radii as boundary_radii
from segsrgan.volumes.metrics import _dilated as dilated

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


def test_components_are_connected_by_corners():
    # Two voxels sharing an edge, a third sharing only a corner with the second.
    binary = np.zeros((4, 4, 4), np.uint8)
    binary[0, 0, 0] = binary[1, 1, 0] = binary[2, 2, 1] = 1
    assert connected_components(binary) == 1
    assert connected_components(np.zeros((3, 3, 3))) == 0
    assert connected_components(line(1, 1, 1, 0, 1)) == 2


CUBE, EMPTY = np.ones((8, 8, 8)), np.zeros((8, 8, 8))


@pytest.mark.parametrize("metric", [dice, psnr, ssim])
def test_shapes_that_differ_and_empty_masks_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(8, 8, 8\), \(8, 8, 9\)"):
        metric(CUBE, np.ones((8, 8, 9)))
    with pytest.raises(ValueError, match=r"\(8, 8, 7\)"):
        metric(CUBE, CUBE, np.ones((8, 8, 7)))
    with pytest.raises(ValueError, match="empty"):
        metric(CUBE, CUBE, EMPTY)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: psnr(EMPTY, EMPTY), "positive"),
        (lambda: ssim(EMPTY, EMPTY), "contrast"),
        *(
            (lambda w=window: ssim(CUBE, CUBE, window=w), f"received {window}")
            for window in (4, 1, 9)
        ),
        (lambda: overlap_errors(TRUTH, TRUTH[:-1]), "one shape"),
        (lambda: surface_distances(CUBE, np.ones((8, 8, 9)), 1), r"\(8, 8, 8\), \(8, 8, 9\)"),
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
    small = box(TRUTH.shape, (2, 4), (2, 6), (2, 6))
    assert overlap_errors(small, TRUTH) == (0.5, 0)  # half of the truth missed, nothing false
    assert overlap_errors(small, TRUTH).rms == pytest.approx(math.sqrt(0.125))
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
    truth = box((11, 10, 9), (3, 9), (2, 8), (2, 7))
    prediction = truth ^ (rng.random(truth.shape) < 0.2)
    monkeypatch.setattr("segsrgan.volumes.metrics._boundary_radii", lambda shape: [2])
    reach = range(-2, 3)
    if flat:
        offsets = [(x, y, 0) for x in reach for y in reach if abs(x) < 2 or y == 0]
    else:
        offsets = [
            (x, y, z) for x in reach for y in reach for z in reach if x * x + y * y + z * z <= 4
        ]
    expected = naive_accuracy(prediction, truth, offsets)
    assert boundary_agreement(prediction, truth, flat) == pytest.approx(expected, abs=1e-12)


def test_cubes_side_by_side():
    # Layers of 9, 8 (its middle is inside) and 9 surface voxels lie 3, 2 and 1 steps of 2 mm away.
    a = box((5, 5, 8), (1, 4), (1, 4), (1, 4))
    b = box((5, 5, 8), (1, 4), (1, 4), (4, 7))
    found = surface_distances(a, b, (1, 1, 2))
    assert sorted(found.forward) == [2] * 9 + [4] * 8 + [6] * 9
    assert found.hausdorff() == 6
    assert found.mean() == pytest.approx((9 * 2 + 8 * 4 + 9 * 6) / 26)


def test_the_percentile_is_the_larger_of_two_and_not_pooled():
    # 0, 1, ... 99 mm from the line to the voxel at its end, 0 back: pooled it would be 94.
    line, voxel = np.ones((100, 1, 1)), np.zeros((100, 1, 1))
    voxel[0] = 1
    assert surface_distances(line, voxel, 1).hausdorff() == pytest.approx(94.05)
    assert surface_distances(voxel, line, 1).hausdorff() == pytest.approx(94.05)


def test_the_surface_is_what_erosion_takes_away():
    assert surface_voxels(np.ones((3, 3, 3))).sum() == 26
    plus = np.zeros((5, 5, 5))
    plus[1:4, 2, 2] = plus[2, 1:4, 2] = plus[2, 2, 1:4] = 1
    assert surface_voxels(plus).sum() == 6
    assert not surface_voxels(plus)[2, 2, 2]


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_brute_force(seed):
    a, b = blobs(seed, 0.3), blobs(seed + 10, 0.6)
    found = surface_distances(a, b, SPACING)
    first, second = (np.argwhere(surface_voxels(array)) * SPACING for array in (a, b))
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)
    assert found.forward == pytest.approx(apart.min(axis=1))
    assert found.backward == pytest.approx(apart.min(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_the_hausdorff_distance_is_simpleitks(seed):
    # ITK measures between all voxels. Of sparse sets that share none, all are surface.
    a = blobs(seed, 0.02, (30, 25, 20))
    b = blobs(seed + 10, 0.02, (30, 25, 20)) & ~a
    assert np.array_equal(surface_voxels(a), a)
    images = [sitk.GetImageFromArray(array.T.astype(np.uint8)) for array in (a, b)]
    for image in images:
        image.SetSpacing(SPACING)
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    ours = surface_distances(a, b, SPACING).hausdorff(100)
    assert ours == pytest.approx(theirs.GetHausdorffDistance(), rel=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flips_margins_and_order_change_nothing_and_larger_voxels_do(axes):
    a, b = blobs(1, 0.2), blobs(2, 0.4)
    expected = surface_distances(a, b, SPACING)
    flipped = surface_distances(np.flip(a, axes), np.flip(b, axes), SPACING)
    padded = surface_distances(np.pad(a, 3), np.pad(b, 3), SPACING)
    swapped = SurfaceDistances(*surface_distances(b, a, SPACING)[::-1])
    for found in (flipped, padded, swapped):
        assert sorted(found.forward) == pytest.approx(sorted(expected.forward))
        assert sorted(found.backward) == pytest.approx(sorted(expected.backward))
        assert found.hausdorff() == pytest.approx(expected.hausdorff()) and found.hausdorff() > 0
    twice = surface_distances(a, b, np.multiply(SPACING, 2))
    assert twice.mean() == pytest.approx(2 * expected.mean())
    same = surface_distances(a, a, SPACING)
    assert same.forward.size == surface_voxels(a).sum() > 0
    assert same.hausdorff(100) == same.mean() == 0


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_an_empty_array_has_no_distance(counts):
    a, b = (np.full((3, 3, 3), count) for count in counts)
    found = surface_distances(a, b, 1)
    assert found.forward.size == found.backward.size == 0
    assert math.isnan(found.hausdorff())
    assert math.isnan(found.mean())
