# SPDX-License-Identifier: MIT
"""Volumes: indices, physical points and fields of view."""

import numpy as np
import pytest
from volumes.samples import DIRECTIONS

from segsrgan.volumes import Grid, Volume
from segsrgan.volumes.volume import nearest_rotation


def corners(grid):
    """Physical positions of the eight outer corners of the field of view."""
    low_or_high = np.indices((2, 2, 2)).reshape(3, -1).T
    return grid.index_to_physical(low_or_high * np.array(grid.shape) - 0.5)


def test_index_to_physical_by_hand():
    # Axis x runs along +P, y along +L, z down: columns (0,1,0), (1,0,0), (0,0,-1).
    grid = Grid((4, 5, 6), (1, 2, 3), (10, 20, 30), [[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    assert grid.index_to_physical((1, 1, 1)) == pytest.approx([12, 21, 27])
    assert grid.physical_to_index((12, 21, 27)) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_index_and_physical_are_inverse(direction):
    grid = Grid((4, 5, 6), (0.7, 1.3, 4.1), (-10, 7, 3), direction)
    points = np.random.default_rng(0).normal(size=(7, 2, 3)) * 50
    assert grid.index_to_physical(grid.physical_to_index(points)) == pytest.approx(points)


def test_corner_aligned_by_hand():
    grid = Grid((2, 2, 2), (1, 1, 3), (0, 0, 0)).corner_aligned(1)
    assert (grid.shape, grid.origin) == ((2, 2, 6), pytest.approx((0, 0, -1)))
    for thickness in (3.0000004, 2.9999996):  # a header rounds, and no voxel is added
        assert Grid((10, 10, 30), (1, 1, thickness)).corner_aligned(1).shape == (10, 10, 90)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (0.7, 1.1, 0.9), (2, 5, 4), (1, 1.25, 3.3)])
def test_corner_aligned_covers_the_field_of_view(direction, spacing):
    old = Grid((11, 9, 7), (1, 1.25, 3.3), (-10, 7, 3), direction)
    new = old.corner_aligned(spacing)
    assert corners(new)[0] == pytest.approx(corners(old)[0], abs=1e-9)
    beyond = np.array(new.shape) * new.spacing - np.array(old.shape) * old.spacing
    assert np.all((beyond > -2e-3 * np.array(spacing)) & (beyond < spacing))


def test_thick_axis_is_found_from_the_spacing():
    for axis, spacing in enumerate([(3, 1, 1), (1, 3, 1), (0.5, 0.6, 3)]):
        assert Grid((4, 4, 4), spacing).thick_axis == axis
    for spacing in ((1, 1, 1), (1, 1, 1.04), (3, 3, 1)):
        assert Grid((4, 4, 4), spacing).thick_axis is None


def test_is_close_compares_corners_not_numbers():
    grid = Grid((100, 10, 10), (1, 1, 1))
    assert grid.is_close(Grid((100, 10, 10), (1.000001, 1, 1)))
    assert not grid.is_close(Grid((100, 10, 10), (1.001, 1, 1)))
    assert not grid.is_close(Grid((100, 10, 11), (1, 1, 1)))


SHEARED = [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("spacing", [0, -1, (1, 1, 0), np.nan, np.inf, (1, 1), "fine", 1e-3])
def test_impossible_and_absurdly_fine_spacings_are_refused(spacing):
    with pytest.raises(ValueError, match="coarser" if spacing == 1e-3 else None):
        Grid((4, 4000, 4000)).corner_aligned(spacing)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"shape": shape} for shape in ((4, 4), (4, 4, 0))),
        {"origin": (0, 0, np.nan)},
        *({"direction": np.array(m)} for m in (np.eye(3) * 2, SHEARED, np.eye(2))),
    ],
)
def test_impossible_grids_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .*received"):
        Grid(**{"shape": (4, 4, 4), **wrong})


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_nearest_rotation_keeps_a_rotation_and_its_handedness(direction):
    assert nearest_rotation(direction * [1, 2, 5]) == pytest.approx(direction)
    sheared = nearest_rotation(direction @ SHEARED)
    assert sheared.T @ sheared == pytest.approx(np.eye(3))
    assert np.linalg.det(sheared) == pytest.approx(np.linalg.det(direction))


def test_a_volume_refuses_other_shapes():
    volume = Volume(np.zeros((2, 3, 4)), (1, 1, 1))
    with pytest.raises(ValueError, match="received"):
        volume.with_array(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="three axes"):
        Volume(np.zeros((2, 3)), (1, 1, 1))
    assert volume.with_array(np.ones((2, 3, 4), np.uint8)).array.dtype == np.uint8
