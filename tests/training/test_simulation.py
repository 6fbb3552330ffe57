# SPDX-License-Identifier: MIT
"""The simulated acquisitions."""

import numpy as np
import pytest
from training.samples import ball

from segsrgan.training.simulation import Simulation, add_noise, change_contrast, scan
from segsrgan.volumes import Volume


def test_contrast_is_a_power_on_the_unit_range():
    x = np.array([0.0, 1.0, 2.0, 4.0], "float32").reshape(4, 1, 1)
    np.testing.assert_allclose(np.ravel(change_contrast(x, 2.0)), [0, 0.25, 1, 4])
    assert change_contrast(x, 1) is x


def test_noise_has_the_fraction_of_the_maximum_and_is_clipped_at_zero():
    rng = np.random.default_rng(0)
    x = np.full((40, 40, 40), 100.0, "float32")
    noisy = add_noise(x, 0.03, rng)
    assert noisy.std() == pytest.approx(3.0, rel=0.02)
    x[:20] = 0
    assert add_noise(x, 0.03, rng).min() == 0
    assert add_noise(x, 0.0, rng) is x


def test_a_scan_blurs_and_decimates_the_thick_axis_alone():
    rng = np.random.default_rng(0)
    columns = rng.random((12, 12, 1), dtype="float32")
    flat = Volume(np.broadcast_to(columns, (12, 12, 24)), (0.5, 0.5, 0.5))
    lr = scan(flat, (0.5, 0.5, 3.0), rng)
    assert lr.array.shape == (12, 12, 4) and lr.spacing == (0.5, 0.5, 3.0)
    np.testing.assert_allclose(lr.array, np.broadcast_to(columns, (12, 12, 4)), atol=1e-5)


def test_pair_lies_on_the_images_grid_and_is_normalised_as_the_scan_is():
    image, _ = ball()
    simulation = Simulation((1, 1, 3), contrast_max=0.0, noise=0.0)
    lr, hr, axis, resolution = simulation.draw(image, np.random.default_rng(0))
    assert (axis, resolution) == (2, 3.0)
    assert lr.shape == hr.shape == image.array.shape
    largest = scan(image, (1, 1, 3), None).array.max()
    np.testing.assert_allclose(hr, image.array / largest, rtol=1e-5)
    # The blurred slices sum to the image's volume: a ball away from the border.
    assert lr.sum() == pytest.approx(hr.sum(), rel=0.02)


@pytest.mark.parametrize("change", [{"upper": (1, 1, 6)}, {"contrast_max": 0.5}, {"noise": 0.03}])
def test_each_kind_of_randomness_changes_the_draw_and_repeats_with_the_seed(change):
    image, _ = ball()
    plain = {"contrast_max": 0.0, "noise": 0.0}
    simulation = Simulation((1, 1, 3), **{**plain, **change})
    first, again, other = (
        simulation.draw(image, np.random.default_rng(seed))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_the_resolution_lies_between_the_bounds_at_the_position_given():
    image, _ = ball()
    simulation = Simulation((1, 2, 1), (1, 6, 1))
    for position, expected in ((0, 2), (0.25, 3), (1, 6)):
        draw = simulation.draw(image, np.random.default_rng(0), position)
        assert (draw.axis, draw.resolution) == (1, pytest.approx(expected))
    drawn = [simulation.draw(image, np.random.default_rng(s)).resolution for s in range(20)]
    assert 2 <= min(drawn) < 3 and 5 < max(drawn) <= 6
    draw = Simulation((1, 1, 1)).draw(image, np.random.default_rng(0))
    assert (draw.axis, draw.resolution) == (2, 1.0)  # without a coarser axis the last one


def test_the_slice_thickness_is_that_of_the_profile():
    # A point blurred by a profile of 2 mm, however far apart the slices are: by hand.
    point = Volume(np.zeros((1, 1, 24), "float32"), (1.0, 1.0, 0.5))
    point.array[..., 13] = 1.0  # its centre at 6.75 mm
    lr = scan(point, (1, 1, 3), None, thickness=2.0).array.ravel()
    centres, fine = 1.5 + 3 * np.arange(4), 0.25 + 0.5 * np.arange(24)
    sigma = 2 / 2.3548
    weights = np.exp(-((centres[:, None] - fine) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(lr, weights[:, 13] / weights.sum(1), rtol=1e-3, atol=1e-6)


def test_the_margin_covers_the_reach_of_a_slice():
    simulation = Simulation((0.5, 0.5, 2.0), (0.5, 0.5, 4.0))
    assert simulation.margin((0.5, 0.5, 0.5)) == (1, 1, 16)
    assert Simulation((1, 1, 2), thickness=5.0).margin((1, 1, 1)) == (1, 1, 10)


def test_slices_less_than_two_voxels_apart_leave_the_grid_as_it_is():
    simulation = Simulation((1.0, 1.0, 1.9), slice_voxels=4)
    assert simulation.network_spacing((1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)
    assert Simulation((1.0, 1.0, 6.0)).network_spacing((1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)
