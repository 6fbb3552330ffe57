# SPDX-License-Identifier: MIT
"""Where the voxels of a view come from, and how far they are from an acquired slice."""

import itertools

import numpy as np
import pytest

from segsrgan.errors import UserError
from segsrgan.volumes import Grid, Volume
from supermask.geometry import (
    ORIENTATIONS,
    Rigid,
    canonical_direction,
    corners,
    isotropic_grid,
    middle_of,
    overlaps,
    rotation,
    sample,
    sampling,
    voxels_of,
)

OBLIQUE = rotation((0.3, -0.2, 0.4))


def ramp(grid):
    """A volume whose values are a linear function of the place in patient space."""
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    return Volume.from_grid((points @ (1.0, -2.0, 0.5)).astype(np.float32), grid)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_however_voxels_are_stored_the_axes_of_the_grid_are_the_same(order):
    for signs in itertools.product((1, -1), repeat=3):
        stored = OBLIQUE[:, order] * signs
        np.testing.assert_allclose(canonical_direction(stored), OBLIQUE)


def test_a_grid_has_its_points_in_the_middle():
    points = middle_of(Grid((3, 3, 3))) + 10 * np.random.default_rng(0).random((50, 3))
    grid = isotropic_grid(points, OBLIQUE, 1.5, margin=4)
    along = points @ OBLIQUE
    np.testing.assert_allclose(
        middle_of(grid) @ OBLIQUE, (along.min(axis=0) + along.max(axis=0)) / 2
    )
    room = np.ptp(along, axis=0) + 8
    assert np.all(np.array(grid.shape) * 1.5 >= room - 1e-2)
    assert isotropic_grid(points, OBLIQUE, 1.5, 20).shape == (20, 20, 20)


def test_an_absurd_grid_is_refused():
    with pytest.raises(UserError, match="is too large; take a larger spacing"):
        isotropic_grid([(0, 0, 0), (500, 500, 500)], np.eye(3), 0.01)


def test_a_linear_function_is_sampled_exactly_from_any_orientation():
    source = ramp(Grid((12, 11, 6), (1, 1, 3), (-4, -5, -6), OBLIQUE[:, [2, 0, 1]] * (1, -1, 1)))
    turn = Rigid((0.1, 0.2, -0.3), (1, 0.5, -1), (3, 4, 5))
    middle = turn.inverse().apply(middle_of(source.grid))
    grid = Grid((3, 4, 5), (0.7,) * 3, tuple(middle - 1), rotation((0.5, 0.1, 0)))
    points = turn.apply(grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)))
    expected = points @ (1.0, -2.0, 0.5)
    np.testing.assert_allclose(sample(source, grid, turn), expected, atol=1e-4)
    np.testing.assert_allclose(sample(source, grid, turn, order=3), expected, atol=0.1)


def test_nearest_slices_are_repeated_and_the_plane_is_interpolated():
    source = Volume(np.array([[[0, 10.0]], [[4, 14]]], np.float32), (1, 1, 4))
    grid = Grid((3, 1, 6), (0.5, 0.5, 1), (0, 0, -1))
    found = sample(source, grid, through="nearest")[:, 0]
    np.testing.assert_allclose(found[:, 0], [0, 2, 4])
    np.testing.assert_allclose(found[0], [0, 0, 0, 10, 10, 10])  # -1, 0, 1, 2 (a tie), 3, 4 mm
    linear = sample(source, grid)[0, 0]
    np.testing.assert_allclose(linear, [0, 0, 2.5, 5, 7.5, 10])


def test_every_slice_has_as_many_nearest_voxels():
    source = Volume(np.arange(4, dtype=np.float32).reshape(1, 1, 4), (1, 1, 2))
    found = sample(source, Grid((1, 1, 7), (1, 1, 1)), through="nearest")[0, 0]
    np.testing.assert_allclose(found, [0, 1, 1, 2, 2, 3, 3])  # every other one is a tie


def test_outside_the_field_of_view_all_is_zero_and_its_rim_is_the_outermost_voxel():
    source = Volume(np.full((2, 2, 2), 7, np.float32), (2, 2, 2))
    grid = Grid((6, 1, 1), (1, 1, 1), (-2, 0, 0))
    np.testing.assert_allclose(sample(source, grid)[:, 0, 0], [0, 7, 7, 7, 7, 7])
    assert not sampling(source.grid, grid).inside[0, 0, 0]


def test_an_unknown_way_through_slices_is_refused():
    with pytest.raises(ValueError, match="received 'cubic'"):
        sample(ramp(Grid((2, 2, 2))), Grid((2, 2, 2)), through="cubic")


def test_distances_from_slices_of_8_mm_by_hand():
    source = Grid((4, 4, 3), (1, 1, 8))
    grid = source.corner_aligned(1.0)  # centres at -3.5, -2.5, ... mm; slices at 0, 8, 16 mm
    found = sampling(source, grid)
    expected = [3.5, 2.5, 1.5, 0.5, 0.5, 1.5, 2.5, 3.5]
    np.testing.assert_allclose(found.distance[0, 0], 3 * expected)
    assert found.inside.all()


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, OBLIQUE[:, [1, 2, 0]] * (-1, 1, 1)])
def test_distances_are_those_along_the_slice_normal_whatever_the_intensities(direction):
    source = Grid((20, 20, 5), (1, 1, 4), (3, -2, 5), direction)
    turn = Rigid((0.2, -0.3, 0.1), (1, 2, -1), tuple(middle_of(source)))
    grid = isotropic_grid(corners(source), np.eye(3), 1.3)
    found = sampling(source, grid, turn)
    points = turn.apply(grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1)))
    height = (points - source.origin) @ direction[:, 2]
    expected = np.abs(height[..., None] - 4.0 * np.arange(5)).min(axis=-1)
    np.testing.assert_allclose(found.distance[found.inside], expected[found.inside], atol=1e-4)


def test_no_voxel_of_an_isotropic_view_is_far_from_its_slices():
    grid = Grid((4, 4, 4))
    found = sampling(grid, grid)
    assert found.inside.all() and not found.distance.any()


def test_fields_of_view_meet_or_not():
    grid = Grid((10, 10, 10))
    far = Grid((10, 10, 10), origin=(10.1, 0, 0))
    near = Grid((10, 10, 10), origin=(9.9, 0, 0))
    assert overlaps(grid, near) and not overlaps(grid, far)
    # Their boxes along the patient's axes meet, they do not.
    turn = rotation((0, 0, np.pi / 4))
    edge = Grid((10, 10, 10), origin=(13.5, 13.5 - 4.5 * np.sqrt(2), 0), direction=turn)
    assert not overlaps(grid, edge) and overlaps(edge, edge)


def test_voxels_of_a_mask_are_thinned_but_keep_its_ends():
    mask = np.zeros((30, 30, 30), np.float32)
    mask[3:27, 5:20, 8:11] = 1
    volume = Volume(mask, (1, 1, 2))
    every, some = voxels_of(volume, most=10**6), voxels_of(volume, most=100)
    assert len(every) == 24 * 15 * 3 and len(some) < 250
    np.testing.assert_allclose(some.min(axis=0), every.min(axis=0))
    np.testing.assert_allclose(some.max(axis=0), every.max(axis=0))
    np.testing.assert_allclose(some.mean(axis=0), every.mean(axis=0), atol=1)
    mask[:] = 0
    mask[1, 2, 0] = 0.5  # belongs to the object
    np.testing.assert_allclose(voxels_of(volume), [(1, 2, 0)])


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[1::6])
def test_the_same_voxels_of_a_mask_are_taken_however_it_is_stored(order, signs):
    direction, mask = rotation((0.1, -0.2, 0.3)), np.zeros((12, 10, 8), np.float32)
    mask[2:11, 1:7, 3:8] = np.random.default_rng(0).random((9, 6, 5)) > 0.3
    grid = Grid(mask.shape, (1, 2, 3), (5, 6, 7), direction)
    ends = np.where(np.array(signs) < 0, np.array(mask.shape)[list(order)] - 1, 0)
    index = np.zeros(3)
    index[list(order)] = ends
    stored = Grid(
        tuple(mask.shape[k] for k in order),
        tuple(grid.spacing[k] for k in order),
        tuple(grid.index_to_physical(index)),
        direction[:, order] * signs,
    )
    flips = tuple(slice(None, None, sign) for sign in signs)
    expected = voxels_of(Volume.from_grid(mask, grid), most=40)
    found = voxels_of(Volume.from_grid(mask.transpose(order)[flips], stored), most=40)
    np.testing.assert_allclose(found, expected, atol=1e-9)
