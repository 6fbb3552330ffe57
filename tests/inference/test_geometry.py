# SPDX-License-Identifier: MIT
"""A landmark keeps its physical coordinates from the file read to the files written."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from volumes.samples import centroid, rotation

from segsrgan.cli.job_model import Recipe
from segsrgan.inference.predictor import Predictor
from segsrgan.volumes.comparison import reordered
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.reading import read_volume
from segsrgan.volumes.volume import Grid, Volume

TOLERANCE = 0.01  # mm
OBLIQUE = rotation((0.3, -0.5, 1.1))
PERMUTED = [
    np.eye(3)[:, order] * signs
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
CASES = [  # the thick axis, the direction
    *product(range(3), (OBLIQUE, OBLIQUE @ np.diag([1, 1, -1]))),
    *((number % 3, PERMUTED[number]) for number in range(0, 48, 5)),
]


def landmark(thick, direction, spacing=(1.0, 1.2, 4.0)):
    """A smooth blob and its point in mm, on a grid whose axis `thick` is the coarse one."""
    spacing = np.roll(spacing, thick - 2)
    shape = np.ceil(60 / spacing).astype(int) + np.array([0, 2, 1])
    grid = Grid(tuple(shape), tuple(spacing), (-31.7, 12.3, 88.1), direction)
    point = grid.index_to_physical((shape - 1) / 2 + np.array([1.3, -0.6, 0.4]) / spacing)
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.index_to_physical(indices) - point, axis=-1)
    # Wider than the slices, so that sampling it loses nothing.
    array = 500 * np.exp(-0.5 * (distance / 6) ** 2)
    return Volume.from_grid(array.astype(np.float32), grid), point


def distance(volume, point):
    """From the centre of mass to the point, in mm."""
    return np.linalg.norm(centroid(volume) - point)


def assert_kept(volume, point, resolution, sr, cortex, cortex_mask):
    for output in (sr, cortex):
        assert distance(output, point) < TOLERANCE
        np.testing.assert_allclose(output.spacing, resolution)
        np.testing.assert_allclose(output.direction, volume.direction, atol=1e-6)
        # The first corner is the old one; the last lies at most one new voxel beyond it.
        corners = volume.grid.index_to_physical([(-0.5,) * 3, np.array(volume.array.shape) - 0.5])
        first, last = output.grid.physical_to_index(corners)
        np.testing.assert_allclose(first, -0.5, atol=1e-5)  # a file keeps float32
        spare = np.array(output.array.shape) - 0.5 - last
        assert np.all(spare > -2e-3) and np.all(spare < 1)
    # The mask is a ball about the same point: half a voxel at most.
    assert distance(cortex_mask, point) < 0.1
    assert cortex_mask.grid.is_close(sr.grid)


def check(volume, point, resolution=(1, 0.9, 1.1), patch=32, step=24, **options):
    result = Predictor(**options).predict(volume, patch, step, resolution)
    assert_kept(volume, point, resolution, result.sr, result.cortex, result.cortex_mask)


@pytest.mark.parametrize(("thick", "direction"), CASES)
def test_a_landmark_stays_for_every_thick_axis_and_direction(echo, thick, direction):
    volume, point = landmark(thick, direction)
    assert volume.grid.thick_axis == thick
    assert distance(volume, point) < 1e-3
    check(volume, point, model=echo)


@pytest.mark.parametrize("resolution", [0.7, 1.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.9, 0.9, 3.3), (0.43, 0.43, 2.5)])
def test_a_landmark_stays_at_other_ratios(echo, spacing, resolution):
    check(*landmark(2, OBLIQUE, spacing), (resolution,) * 3, 64, None, model=echo)


@pytest.mark.parametrize("options", [{"interp": "sitk"}, {"blend": "gaussian"}])
def test_a_landmark_stays_with_every_option(echo, options):
    check(*landmark(0, OBLIQUE), model=echo, **options)


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_a_landmark_stays_through_the_command_and_its_files(
    tmp_path, table, job_model, echo, monkeypatch, thick
):
    monkeypatch.setattr(Recipe, "__call__", lambda recipe: Predictor(model=echo))
    volume, point = landmark(thick, OBLIQUE)
    write_volume(volume, tmp_path / "lr.nii.gz")
    assert job_model(table("lr.nii.gz"), "-rf", "x", patch="32", resolution="1,0.9,1.1") == 0
    folder = tmp_path / "Result_with_x" / "patch_32_step_16"
    kinds = ("SR", "Cortex", "Cortex_mask")
    written = [read_volume(folder / f"{kind}_patch_32_step_16.nii.gz") for kind in kinds]
    assert_kept(volume, point, (1, 0.9, 1.1), *written)


@pytest.mark.parametrize("thick", [0, 1, 2, None])
def test_a_scan_gives_the_same_result_however_it_is_stored(thick, tiny):
    predictor = Predictor(tiny)
    spacing = [3.0 if axis == thick else 1.0 for axis in range(3)]
    array = np.random.default_rng(0).uniform(1, 2, (12, 10, 8)).astype(np.float32)
    scan = Volume(array, spacing, (4.0, 5.0, 6.0), OBLIQUE)
    expected = predictor.predict(scan, 8, 5, 1)
    for turn in PERMUTED:
        stored = reordered(scan, Grid((1, 1, 1), direction=OBLIQUE @ turn))
        result = predictor.predict(stored, 8, 5, 1)
        for name in ("sr", "cortex"):
            found, known = result.volumes[name], expected.volumes[name]
            np.testing.assert_allclose(found.direction, stored.direction, atol=1e-9)
            found = reordered(found, known.grid)
            assert found.grid.is_close(known.grid)
            np.testing.assert_allclose(found.array, known.array, rtol=1e-4, atol=1e-4)


def test_results_on_every_grid_are_in_the_space_of_the_scan(echo, tmp_path):
    volume, _ = landmark(2, np.eye(3))
    write_volume(replace(volume, space=4), tmp_path / "scan.nii")
    for geometry in ("exact", "legacy"):
        result = Predictor(model=echo, geometry=geometry).predict(tmp_path / "scan.nii", 32)
        for found in (result, result.on_grid()):
            assert [part.space for part in found.volumes.values()] == [4] * len(found.volumes)
