# SPDX-License-Identifier: MIT
"""Surface distances against numbers worked out by hand, brute force, and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk

from segsrgan.volumes import SurfaceDistances, surface_distances, surface_voxels

SPACING = (0.7, 1.1, 2.5)


def box(shape, *ranges):
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(*ends) for ends in ranges)] = 1
    return array


def blobs(seed, share=0.5, shape=(9, 8, 7)):
    return np.random.default_rng(seed).random(shape) < share


def test_two_voxels_lie_as_far_apart_as_their_centres():
    a, b = np.zeros((2, 6, 6, 6))
    a[1, 1, 1] = b[4, 3, 2] = 7
    distance = math.sqrt((3 * 0.7) ** 2 + (2 * 1.1) ** 2 + 2.5**2)
    found = surface_distances(a, b, SPACING)
    assert found.forward == pytest.approx([distance])
    assert found.backward == pytest.approx([distance])


def test_cubes_side_by_side():
    # Layers of 9, 8 (its middle is inside) and 9 surface voxels lie 3, 2 and 1 steps of 2 mm away.
    a = box((5, 5, 8), (1, 4), (1, 4), (1, 4))
    b = box((5, 5, 8), (1, 4), (1, 4), (4, 7))
    found = surface_distances(a, b, (1, 1, 2))
    assert sorted(found.forward) == [2] * 9 + [4] * 8 + [6] * 9
    assert found.hausdorff() == 6
    assert found.mean() == pytest.approx((9 * 2 + 8 * 4 + 9 * 6) / 26)


def test_overlapping_cubes():
    # Shifted by one step of 2 mm: one layer of 9 lies 2 mm off; the others lie on the surface,
    # but for the voxel in the middle of the last layer: 1 mm to the side of it.
    a = box((5, 5, 8), (1, 4), (1, 4), (1, 4))
    b = box((5, 5, 8), (1, 4), (1, 4), (2, 5))
    found = surface_distances(a, b, (1, 1, 2))
    assert sorted(found.backward) == [0] * 16 + [1] + [2] * 9
    assert found.mean() == pytest.approx(19 / 26)
    assert found.hausdorff(100) == 2


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


def test_swapping_swaps_and_changes_no_score():
    a, b = blobs(1, 0.2), blobs(2, 0.4)
    there, back = surface_distances(a, b, SPACING), surface_distances(b, a, SPACING)
    assert np.array_equal(there.forward, back.backward)
    assert there.hausdorff() == back.hausdorff() > 0
    assert there.mean() == pytest.approx(back.mean())


def test_an_array_lies_nowhere_beside_itself():
    found = surface_distances(blobs(1), blobs(1), SPACING)
    assert found.forward.size == surface_voxels(blobs(1)).sum() > 0
    assert found.hausdorff(100) == found.mean() == 0


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flips_and_margins_change_nothing(axes):
    a, b = blobs(1, 0.2), blobs(2, 0.4)
    expected = surface_distances(a, b, SPACING)
    flipped = surface_distances(np.flip(a, axes), np.flip(b, axes), SPACING)
    padded = surface_distances(np.pad(a, 3), np.pad(b, 3), SPACING)
    for found in (flipped, padded):
        assert sorted(found.forward) == pytest.approx(sorted(expected.forward))
        assert sorted(found.backward) == pytest.approx(sorted(expected.backward))


def test_larger_voxels_make_longer_distances():
    a, b = blobs(1, 0.2), blobs(2, 0.4)
    twice = surface_distances(a, b, np.multiply(SPACING, 2))
    assert twice.mean() == pytest.approx(2 * surface_distances(a, b, SPACING).mean())


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_an_empty_array_has_no_distance(counts):
    a, b = (np.full((3, 3, 3), count) for count in counts)
    found = surface_distances(a, b, 1)
    assert found.forward.size == found.backward.size == 0
    assert math.isnan(found.hausdorff())
    assert math.isnan(found.mean())


def test_wrong_arguments_are_refused():
    cube = np.ones((3, 3, 3))
    with pytest.raises(ValueError, match=r"\(3, 3, 3\), \(3, 3, 4\)"):
        surface_distances(cube, np.ones((3, 3, 4)), 1)
    with pytest.raises(ValueError, match="received .*3, 3"):
        surface_voxels(np.ones((3, 3)))
    with pytest.raises(ValueError, match="positive"):
        surface_distances(cube, cube, (1, 0, 1))
    with pytest.raises(ValueError, match="received 101"):
        SurfaceDistances(np.ones(1), np.ones(1)).hausdorff(101)
