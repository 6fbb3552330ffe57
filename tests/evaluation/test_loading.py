# SPDX-License-Identifier: MIT
"""What is put onto the grid of its reference."""

import numpy as np
import pytest
from volumes.samples import DIRECTIONS, blob_volume, noise, rotation

from segsrgan.errors import UserError
from segsrgan.evaluation.run import align, interpolate, overlap
from segsrgan.volumes import Grid, Volume

IDENTITY = np.eye(3)
SHAPE, SPACING, ORIGIN = (4, 5, 6), (1.0, 0.5, 2.0), (3.0, -7.0, 11.0)


def made(direction=IDENTITY, origin=ORIGIN, shape=SHAPE, spacing=SPACING):
    return Volume(noise(shape), spacing, origin, direction)


def put(volume, grid, order=0, resample=False):
    return align(volume, grid, order, resample, "prediction.nrrd", "reference.nrrd")


def test_what_lies_a_voxel_off_is_shifted_and_zero_beyond():
    volume = made(origin=np.add(ORIGIN, (1.0, 0, 0)))
    for order in (0, 1):
        array, how = put(volume, made().grid, order, resample=True)
        assert how == "resampled"
        assert np.array_equal(array[1:], volume.array[:-1]) and not array[0].any()


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize(("order", "error"), [(1, 0.053), (3, 0.002)])
def test_a_blob_lies_at_the_same_place_after_resampling(name, order, error):
    # Linear: at most the sum of h^2 / 8 times the second derivative, 1 / 4^2.
    target = blob_volume((1.5, 1.5, 1.5), np.eye(3), extent=30)
    source = blob_volume((1.0, 1.3, 2.0), DIRECTIONS[name], extent=66)
    assert np.abs(interpolate(source, target.grid, order) - target.array).max() < error


def test_the_field_of_view_reaches_half_a_voxel_beyond_the_centres():
    volume = Volume(np.ones((2, 1, 1)), (4.0, 1.0, 1.0))  # from -2 to 6 mm
    grid = Grid((11, 1, 2), (1, 1, 1), (-4, 0, 0))
    inside = overlap(volume, grid, "a", "b")
    assert np.flatnonzero(inside[:, 0, 0]).tolist() == list(range(2, 11))
    assert not inside[:, 0, 1].any()


@pytest.mark.parametrize("direction", [IDENTITY, rotation()], ids=["straight", "oblique"])
def test_what_lies_elsewhere_is_refused(direction):
    with pytest.raises(UserError, match=r"prediction.nrrd: lies nowhere over its reference \(ref"):
        put(made(direction, (500, 0, 0)), made().grid, 1, resample=True)
