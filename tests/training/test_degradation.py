# SPDX-License-Identifier: MIT
"""What happens to an image before it is cut: deformations and simulated acquisitions."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.random import default_rng as rng
from training.samples import ball, ball_mask, epoch, write_table

from segsrgan.networks import GeneratorSpec
from segsrgan.training.augmentation import Deformation, _Field
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.degradation import Degradation, add_noise, change_contrast, scan
from segsrgan.training.patches import Cutting
from segsrgan.volumes import Volume

SPEC = GeneratorSpec(mask_classes=3)


def smooth(shape=(40, 36, 32)):
    """A smooth lopsided image, 0 near the border."""
    grid = np.indices(shape)
    array = np.zeros(shape)
    for middle, size in (((17, 17, 14), 4.0), ((23, 15, 18), 3.0)):
        squares = sum((g - m) ** 2 for g, m in zip(grid, middle, strict=True))
        array += np.exp(-squares / (2 * size**2))
    return Volume((100 * array / array.max()).astype("float32"), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("options", [{"rotation": 20.0}, {"elastic": 6.0}])
def test_image_label_and_mask_move_together(options):
    image = smooth()
    label = image.array > 30
    labels = {"label": label, "mask": label.astype("uint8") + (image.array > 60)}
    labels["probability"] = np.rint(255 * image.array / image.array.max()).astype("uint8")
    moved, labels = Deformation(**options).apply(image, labels, rng(0), classes={"mask"})
    moved_label, moved_mask = labels["label"], labels["mask"]
    assert moved.array.dtype == np.float32 and moved.spacing == image.spacing
    assert moved_label.dtype == bool and moved_mask.dtype == np.uint8
    assert set(np.unique(moved_mask)) == {0, 1, 2}
    moving = np.count_nonzero(moved_label != label)
    assert moving > 200
    # What is brighter than 30 in the moved image is its label, but for voxels on the border.
    assert np.count_nonzero(moved_label != (moved.array > 30)) < 0.4 * moving
    assert np.count_nonzero((moved_mask > 1) != (moved.array > 60)) < 0.3 * moving
    # Probabilities are interpolated, linearly, which flattens the tops.
    found, expected = labels["probability"], 255 * moved.array / image.array.max()
    assert found.dtype == np.uint8 and len(np.unique(found)) > 50
    np.testing.assert_allclose(found, expected, atol=8)


def test_the_draw_repeats_with_the_seed_and_each_number_has_its_effect():
    (image, label), deformation = ball(), Deformation(5.0, 2.0)
    labels = {"label": label.array > 0, "mask": ball_mask().array.astype("uint8")}
    first, again, other = (deformation.apply(image, labels, rng(s), {"mask"}) for s in (0, 0, 1))
    np.testing.assert_array_equal(first[0].array, again[0].array)
    for name in labels:
        np.testing.assert_array_equal(first[1][name], again[1][name])
    assert np.abs(first[0].array - other[0].array).max() > 1
    still, still_labels = Deformation().apply(image, labels, rng(0))
    assert still is image and still_labels["label"] is labels["label"]
    assert image.array.min() <= first[0].array.min()
    assert first[0].array.max() <= image.array.max()


def test_a_rotation_by_hand_and_in_millimetres():
    # A quarter turn about z: the field maps the voxel (x, y) to (y, -x) about the middle.
    angles = SimpleNamespace(uniform=lambda *_: np.array([0, 0, 1.0]), standard_normal=np.ones)
    field = _Field.draw(Deformation(90.0), (5, 5, 3), (1.0, 1.0, 1.0), angles)
    points = field.coordinates(slice(0, 5))
    np.testing.assert_allclose(points[:, 4, 2, 1], (2, 4, 1), atol=1e-12)
    np.testing.assert_allclose(points[:, 2, 4, 2], (0, 2, 2), atol=1e-12)
    # A rotation is one in millimetres.
    spacing = np.array([0.5, 1.0, 2.0])
    field = _Field.draw(Deformation(30.0), (9, 9, 9), spacing, rng(3))
    points = np.moveaxis(field.coordinates(slice(0, 9)), 0, -1)
    middle = np.array([4.0] * 3)
    before = np.linalg.norm((np.moveaxis(np.indices((9,) * 3), 0, -1) - middle) * spacing, axis=-1)
    after = np.linalg.norm((points - middle) * spacing, axis=-1)
    np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize("elastic", [3.0, 40.0])
def test_displacements_stay_below_the_bound_are_smooth_and_never_fold(elastic):
    shape, spacing = (60, 50, 40), np.array([1.0, 1.5, 2.0])
    lengths, volumes = [], []
    for seed in range(5):
        field = _Field.draw(Deformation(elastic=elastic), shape, spacing, rng(seed))
        points = field.coordinates(slice(0, 60))
        slabs = [field.coordinates(slice(first, first + 25)) for first in (0, 25, 50)]
        np.testing.assert_allclose(np.concatenate(slabs, 1), points, atol=1e-12)
        moved = np.moveaxis(points - np.indices(shape), 0, -1) * spacing
        lengths.append(np.linalg.norm(moved, axis=-1).max())
        slopes = np.stack([np.stack(np.gradient(p), -1) for p in points], -2)
        volumes.append(np.linalg.det(slopes).min())
    assert 0.15 * elastic < max(lengths) <= elastic
    assert min(volumes) > 0


def test_training_images_are_deformed_anew_each_epoch_and_test_images_never(tmp_path):
    train, _, classes = read_cases(write_table(tmp_path, masks=True), fit_mask=True)

    def dataset(**options):
        degradation = Degradation((1, 1, 1), contrast_max=0.0, noise=0.0)
        cutting = Cutting(24, flip=False)
        return Dataset(train, degradation, cutting, 1, 0, spec=SPEC, **options)

    still, lively = dataset(), dataset(deformation=Deformation(10.0, 2.0))
    a, b, c = (next(epoch(d, n, 0)) for d, n in ((still, 1), (lively, 1), (lively, 2)))
    for channel in range(2 + classes):
        assert (a.target[..., channel] != b.target[..., channel]).any()
        assert (b.target[..., channel] != c.target[..., channel]).any()
    np.testing.assert_allclose(b.lr[..., 0], b.target[..., 0], atol=1e-6)
    (x,), (y,) = still.all_patches(), lively.all_patches()
    np.testing.assert_array_equal(x.target, y.target)


def test_contrast_is_a_power_on_the_unit_range_and_noise_a_fraction_of_the_maximum():
    x = np.array([0.0, 1.0, 2.0, 4.0], "float32").reshape(4, 1, 1)
    np.testing.assert_allclose(np.ravel(change_contrast(x, 2.0)), [0, 0.25, 1, 4])
    x = np.full((40, 40, 40), 100.0, "float32")
    assert add_noise(x, 0.03, rng(0)).std() == pytest.approx(3.0, rel=0.02)
    x[:20] = 0
    assert add_noise(x, 0.03, rng(0)).min() == 0
    assert change_contrast(x, 1) is add_noise(x, 0.0, rng(0)) is x


def test_a_scan_blurs_and_decimates_the_thick_axis_alone():
    draws = rng(0)
    columns = draws.random((12, 12, 1), dtype="float32")
    flat = Volume(np.broadcast_to(columns, (12, 12, 24)), (0.5, 0.5, 0.5))
    lr = scan(flat, (0.5, 0.5, 3.0), draws)
    assert lr.array.shape == (12, 12, 4) and lr.spacing == (0.5, 0.5, 3.0)
    np.testing.assert_allclose(lr.array, np.broadcast_to(columns, (12, 12, 4)), atol=1e-5)


def test_pair_lies_on_the_images_grid_and_is_normalised_as_the_scan_is():
    image, _ = ball()
    degradation = Degradation((1, 1, 3), contrast_max=0.0, noise=0.0)
    lr, hr, axis, resolution = degradation.draw(image, rng(0))
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
    degradation = Degradation((1, 1, 3), **{**plain, **change})
    first, again, other = (degradation.draw(image, rng(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_the_resolution_lies_between_the_bounds_at_the_position_given():
    image, _ = ball()
    degradation = Degradation((1, 2, 1), (1, 6, 1))
    for position, expected in ((0, 2), (0.25, 3), (1, 6)):
        draw = degradation.draw(image, rng(0), position)
        assert (draw.axis, draw.resolution) == (1, pytest.approx(expected))
    drawn = [degradation.draw(image, rng(s)).resolution for s in range(20)]
    assert 2 <= min(drawn) < 3 and 5 < max(drawn) <= 6
    draw = Degradation((1, 1, 1)).draw(image, rng(0))
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


def test_the_margin_covers_the_reach_of_a_slice_on_the_networks_grid():
    degradation = Degradation((0.5, 0.5, 2.0), (0.5, 0.5, 4.0))
    assert degradation.margin((0.5, 0.5, 0.5)) == (1, 1, 16)
    assert Degradation((1, 1, 2), thickness=5.0).margin((1, 1, 1)) == (1, 1, 10)
    assert degradation.network_spacing((0.5, 0.5, 0.5)) == (0.5, 0.5, 0.5)
    # Slices less than two voxels apart leave the grid as it is.
    degradation = Degradation((1.0, 1.0, 1.9), slice_voxels=4)
    assert degradation.network_spacing((1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)
