# SPDX-License-Identifier: MIT
"""Deformations of an image, its label and its mask together."""

from types import SimpleNamespace

import numpy as np
import pytest
from training.samples import ball, ball_mask, epoch, write_table

from segsrgan.networks import GeneratorSpec
from segsrgan.training.augmentation import Deformation, _Field
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.patches import Cutting
from segsrgan.training.simulation import Simulation
from segsrgan.volumes import Volume

SPEC = GeneratorSpec(mask_classes=3)


def rng(seed=0):
    return np.random.default_rng(seed)


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
    moved, labels = Deformation(**options).apply(image, labels, rng(), classes={"mask"})
    moved_label, moved_mask = labels["label"], labels["mask"]
    assert moved.array.dtype == np.float32 and moved.spacing == image.spacing
    assert moved_label.dtype == bool and moved_mask.dtype == np.uint8
    assert set(np.unique(moved_mask)) == {0, 1, 2}
    moving = np.count_nonzero(moved_label != label)
    assert moving > 200
    # What is brighter than 30 in the moved image is its label, but for voxels on the border.
    assert np.count_nonzero(moved_label != (moved.array > 30)) < 0.4 * moving
    assert np.count_nonzero((moved_mask > 1) != (moved.array > 60)) < 0.3 * moving


def test_the_draw_repeats_with_the_seed_and_each_number_has_its_effect():
    (image, label), deformation = ball(), Deformation(5.0, 2.0)
    labels = {"label": label.array > 0, "mask": ball_mask().array.astype("uint8")}
    first, again, other = (deformation.apply(image, labels, rng(s), {"mask"}) for s in (0, 0, 1))
    np.testing.assert_array_equal(first[0].array, again[0].array)
    for name in labels:
        np.testing.assert_array_equal(first[1][name], again[1][name])
    assert np.abs(first[0].array - other[0].array).max() > 1
    still, still_labels = Deformation().apply(image, labels, rng())
    assert still is image and still_labels["label"] is labels["label"]
    assert image.array.min() <= first[0].array.min()
    assert first[0].array.max() <= image.array.max()


def test_a_rotation_by_hand():
    # A quarter turn about z: the field maps the voxel (x, y) to (y, -x) about the middle.
    angles = SimpleNamespace(uniform=lambda *_: np.array([0, 0, 1.0]), standard_normal=np.ones)
    field = _Field.draw(Deformation(90.0), (5, 5, 3), (1.0, 1.0, 1.0), angles)
    points = field.coordinates(slice(0, 5))
    np.testing.assert_allclose(points[:, 4, 2, 1], (2, 4, 1), atol=1e-12)
    np.testing.assert_allclose(points[:, 2, 4, 2], (0, 2, 2), atol=1e-12)


def test_a_rotation_is_one_in_millimetres():
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


def test_probabilities_are_interpolated():
    image = smooth()
    label = np.rint(255 * image.array / image.array.max()).astype("uint8")
    moved, labels = Deformation(0.0, 2.0).apply(image, {"label": label}, rng())
    expected = 255 * moved.array / image.array.max()
    assert labels["label"].dtype == np.uint8 and len(np.unique(labels["label"])) > 50
    # Linear interpolation flattens the tops.
    np.testing.assert_allclose(labels["label"], expected, atol=8)


def test_training_images_are_deformed_anew_each_epoch_and_test_images_never(tmp_path):
    train, _, classes = read_cases(write_table(tmp_path, masks=True), fit_mask=True)

    def dataset(**options):
        simulation = Simulation((1, 1, 1), contrast_max=0.0, noise=0.0)
        cutting = Cutting(24, flip=False)
        return Dataset(train, simulation, cutting, 1, 0, spec=SPEC, **options)

    still, lively = dataset(), dataset(deformation=Deformation(10.0, 2.0))
    a, b, c = (next(epoch(d, n, 0)) for d, n in ((still, 1), (lively, 1), (lively, 2)))
    for channel in range(2 + classes):
        assert (a.target[..., channel] != b.target[..., channel]).any()
        assert (b.target[..., channel] != c.target[..., channel]).any()
    np.testing.assert_allclose(b.lr[..., 0], b.target[..., 0], atol=1e-6)
    (x,), (y,) = still.all_patches(), lively.all_patches()
    np.testing.assert_array_equal(x.target, y.target)
