# SPDX-License-Identifier: MIT
"""The batches of a training: which patches they hold, and the laws of their randomness."""

import contextlib
import itertools
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from training.samples import ball, ball_mask, epoch, noise, same, wait_for, write_case, write_table

from segsrgan.errors import UserError, VolumeError
from segsrgan.networks import GeneratorSpec, outputs
from segsrgan.training import cases
from segsrgan.training.cases import filled_box, read_cases
from segsrgan.training.dataset import Dataset, prefetch
from segsrgan.training.degradation import Degradation
from segsrgan.training.patches import Cutting, box_starts, cut, overlapping_starts
from segsrgan.volumes import read_volume, resample, write_volume

PLAIN = Degradation((1, 1, 1), contrast_max=0.0, noise=0.0)  # lr = hr
MASKED = GeneratorSpec(mask_classes=3)
STILL = Cutting(8, 4, flip=False)


def dataset(folder, image=None, *others, degradation=PLAIN, cutting=STILL, **options):
    """Of an image and perhaps its label and mask, or else of the rows of a table of three."""
    table = folder / "data.csv"
    if image is not None:
        write_table(folder, masks=True)
        write_case(folder, 0, image, *others)
    elif not table.exists():
        write_table(folder, ("Train",) * 3 + ("Test",), masks=True)
    table = read_cases(table, fit_mask=True, crop_to_mask=True)
    options = {"batch_size": 4, "seed": 0, **options}
    return Dataset(table.train, degradation, cutting, **options)


def by_hand(patch, stride):
    """The patches of a row's image and label, (p, p, p, 2), in order."""
    image, label = (volume.array for volume in ball())
    box = np.ix_(*(np.unique(places) for places in np.nonzero(image > 0)))
    return tiles(np.stack([image[box] / image.max(), label[box]], -1), patch, stride)


def tiles(array, size, stride):
    """The patches of an array, in order."""
    corners = stride * np.argwhere(np.ones([(n - size) // stride + 1 for n in array.shape[:3]]))
    return [array[x : x + size, y : y + size, z : z + size] for x, y, z in corners]


def truth(folder):
    """The label and the mask of the first row."""
    return (read_volume(folder / f"{name}0.nii.gz").array for name in ("label", "mask"))


def keys(patches):
    return Counter(np.round(np.float32(patch), 3).tobytes() for patch in patches)


def scanned(axis, distance, **options):
    """A degradation without augmentation whose slices lie across an axis."""
    resolution = tuple(distance if k == axis else 1.0 for k in range(3))
    return Degradation(resolution, contrast_max=0.0, noise=0.0, **options)


def test_patches_tile_the_bounding_box_with_the_stride():
    array = np.zeros((20, 12, 9))
    array[2:18, 1:11, 4:6] = 1  # 16, 10, 2 voxels
    # x: 2, 6, 10 (10 + 8 = 18); y: 1 (5 + 8 would end at 13 > 11); z: one, inside the image
    starts = box_starts(filled_box(array > 0), array.shape, 8, 4)
    assert sorted(starts.tolist()) == [[2, 1, 1], [6, 1, 1], [10, 1, 1]]


@pytest.mark.parametrize(("patch", "stride"), [(4, 1), (4, 3), (5, 2), (9, 4)])
def test_patches_by_overlap_against_brute_force(patch, stride):
    mask = np.random.default_rng(0).random((13, 11, 8)) < np.linspace(0.2, 0.9, 8)
    mask[:4, :4, :4] = np.arange(4) < 2  # of a patch of 4^3 voxels half: not enough
    places = np.argwhere(np.ones([max(n - patch, 0) // stride + 1 for n in mask.shape])) * stride
    expected = [
        [x, y, z]
        for x, y, z in places.tolist()
        if mask[x : x + patch, y : y + patch, z : z + patch].sum() > patch**3 / 2
    ]
    assert expected
    assert sorted(overlapping_starts(mask, patch, stride).tolist()) == expected


def test_a_patch_beyond_the_end_is_filled_with_zeros_before_it_is_flipped():
    array = np.arange(1, 9).reshape(2, 2, 2)
    out = np.full((3, 3, 3), -1)
    cut(array, (1, 0, 0), (True, False, True), out)
    expected = np.zeros((3, 3, 3))
    expected[2, :2, 1:] = [[6, 5], [8, 7]]
    np.testing.assert_array_equal(out, expected)


def test_an_epoch_against_brute_force(tmp_path):
    data = dataset(tmp_path, images_in_memory=2)
    expected = keys(3 * by_hand(8, 4))
    batches = list(epoch(data, 1, 0))
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
    image, degradation = noise((24, 24, 24)), Degradation((1, 1, 2), (1, 1, 4))
    data = dataset(tmp_path, image, degradation=degradation, cutting=Cutting(12, 12, flip=False))
    draw = degradation.draw(image, np.random.default_rng([0, 5, 1, 0]))
    (batch, again) = epoch(data, 5, 0)
    found = np.concatenate([batch.lr, again.lr])[..., 0]
    assert keys(found) == keys(tiles(draw.lr, 12, 12))
    assert (batch.resolution == np.float32(draw.resolution)).all() and 2 < draw.resolution < 4


def test_cropping_before_the_degradation_loses_nothing(tmp_path):
    image, degradation = noise((20, 20, 60)), scanned(2, 3.0)
    image.array[:4] = image.array[16:] = image.array[:, :, :24] = image.array[:, :, 44:] = 0
    data = dataset(tmp_path, image, degradation=degradation, cutting=Cutting(20, flip=False))
    whole = degradation.draw(image, np.random.default_rng(0))
    batch = next(epoch(data, 1, 0))
    # What is simulated begins two slices before the content, at 18, where a slice begins, too.
    np.testing.assert_allclose(batch.lr[0, ..., 0], whole.lr[:, :, 24:44], atol=2e-3)
    np.testing.assert_allclose(batch.target[0, ..., 0], whole.hr[:, :, 24:44], atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_thick_axis_comes_last_whichever_it_is(axis, tmp_path):
    image, degradation = noise((16, 24, 20)), scanned(axis, 4.0)
    cutting = Cutting(8, 8, flip=False)
    data = dataset(tmp_path, image, degradation=degradation, cutting=cutting, spec=MASKED)
    batches = list(data.all_patches())
    draw, (label, mask) = degradation.draw(image, np.random.default_rng(0)), truth(tmp_path)
    # Image, label and mask turn with it, and so do the places of the patches.
    expected = np.stack([draw.lr, draw.hr, label, *(mask == n for n in range(3))], -1)
    found = [np.concatenate([b.lr, b.target], -1) for b in batches]
    assert keys(np.concatenate(found)) == keys(tiles(np.moveaxis(expected, axis, 2), 8, 8))
    assert all((batch.resolution == 4).all() for batch in batches)


def test_what_lies_beyond_a_small_image_is_zero_and_class_0(tmp_path):
    write_table(tmp_path, masks=True, shape=(12, 12, 6), radius=2.5)
    for flip in (False, True):
        data = dataset(tmp_path, cutting=Cutting(8, 4, flip=flip), spec=MASKED, batch_size=8)
        (batch,) = epoch(data, 1, 0)
        for lr, target in zip(batch.lr[..., 0], batch.target, strict=True):
            empty = ~lr.any(axis=(0, 1))
            # The ball's four slices lie in the middle of six, then come two beyond the image.
            assert empty.sum() == 4
            assert empty[-3:].all() or (flip and empty[:3].all())
            assert (target[:, :, empty, :2] == 0).all()
            assert (target[:, :, empty, 2] == 1).all() and (target[:, :, empty, 3:] == 0).all()
            assert target[..., 1].sum() == next(truth(tmp_path)).sum()


def test_probabilities_of_a_label_are_kept_to_half_a_percent(tmp_path):
    image = noise((24, 24, 24))
    values = np.linspace(-5e-4, 1 + 5e-4, 24**3, dtype="float32").reshape(24, 24, 24)
    data = dataset(tmp_path, image, image.with_array(values), cutting=Cutting(24, flip=False))
    target = next(epoch(data, 1, 0)).target[0, ..., 1]
    np.testing.assert_allclose(target, np.clip(values, 0, 1), atol=0.5 / 255 + 1e-6)
    kept = read_cases(tmp_path / "data.csv").train[0].load_label("Label_image")
    assert kept.dtype == np.float32 and kept.min() == 0 and kept.max() == 1
    np.testing.assert_allclose(kept, values, atol=6e-4)


def test_batches_follow_from_the_seed_and_the_epoch_alone(tmp_path):
    write_table(tmp_path, ("Train",) * 5 + ("Test",), masks=True)

    def lively(**options):  # with all randomness
        options = {"degradation": Degradation((1, 1, 2), (1, 1, 4)), "spec": MASKED, **options}
        return dataset(tmp_path, cutting=Cutting(8, 4), images_in_memory=2, **options)

    data = lively()
    whole = list(epoch(data, 3, 2))
    assert len(whole) == 3 * data.cycles(3)
    next(epoch(data, 7, 1))
    for first in range(data.cycles(3) + 2):  # entered at any cycle, whatever was drawn before
        assert same(whole[3 * first :], epoch(data, 3, 2, first))
    for other in (epoch(data, 2, 2), epoch(lively(seed=1), 3, 2)):
        assert not same(whole[:1], [next(other)])
    shards = [epoch(lively(shard=(i, 4)), 3, 2) for i in range(4)]
    for batch, *parts in zip(whole, *shards, strict=True):
        for array, *pieces in zip(batch, *parts, strict=True):
            np.testing.assert_array_equal(array, np.concatenate(pieces))
    assert same(data.all_patches(), lively(shard=(1, 2)).all_patches())


def test_the_discriminators_patches_come_from_the_images_in_memory(tmp_path):
    write_table(tmp_path, ("Train",) * 4 + ("Test",), masks=True)
    for index in range(4):  # the mean tells the image: 10 to 40 of 100
        image = noise((16, 16, 16))
        image.array[:] = 10 * (index + 1)
        image.array[0] = 0
        image.array[15, 15, 15] = 100  # in no patch, but the maximum
        write_case(tmp_path, index, image)
    data = dataset(tmp_path, cutting=Cutting(8, 3), images_in_memory=2, batch_size=6)
    seen = [{round(10 * m) for m in b.target[..., 0].mean((1, 2, 3))} for b in epoch(data, 1, 3)]
    cycles = [set().union(*seen[k : k + 3]) for k in range(0, len(seen), 4)]
    half = len(cycles) // 2  # both groups have as many patches
    first, second = set().union(*cycles[:half]), set().union(*cycles[half:])
    assert len(first) == len(second) == 2 and first | second == {1, 2, 3, 4}


def test_flips_turn_input_and_target_alike_along_each_axis_half_of_the_time(tmp_path):
    image, label, mask = noise((24, 24, 24)), ball()[1], ball_mask()
    data = dataset(tmp_path, image, label, mask, cutting=Cutting(24), batch_size=120, spec=MASKED)
    (batch,) = epoch(data, 1, 0)
    np.testing.assert_allclose(batch.lr[..., 0], batch.target[..., 0], atol=1e-6)
    original, found = image.array / image.array.max(), Counter()
    for target in batch.target:
        for number in range(8):
            axes = [k for k in range(3) if number >> k & 1]
            if np.allclose(target[..., 0], np.flip(original, axes)):
                found[number] += 1
                np.testing.assert_array_equal(target[..., 1], np.flip(label.array, axes))
                classes = target[..., 2:].argmax(-1)
                np.testing.assert_array_equal(classes, np.flip(mask.array, axes))
    assert sum(found.values()) == 120 and min(found[n] for n in range(8)) > 4


def test_validation_has_every_patch_once_in_order_with_resolutions_between_the_bounds(tmp_path):
    data = dataset(tmp_path, degradation=Degradation((1, 1, 1)))
    batches = list(data.all_patches())
    found = np.concatenate([batch.target for batch in batches])
    np.testing.assert_allclose(found, 3 * by_hand(8, 4), atol=1e-6)
    assert {len(batch.lr) for batch in batches[:-1]} <= {4}
    assert len(batches) == -(-data.patches // 4)
    assert all((batch.epsilon == 0).all() for batch in batches)
    assert same(batches, data.all_patches())
    degradation = Degradation((1, 1, 2), (1, 1, 6))
    for image, expected in ((None, [2, 4, 6]), (noise((8, 8, 8)), [4])):
        data = dataset(tmp_path, image, degradation=degradation, batch_size=1)
        found = [float(batch.resolution[0]) for batch in data.all_patches()]
        assert sorted(set(found)) == expected and found == sorted(found)


def test_patches_by_overlap_lie_in_the_mask(tmp_path):
    cutting = Cutting(8, 4, method="overlapping_with_mask", flip=False)
    data = dataset(tmp_path, cutting=cutting, spec=MASKED)
    inside = [1 - batch.target[..., 2].mean((1, 2, 3)) for batch in data.all_patches()]
    assert np.concatenate(inside).min() > 0.5
    _, mask = truth(tmp_path)
    assert data.patches == 3 * sum(patch.sum() > 256 for patch in tiles(mask > 0, 8, 4))
    with pytest.raises(UserError, match=r"20\^3 voxels.*image0.*image1.*image2.*try a smaller"):
        dataset(tmp_path, cutting=replace(cutting, patch=20))


def test_an_image_that_is_lost_later_or_cannot_be_degraded_is_named(tmp_path):
    data = dataset(tmp_path, images_in_memory=1)
    assert len(list(epoch(data, 1, 0))) == data.cycles(1)
    (tmp_path / "image1.nii.gz").unlink()
    with pytest.raises(VolumeError, match=r"image1\.nii\.gz: no such file"):
        list(epoch(data, 3, 0))
    (tmp_path / "data.csv").unlink()
    data = dataset(tmp_path, degradation=Degradation((1, 1, 2), thickness=-1.0))
    with pytest.raises(VolumeError, match=r"image\d\.nii\.gz: cannot be made.*thickness"):
        next(epoch(data, 1, 0))


class Counting(Degradation):
    """Counts the images that have been degraded."""

    drawn = 0

    def draw(self, *args):
        draw = super().draw(*args)
        self.drawn += 1
        return draw


def test_the_memory_is_bounded_as_stated(tmp_path):
    write_table(tmp_path, masks=True)
    write_case(tmp_path, 0, noise((32, 32, 32)))
    many = 24 * read_cases(tmp_path / "data.csv", fit_mask=True).train
    limits, peaks, degradation = [], [], Counting((1, 1, 3))
    options = {"batch_size": 1, "seed": 0, "spec": MASKED}
    for together in (1, 8):  # a patch is an image
        data = Dataset(many, degradation, Cutting(32), images_in_memory=together, **options)
        degradation.drawn = 0
        tracemalloc.start()
        for number, _batch in enumerate(epoch(data, 2, 0)):
            ahead = min(24, (number // together + 2) * together)
            wait_for(lambda: degradation.drawn >= ahead)  # noqa: B023 - used at once
            time.sleep(0.005)  # time to prepare one more
            assert degradation.drawn == ahead  # all that may be in memory is
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
    image = noise((40, 40, 40), seed=1)
    image.array[:3] = image.array[:, :, :5] = 0
    everywhere = image.with_array(np.ones_like(image.array))
    classes = everywhere.with_array(np.where(image.array > 0.9, 2, 1).astype(np.float32))
    degradation = scanned(axis, height, slice_voxels=4)
    spacing = degradation.network_spacing((1.0, 1.0, 1.0))
    assert spacing[axis] == height / 4
    cutting = Cutting(12, 7, method, flip=False)
    data = dataset(tmp_path, image, everywhere, classes, degradation=degradation, cutting=cutting)
    found = np.concatenate([batch.lr for batch in epoch(data, 1, 0)])[..., 0]
    whole = degradation.draw(resample(image, spacing), np.random.default_rng(0)).lr
    rows = sliding_window_view(np.moveaxis(whole, axis, 2), (2, 2, 12))

    def nearest(row, phase):
        return np.abs(rows[:, :, phase::4] - row).max(axis=(-1, -2, -3)).min()

    # The middle of a patch is found in the whole image where a slice begins, best there.
    some = found[:: max(1, len(found) // 6), 5:7, 5:7]
    distances = np.array([[nearest(row, phase) for phase in range(4)] for row in some])
    assert distances[:, 0].max() < 0.06
    assert (distances.argmin(axis=1) == 0).all()


def test_the_channels_of_a_target_follow_the_list_of_heads(tmp_path, monkeypatch):
    brain = outputs.Head(
        "brain", "sigmoid", outputs.optional("brain"), "Brain", "charbonnier", "Brain", 1
    )
    heads = (outputs.HEADS[0], brain, *outputs.HEADS[1:])
    for module in (outputs, cases):
        monkeypatch.setattr(module, "HEADS", heads)
    write_table(tmp_path, masks=True)
    table = tmp_path / "data.csv"
    first, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{first},Brain", *(f"{row},brain.nii.gz" for row in rows)]))
    inside = ball_mask()
    inside = inside.with_array((inside.array > 0).astype("float32"))
    write_volume(inside, tmp_path / "brain.nii.gz")
    train = read_cases(table, fit_mask=True, heads=("brain",)).train
    spec = GeneratorSpec(mask_classes=3, heads=("brain",))
    data = Dataset(train, PLAIN, Cutting(24, flip=False), 1, 0, spec=spec)
    target = next(epoch(data, 1, 0)).target[0]
    label, mask = truth(tmp_path)
    assert target.shape[-1] == 1 + 1 + 1 + 3
    np.testing.assert_array_equal(target[..., 1], inside.array)
    np.testing.assert_array_equal(target[..., 2], label)
    np.testing.assert_array_equal(target[..., 3:].argmax(-1), mask)


def test_what_is_made_ahead_keeps_its_order_and_its_bound_until_an_error():
    made = []

    def make():
        for number in range(9):
            made.append(number)
            yield number
        raise OSError("unreadable")

    items = prefetch(make(), depth=2)
    for number in range(9):
        assert next(items) == number
        ahead = min(number + 3, 9)  # this one and two ahead
        assert wait_for(lambda: len(made) >= ahead)  # noqa: B023 - used at once
        time.sleep(0.02)
        assert len(made) == ahead
    with pytest.raises(OSError, match="unreadable"):
        next(items)
    assert list(prefetch(range(20), depth=3)) == list(range(20)) and not list(prefetch([]))


def test_the_thread_ends_and_closes_its_source_when_the_consumer_stops():
    closed = threading.Event()

    def endless():
        with contextlib.ExitStack() as stack:
            stack.callback(closed.set)
            yield from itertools.count()

    before = set(threading.enumerate())
    items = prefetch(endless())
    next(items)
    items.close()
    assert closed.wait(5)
    assert wait_for(lambda: set(threading.enumerate()) <= before)
