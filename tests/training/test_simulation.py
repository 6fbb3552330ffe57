# SPDX-License-Identifier: MIT
"""The simulated acquisitions, and the patches that are cut from them."""

import numpy as np
import pytest
from training.samples import ball, write_table

from segsrgan.training.dataset import Simulation, epoch_batches, patch_starts
from segsrgan.training.simulate import add_noise, change_contrast, scan
from segsrgan.training.table import read_table
from segsrgan.volumes import Volume, write_volume


def test_contrast_is_a_power_on_the_unit_range():
    x = np.array([0.0, 1.0, 2.0, 4.0], "float32").reshape(4, 1, 1)
    np.testing.assert_allclose(np.ravel(change_contrast(x, 2.0)), [0, 0.25, 1, 4])
    assert change_contrast(x, 1) is x


def test_noise_has_the_share_of_the_maximum_and_is_clipped_at_zero():
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
    lr, hr, _ = simulation.draw(image, np.random.default_rng(0))
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


def test_patches_tile_the_bounding_box_with_the_stride():
    array = np.zeros((20, 12, 9))
    array[2:18, 1:11, 4:6] = 1  # 16, 10, 2 voxels
    starts = patch_starts(array, patch=8, stride=4)
    # x: 2, 6, 10 (10 + 8 = 18); y: 1 (5 + 8 would end at 13 > 11); z: one, inside the image
    assert sorted(map(tuple, starts.tolist())) == [(2, 1, 1), (6, 1, 1), (10, 1, 1)]


def test_batches_of_an_epoch_hold_every_patch_once(tmp_path):
    train, _ = read_table(write_table(tmp_path, ("Train", "Train", "Train", "Test")))
    simulation = Simulation((1, 1, 1), contrast_max=0.0, noise=0.0)  # lr = hr
    batches = list(epoch_batches(train, simulation, 8, 4, 5, np.random.default_rng(0), together=2))
    image, label = train[0].load()
    starts = patch_starts(image.array, 8, 4)
    assert [len(lr) for lr, _ in batches[:-1]] == [5] * (len(batches) - 1)
    lr = np.concatenate([lr for lr, _ in batches])[..., 0]
    target = np.concatenate([target for _, target in batches])
    np.testing.assert_allclose(lr, target[..., 0], atol=1e-6)
    expected = []
    for x, y, z in starts:
        window = np.s_[x : x + 8, y : y + 8, z : z + 8]
        expected += 3 * [(image.array[window].sum() / image.array.max(), label[window].sum())]
    found = list(zip(lr.sum((1, 2, 3)), target[..., 1].sum((1, 2, 3)), strict=True))
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-4)


def test_order_differs_between_epochs_and_repeats_with_the_seed(tmp_path):
    train, _ = read_table(write_table(tmp_path))
    simulation = Simulation((1, 1, 3))

    def first(seed):
        return next(epoch_batches(train, simulation, 8, 4, 4, np.random.default_rng(seed)))[0]

    np.testing.assert_array_equal(first([0, 1]), first([0, 1]))
    assert np.abs(first([0, 1]) - first([0, 2])).max() > 1e-3


def test_a_box_smaller_than_the_patch_is_padded_with_zeros(tmp_path):
    train, _ = read_table(write_table(tmp_path, shape=(12, 12, 6), radius=2.5))
    simulation = Simulation((1, 1, 1), contrast_max=0.0, noise=0.0)
    ((lr, target),) = epoch_batches(train, simulation, 8, 4, 4, np.random.default_rng(0))
    assert lr.shape == (1, 8, 8, 8, 1) and target.shape == (1, 8, 8, 8, 2)
    assert target[0, ..., 1].sum() == train[0].load()[1].sum()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_thick_axis_comes_last_whichever_it_is(axis, tmp_path):
    train, _ = read_table(write_table(tmp_path))
    noise = np.random.default_rng(1).uniform(50, 100, (24, 24, 24)).astype("float32")
    write_volume(Volume(noise, (1.0, 1.0, 1.0)), tmp_path / "image0.nii.gz")
    resolution = [1.0, 1.0, 1.0]
    resolution[axis] = 4.0
    simulation = Simulation(tuple(resolution), contrast_max=0.0, noise=0.0)
    ((lr, target),) = epoch_batches(train, simulation, 24, 24, 1, np.random.default_rng(0))
    roughness = [np.abs(np.diff(lr[0, ..., 0], axis=k)).mean() for k in range(3)]
    assert roughness[2] < 0.5 * min(roughness[:2])  # the others are as rough as white noise
    # Image and label turned with it.
    image, label = train[0].load()
    np.testing.assert_allclose(
        target[0, ..., 0] / target.max(), np.moveaxis(image.array, axis, 2) / noise.max(), rtol=1e-4
    )
    np.testing.assert_array_equal(target[0, ..., 1], np.moveaxis(label, axis, 2))
