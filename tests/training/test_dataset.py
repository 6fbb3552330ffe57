# SPDX-License-Identifier: MIT
"""The batches of a training: which patches they hold, and the laws of their randomness."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from training.samples import ball, ball_mask, noise, write_case, write_table

from segsrgan.errors import VolumeError
from segsrgan.networks import GeneratorSpec, outputs
from segsrgan.training import cases
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.patches import Cutting
from segsrgan.training.simulation import Simulation
from segsrgan.volumes import read_volume, resample, write_volume

PLAIN = Simulation((1, 1, 1), contrast_max=0.0, noise=0.0)  # lr = hr
MASKED = GeneratorSpec(mask_classes=3)
STILL = Cutting(8, 4, flip=False)


def dataset(folder, rows=("Train",) * 3 + ("Test",), simulation=PLAIN, cutting=STILL, **options):
    """Over the training rows of a table that is written if need be."""
    table = folder / "data.csv"
    if not table.exists():
        write_table(folder, rows, masks=True)
    table = read_cases(table, fit_mask=True, crop_to_mask=True)
    options = {"batch_size": 4, "seed": 0, **options}
    return Dataset(table.train, simulation, cutting, **options)


def by_hand(folder, index, patch, stride):
    """The patches of an image and its label, `{(x, y, z): (p, p, p, 2)}`."""
    image = read_volume(folder / f"image{index}.nii.gz").array
    label = read_volume(folder / f"label{index}.nii.gz").array
    inside = np.argwhere(image > 0)
    first, last = inside.min(axis=0), inside.max(axis=0)
    found = {}
    for x in range(first[0], last[0] - patch + 2, stride):
        for y in range(first[1], last[1] - patch + 2, stride):
            for z in range(first[2], last[2] - patch + 2, stride):
                window = np.s_[x : x + patch, y : y + patch, z : z + patch]
                found[x, y, z] = np.stack([image[window] / image.max(), label[window]], -1)
    return found


def ball_labels():
    """The label and mask of the ball, for a row that gets another image."""
    return ball()[1], ball_mask()


def keys(patches):
    return Counter(np.round(patch, 3).tobytes() for patch in patches)


def test_an_epoch_against_brute_force(tmp_path):
    data = dataset(tmp_path, images_in_memory=2)
    expected = Counter()
    for index in range(3):
        expected += keys(by_hand(tmp_path, index, 8, 4).values())
    batches = list(data.epoch(1, 0))
    assert len(batches) == data.cycles(1)
    assert data.patches == sum(expected.values()) == 3 * 8  # the box has 14^3 voxels
    found = keys(patch for batch in batches for patch in batch.target)
    assert found.keys() == expected.keys()
    filling = found - expected
    assert not expected - found  # every patch, at least once
    groups = [2 * data.patches // 3, data.patches // 3]
    assert sum(filling.values()) == sum(-n % 4 for n in groups)
    for batch in batches:
        np.testing.assert_allclose(batch.lr[..., 0], batch.target[..., 0], atol=1e-6)
        assert batch.lr.dtype == batch.target.dtype == np.float32
        assert (batch.resolution == 1).all()
        assert ((batch.epsilon >= 0) & (batch.epsilon < 1)).all()


def test_patches_are_those_of_the_degraded_image(tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((24, 24, 24))
    write_case(tmp_path, 0, image)
    simulation = Simulation((1, 1, 2), (1, 1, 4))
    data = dataset(tmp_path, simulation=simulation, cutting=Cutting(12, 12, flip=False))
    draw = simulation.draw(image, np.random.default_rng([0, 5, 1, 0]))
    (batch, again) = data.epoch(5, 0)
    found = np.concatenate([batch.lr, again.lr])[..., 0]
    corners = [(x, y, z) for x in (0, 12) for y in (0, 12) for z in (0, 12)]
    expected = [draw.lr[x : x + 12, y : y + 12, z : z + 12] for x, y, z in corners]
    assert keys(found) == keys(expected)
    assert (batch.resolution == np.float32(draw.resolution)).all() and 2 < draw.resolution < 4


def test_cropping_before_the_simulation_loses_nothing(tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((20, 20, 60))
    image.array[:4] = image.array[16:] = image.array[:, :, :24] = image.array[:, :, 44:] = 0
    write_case(tmp_path, 0, image)
    simulation = Simulation((1, 1, 3), contrast_max=0.0, noise=0.0)
    data = dataset(tmp_path, simulation=simulation, cutting=Cutting(20, flip=False))
    whole = simulation.draw(image, np.random.default_rng(0))
    batch = next(data.epoch(1, 0))
    # What is simulated begins two slices before the content, at 18, where a slice begins, too.
    np.testing.assert_allclose(batch.lr[0, ..., 0], whole.lr[:, :, 24:44], atol=2e-3)
    np.testing.assert_allclose(batch.target[0, ..., 0], whole.hr[:, :, 24:44], atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_thick_axis_comes_last_whichever_it_is(axis, tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((24, 24, 24), seed=1)
    write_case(tmp_path, 0, image, *ball_labels())
    resolution = [1.0, 1.0, 1.0]
    resolution[axis] = 4.0
    simulation = Simulation(tuple(resolution), contrast_max=0.0, noise=0.0)
    data = dataset(tmp_path, simulation=simulation, cutting=Cutting(24, flip=False), spec=MASKED)
    batch = next(data.epoch(1, 0))
    lr, target = batch.lr[0, ..., 0], batch.target[0]
    assert (batch.resolution == 4).all()
    roughness = [np.abs(np.diff(lr, axis=k)).mean() for k in range(3)]
    assert roughness[2] < 0.5 * min(roughness[:2])  # the others are as rough as white noise
    # Image, label and mask turned with it.
    turned = np.moveaxis(image.array, axis, 2) / image.array.max()
    np.testing.assert_allclose(target[..., 0] / target[..., 0].max(), turned, rtol=1e-4)
    label, mask = (read_volume(tmp_path / f"{name}0.nii.gz").array for name in ("label", "mask"))
    np.testing.assert_array_equal(target[..., 1], np.moveaxis(label, axis, 2))
    np.testing.assert_array_equal(target[..., 2:].argmax(-1), np.moveaxis(mask, axis, 2))
    np.testing.assert_array_equal(target[..., 2:].sum(-1), 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_patches_lie_where_they_should_when_the_thick_axis_moves(axis, tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((16, 24, 20))
    write_case(tmp_path, 0, image)
    resolution = [1.0, 1.0, 1.0]
    resolution[axis] = 2.0
    simulation = Simulation(tuple(resolution), contrast_max=0.0, noise=0.0)
    data = dataset(tmp_path, simulation=simulation, cutting=Cutting(8, 8, flip=False))
    found = [target[..., 0] for batch in data.all_patches() for target in batch.target]
    hr = np.moveaxis(simulation.draw(image, np.random.default_rng(0)).hr, axis, 2)
    corners = np.argwhere(np.ones([size // 8 for size in hr.shape])) * 8
    expected = [hr[x : x + 8, y : y + 8, z : z + 8] for x, y, z in corners]
    assert keys(found) == keys(expected)


def test_what_lies_beyond_a_small_image_is_zero_and_class_0(tmp_path):
    write_table(tmp_path, masks=True, shape=(12, 12, 6), radius=2.5)
    for flip in (False, True):
        data = dataset(tmp_path, cutting=Cutting(8, 4, flip=flip), spec=MASKED, batch_size=8)
        (batch,) = data.epoch(1, 0)
        for lr, target in zip(batch.lr[..., 0], batch.target, strict=True):
            empty = ~lr.any(axis=(0, 1))
            # The ball's four slices lie in the middle of six, then come two beyond the image.
            assert empty.sum() == 4
            assert empty[-3:].all() or (flip and empty[:3].all())
            assert (target[:, :, empty, :2] == 0).all()
            assert (target[:, :, empty, 2] == 1).all() and (target[:, :, empty, 3:] == 0).all()
            label = read_volume(tmp_path / "label0.nii.gz").array
            assert target[..., 1].sum() == label.sum()


def test_probabilities_of_a_label_are_kept_to_half_a_percent(tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((24, 24, 24))
    label = np.random.default_rng(0).random((24, 24, 24), dtype="float32")
    write_case(tmp_path, 0, image, image.with_array(label))
    batch = next(dataset(tmp_path, cutting=Cutting(24, flip=False)).epoch(1, 0))
    np.testing.assert_allclose(batch.target[0, ..., 1], label, atol=0.5 / 255 + 1e-6)


def equal(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x, y)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


@pytest.fixture
def lively(tmp_path):
    """With all randomness."""
    simulation = Simulation((1, 1, 2), (1, 1, 4))
    write_table(tmp_path, ("Train",) * 5 + ("Test",), masks=True)

    def make(**options):
        options = {"cutting": Cutting(8, 4), "images_in_memory": 2, "spec": MASKED, **options}
        return dataset(tmp_path, simulation=simulation, **options)

    return make


def test_an_epoch_repeats_with_the_seed_and_differs_from_the_next(lively):
    first = list(lively().epoch(1, 2))
    assert len(first) == 3 * lively().cycles(1)
    used = lively()
    next(used.epoch(7, 1))
    assert equal(first, list(used.epoch(1, 2)))  # whatever has been drawn before
    assert not equal(first[:1], list(lively().epoch(2, 2))[:1])
    assert not equal(first[:1], list(lively(seed=1).epoch(1, 2))[:1])


def test_an_epoch_can_be_entered_at_any_cycle(lively):
    data = lively()
    whole = list(data.epoch(3, 2))
    for first in range(data.cycles(3) + 2):
        assert equal(whole[3 * first :], list(data.epoch(3, 2, first_cycle=first)))


def test_the_shards_make_up_the_whole(lively):
    whole = list(lively().epoch(1, 1))
    shards = [list(lively(shard=(i, 4)).epoch(1, 1)) for i in range(4)]
    parts = [
        type(whole[0])(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for parts in zip(*shards, strict=True)
    ]
    assert equal(whole, parts)
    assert equal(list(lively().all_patches()), list(lively(shard=(1, 2)).all_patches()))


def test_the_discriminators_patches_come_from_the_images_in_memory(tmp_path):
    write_table(tmp_path, ("Train",) * 4 + ("Test",), masks=True)
    for index in range(4):  # the mean tells the image: 10 to 40 of 100
        image = noise((16, 16, 16))
        image.array[:] = 10 * (index + 1)
        image.array[0] = 0
        image.array[15, 15, 15] = 100  # in no patch, but the maximum
        write_case(tmp_path, index, image)
    data = dataset(tmp_path, cutting=Cutting(8, 3), images_in_memory=2, batch_size=6)
    seen = [{round(10 * m) for m in b.target[..., 0].mean((1, 2, 3))} for b in data.epoch(1, 3)]
    cycles = [set().union(*seen[k : k + 3]) for k in range(0, len(seen), 4)]
    half = len(cycles) // 2  # both groups have as many patches
    first, second = set().union(*cycles[:half]), set().union(*cycles[half:])
    assert len(first) == len(second) == 2 and first | second == {1, 2, 3, 4}


def test_flips_turn_input_and_target_alike_along_each_axis_half_of_the_time(tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((24, 24, 24))
    write_case(tmp_path, 0, image, *ball_labels())
    data = dataset(tmp_path, cutting=Cutting(24, 24), batch_size=120, spec=MASKED)
    (batch,) = data.epoch(1, 0)
    np.testing.assert_allclose(batch.lr[..., 0], batch.target[..., 0], atol=1e-6)
    original = next(dataset(tmp_path, cutting=Cutting(24, 24, flip=False)).epoch(1, 0))
    label, mask = (read_volume(tmp_path / f"{name}0.nii.gz").array for name in ("label", "mask"))
    found = Counter()
    for target in batch.target:
        for number in range(8):
            axes = [k for k in range(3) if number >> k & 1]
            if np.array_equal(target[..., 0], np.flip(original.target[0, ..., 0], axes)):
                found[number] += 1
                np.testing.assert_array_equal(target[..., 1], np.flip(label, axes))
                np.testing.assert_array_equal(target[..., 2:].argmax(-1), np.flip(mask, axes))
    assert sum(found.values()) == 120 and min(found[n] for n in range(8)) > 4


def test_validation_has_every_patch_once_in_order(tmp_path):
    data = dataset(tmp_path, simulation=Simulation((1, 1, 1)), cutting=Cutting(8, 4))
    batches = list(data.all_patches())
    expected = [p for index in range(3) for p in by_hand(tmp_path, index, 8, 4).values()]
    found = np.concatenate([batch.target for batch in batches])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert {len(batch.lr) for batch in batches[:-1]} <= {4}
    assert len(batches) == -(-data.patches // 4)
    assert all((batch.epsilon == 0).all() for batch in batches)
    assert equal(batches, list(data.all_patches()))


def test_resolutions_of_the_validation_are_spread_between_the_bounds(tmp_path):
    simulation = Simulation((1, 1, 2), (1, 1, 6))
    data = dataset(tmp_path, simulation=simulation, batch_size=1)
    found = [float(batch.resolution[0]) for batch in data.all_patches()]
    assert sorted(set(found)) == [2, 4, 6] and found == sorted(found)
    write_table(tmp_path, ("Train", "Test"), masks=True)
    data = dataset(tmp_path, simulation=simulation, batch_size=1)
    assert {float(batch.resolution[0]) for batch in data.all_patches()} == {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3, "shard": (0, 2)}, "3 patches cannot be divided among 2 workers"),
        ({"shard": (2, 2)}, "this is number 2"),
        ({"images_in_memory": 0}, "images_in_memory must be 1 or more"),
    ],
)
def test_bad_arguments_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, **options)


def test_a_mask_too_small_for_any_patch_is_named(tmp_path):
    cutting = Cutting(20, 4, method="overlapping_with_mask")
    with pytest.raises(
        ValueError, match=r"(?s)20\^3 voxels.*image0.*image1.*image2.*try a smaller"
    ):
        dataset(tmp_path, cutting=cutting)


def test_patches_by_overlap_lie_in_the_mask(tmp_path):
    cutting = Cutting(8, 4, method="overlapping_with_mask", flip=False)
    data = dataset(tmp_path, cutting=cutting, spec=MASKED)
    inside = [1 - batch.target[..., 2].mean((1, 2, 3)) for batch in data.all_patches()]
    assert np.concatenate(inside).min() > 0.5
    mask = read_volume(tmp_path / "mask0.nii.gz").array > 0
    corners = [(x, y, z) for x in range(0, 17, 4) for y in range(0, 17, 4) for z in range(0, 17, 4)]
    counts = [mask[x : x + 8, y : y + 8, z : z + 8].sum() for x, y, z in corners]
    assert data.patches == 3 * sum(count > 256 for count in counts)


def test_an_image_lost_in_a_later_epoch_is_named(tmp_path):
    data = dataset(tmp_path, images_in_memory=1)
    assert len(list(data.epoch(1, 0))) == data.cycles(1)
    (tmp_path / "image1.nii.gz").unlink()
    with pytest.raises(VolumeError, match=r"image1\.nii\.gz: no such file"):
        list(data.epoch(3, 0))


def test_an_image_that_cannot_be_degraded_is_named(tmp_path):
    data = dataset(tmp_path, simulation=Simulation((1, 1, 2), thickness=-1.0))
    with pytest.raises(VolumeError, match=r"image\d\.nii\.gz: cannot be made.*thickness"):
        next(data.epoch(1, 0))


class Counting(Simulation):
    """Counts the images that have been degraded."""

    drawn = 0

    def draw(self, *args):
        draw = super().draw(*args)
        Counting.drawn += 1
        return draw


def test_the_memory_is_bounded_as_stated(tmp_path):
    write_table(tmp_path, masks=True)
    write_case(tmp_path, 0, noise((32, 32, 32)))
    many = 24 * read_cases(tmp_path / "data.csv", fit_mask=True).train
    limits, peaks = [], []
    for together in (1, 8):
        cutting = Cutting(32)  # a patch is an image
        data = Dataset(
            many, Counting((1, 1, 3)), cutting, 1, 0, spec=MASKED, images_in_memory=together
        )
        Counting.drawn = 0
        tracemalloc.start()
        for number, _batch in enumerate(data.epoch(2, 0)):
            ahead = min(24, (number // together + 2) * together)
            for _ in range(10_000):
                if Counting.drawn >= ahead:
                    break
                time.sleep(0.001)
            time.sleep(0.005)  # time to prepare one more
            assert Counting.drawn == ahead  # all that may be in memory is
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        limits.append(data.memory())
    assert peaks[0] <= limits[0] and peaks[1] <= limits[1]
    voxels = 32**3 * (4 + 4 + 1 + 1)
    assert limits[1] - limits[0] == 2 * (8 - 1) * voxels
    assert peaks[1] - peaks[0] > 10 * voxels  # so the bound is none that anything would meet


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("method", ["bounding_box", "overlapping_with_mask"])
@pytest.mark.parametrize("height", [3.0, 6.0])
def test_patches_of_images_on_the_networks_grid_begin_with_a_slice(axis, method, height, tmp_path):
    write_table(tmp_path, masks=True)
    image = noise((40, 40, 40), seed=1)
    image.array[:3] = image.array[:, :, :5] = 0
    everywhere = image.with_array(np.ones_like(image.array))
    classes = everywhere.with_array(np.where(image.array > 0.9, 2, 1).astype(np.float32))
    write_case(tmp_path, 0, image, everywhere, classes)
    resolution = [1.0, 1.0, 1.0]
    resolution[axis] = height
    simulation = Simulation(tuple(resolution), contrast_max=0.0, noise=0.0, slice_voxels=4)
    spacing = simulation.network_spacing((1.0, 1.0, 1.0))
    assert spacing[axis] == height / 4
    cutting = Cutting(12, 7, method, flip=False)
    data = dataset(tmp_path, simulation=simulation, cutting=cutting)
    found = np.concatenate([batch.lr for batch in data.epoch(1, 0)])[..., 0]
    whole = simulation.draw(resample(image, spacing), np.random.default_rng(0)).lr
    rows = sliding_window_view(np.moveaxis(whole, axis, 2), (2, 2, 12))

    def nearest(row, phase):
        return np.abs(rows[:, :, phase::4] - row).max(axis=(-1, -2, -3)).min()

    # The middle of a patch is found in the whole image where a slice begins, best there.
    some = found[:: max(1, len(found) // 6), 5:7, 5:7]
    distances = np.array([[nearest(row, phase) for phase in range(4)] for row in some])
    assert distances[:, 0].max() < 0.06
    assert (distances.argmin(axis=1) == 0).all()


def test_slices_less_than_two_voxels_apart_leave_the_grid_as_it_is():
    simulation = Simulation((1.0, 1.0, 1.9), slice_voxels=4)
    assert simulation.network_spacing((1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)
    assert Simulation((1.0, 1.0, 6.0)).network_spacing((1.0, 1.0, 1.0)) == (1.0, 1.0, 1.0)


def test_the_channels_of_a_target_follow_the_list_of_heads(tmp_path, monkeypatch):
    brain = outputs.Head(
        "brain", "sigmoid", outputs.optional("brain"), "Brain", "charbonnier", "Brain", 1
    )
    heads = (outputs.HEADS[0], brain, *outputs.HEADS[1:])
    for module in (outputs, cases):
        monkeypatch.setattr(module, "HEADS", heads)
    write_table(tmp_path, masks=True)
    lines = (tmp_path / "data.csv").read_text().splitlines()
    extra = ["Brain", *(f"brain{index}.nii.gz" for index in range(len(lines) - 1))]
    lines = [f"{line},{cell}" for line, cell in zip(lines, extra, strict=True)]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    inside = ball_mask()
    inside = inside.with_array((inside.array > 0).astype("float32"))
    for index in range(2):
        write_volume(inside, tmp_path / f"brain{index}.nii.gz")
    train = read_cases(tmp_path / "data.csv", fit_mask=True, heads=("brain",)).train
    spec = GeneratorSpec(mask_classes=3, heads=("brain",))
    data = Dataset(train, PLAIN, Cutting(24, flip=False), 1, 0, spec=spec)
    target = next(data.epoch(1, 0)).target[0]
    label, mask = (read_volume(tmp_path / f"{name}0.nii.gz").array for name in ("label", "mask"))
    assert target.shape[-1] == 1 + 1 + 1 + 3
    np.testing.assert_array_equal(target[..., 1], inside.array)
    np.testing.assert_array_equal(target[..., 2], label)
    np.testing.assert_array_equal(target[..., 3:].argmax(-1), mask)
