# SPDX-License-Identifier: MIT
"""A landmark keeps its physical coordinates from the file read to the files written."""

from itertools import permutations, product

import numpy as np
import pytest

from segsrgan.cli.job_model import Recipe
from segsrgan.inference.predictor import Predictor
from segsrgan.volumes.reading import read_volume
from segsrgan.volumes.volume import Grid, Volume
from segsrgan.volumes.writing import write_volume

TOLERANCE = 0.01  # mm


def rotation(angles):
    """Rotation matrix of three angles in radians about x, y, z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        first, second = [k for k in range(3) if k != axis]
        turn[[first, first, second, second], [first, second, first, second]] = (
            cosine,
            -sine,
            sine,
            cosine,
        )
        matrix = turn @ matrix
    return matrix


def signed_permutations():
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            yield np.eye(3)[:, order] * signs


DIRECTIONS = {
    "identity": np.eye(3),
    "oblique": rotation((0.3, -0.5, 1.1)),
    "mirrored": rotation((0.3, -0.5, 1.1)) @ np.diag([1, 1, -1]),
}


def landmark(thick, direction, spacing=(1.0, 1.2, 4.0)):
    """A smooth blob at a known point of a grid whose axis `thick` is the coarse one.

    Returns:
        The volume and the point in mm.
    """
    spacing = np.roll(spacing, thick - 2)
    shape = np.ceil(60 / spacing).astype(int) + np.array([0, 2, 1])
    grid = Grid(tuple(shape), tuple(spacing), (-31.7, 12.3, 88.1), direction)
    point = grid.index_to_physical((shape - 1) / 2 + np.array([1.3, -0.6, 0.4]) / spacing)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.index_to_physical(indices) - point, axis=-1)
    # Wider than the slices, so that sampling it loses nothing.
    array = 500 * np.exp(-0.5 * (distance / 6) ** 2)
    return Volume.from_grid(array.astype(np.float32), grid), point


def centre(volume):
    """Centre of mass in mm."""
    weights = volume.array.astype(np.float64)
    grid = volume.grid
    index = [
        (weights.sum(axis=tuple({0, 1, 2} - {axis})) * np.arange(grid.shape[axis])).sum()
        for axis in range(3)
    ]
    return grid.index_to_physical(np.array(index) / weights.sum())


def assert_kept(volume, point, **options):
    result = Predictor(**options).predict(volume, patch=32, step=24, new_resolution=(1, 0.9, 1.1))
    for output in (result.sr, result.cortex):
        assert np.linalg.norm(centre(output) - point) < TOLERANCE
        np.testing.assert_allclose(output.spacing, (1, 0.9, 1.1))
        np.testing.assert_allclose(output.direction, volume.direction)
        assert_covers(output.grid, volume.grid)
    # The mask is a ball about the same point: half a voxel at most.
    assert np.linalg.norm(centre(result.cortex_mask) - point) < 0.1


def assert_covers(new, old):
    """The first corner is the old one; the last lies at most one new voxel beyond it."""
    first = new.physical_to_index(old.index_to_physical((-0.5,) * 3))
    last = new.physical_to_index(old.index_to_physical(np.array(old.shape) - 0.5))
    np.testing.assert_allclose(first, -0.5, atol=1e-5)  # a file keeps float32
    spare = np.array(new.shape) - 0.5 - last
    assert np.all(spare > -2e-3) and np.all(spare < 1)


@pytest.mark.parametrize("thick", [0, 1, 2])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_landmark_stays_for_every_thick_axis(echo, thick, direction):
    volume, point = landmark(thick, DIRECTIONS[direction])
    assert volume.grid.thick_axis == thick
    assert np.linalg.norm(centre(volume) - point) < 1e-3
    assert_kept(volume, point, model=echo)


@pytest.mark.parametrize("number", range(0, 48, 5))
def test_a_landmark_stays_in_flipped_and_permuted_directions(echo, number):
    direction = list(signed_permutations())[number]
    assert_kept(*landmark(number % 3, direction), model=echo)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.9, 0.9, 3.3), (0.43, 0.43, 2.5)])
def test_a_landmark_stays_at_other_ratios(echo, spacing):
    shape = tuple(np.ceil(48 / np.array(spacing)).astype(int))
    grid = Grid(shape, spacing, (1, 2, 3), DIRECTIONS["oblique"])
    volume, point = _blob(grid, sigma=5)
    for resolution in (0.7, 1.0):
        result = Predictor(model=echo).predict(volume, patch=64, new_resolution=resolution)
        assert np.linalg.norm(centre(result.sr) - point) < TOLERANCE
        assert np.linalg.norm(centre(result.cortex) - point) < TOLERANCE


@pytest.mark.parametrize("options", [{"interp": "sitk"}, {"blend": "gaussian"}])
def test_a_landmark_stays_with_every_option(echo, options):
    assert_kept(*landmark(0, DIRECTIONS["oblique"]), model=echo, **options)


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_a_landmark_stays_through_the_command_and_its_files(
    tmp_path, table, job_model, echo, monkeypatch, thick
):
    monkeypatch.setattr(Recipe, "__call__", lambda recipe: Predictor(model=echo))
    volume, point = landmark(thick, DIRECTIONS["oblique"])
    write_volume(volume, tmp_path / "lr.nii.gz")
    assert job_model(table("lr.nii.gz"), "-rf", "x", patch="32", resolution="1,0.9,1.1") == 0
    folder = tmp_path / "Result_with_x" / "patch_32_step_16"
    for kind in ("SR", "Cortex"):
        written = read_volume(folder / f"{kind}_patch_32_step_16.nii.gz")
        assert np.linalg.norm(centre(written) - point) < TOLERANCE
        assert_covers(written.grid, volume.grid)
    mask = read_volume(folder / "Cortex_mask_patch_32_step_16.nii.gz")
    assert mask.grid.is_close(written.grid)


def _blob(grid, sigma):
    point = grid.index_to_physical((np.array(grid.shape) - 1) / 2 + 0.3)
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.index_to_physical(indices) - point, axis=-1)
    array = 500 * np.exp(-0.5 * (distance / sigma) ** 2)
    return Volume.from_grid(array.astype(np.float32), grid), point
