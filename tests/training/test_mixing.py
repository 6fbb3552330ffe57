# SPDX-License-Identifier: MIT
"""Synthetic patches among the real ones: how many, which, and that they repeat."""

import math
import threading
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from training.command import make_settings
from training.heads import head, write_maps
from training.samples import epoch, same, wait_for, write_table

from segsrgan.networks import GeneratorSpec
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.degradation import Degradation
from segsrgan.training.label_maps import read_maps
from segsrgan.training.mixing import MixedDataset, mixed
from segsrgan.training.painting import prepare_labels
from segsrgan.training.patches import Cutting
from segsrgan.training.sources import Acquisition, Patch, SyntheticSource


class Numbers:
    """A source whose patches are full of one random number, from 1 to 2 or another offset on."""

    def __init__(self, offset=1.0, patch=2):
        self.offset, self.shape, self.drawn = offset, (patch,) * 3, []

    def draw(self, rng):
        self.drawn.append(rng)
        value = self.offset + rng.random()
        lr, hr, label = (np.full(self.shape, v, np.float32) for v in (value, 10 * value, 1))
        return Patch(lr, {"sr": hr, "cortex": label}, 3 * value)


def mixture(fraction=0.5, size=4, seed=0, cycles=3, sources=None, fractions=None, **options):
    """Over empty batches: what is not 0 is drawn."""
    sources, fractions = sources or [Numbers()], fractions or [fraction]
    return MixedDataset(sources, fractions, 2, size, seed, patches=cycles * size, **options)


def values(batches):
    """The numbers that patches of the batches are full of."""
    return np.array([batch.lr[:, 0, 0, 0, 0] for batch in batches])


@pytest.mark.parametrize(
    ("fractions", "counts"), [((0.5,), {2}), ((0.15,), {0, 1}), ((0.1, 0.2, 0.3), {2, 3})]
)
def test_every_source_has_its_fraction_at_positions_that_change(fractions, counts):
    sources = [Numbers(10.0 * (n + 1)) for n in range(len(fractions))]
    found = values(epoch(mixture(cycles=800, sources=sources, fractions=fractions), 1, 0)) // 10
    drawn, together = found > 0, sum(fractions)
    assert drawn.shape == (800, 4) and set(drawn.sum(axis=1).tolist()) == counts
    assert len({tuple(row) for row in drawn}) == sum(math.comb(4, count) for count in counts)
    assert np.abs(drawn.mean(axis=0) - together).max() < 0.06
    for number, fraction in enumerate((1 - together, *fractions)):
        assert abs((found == number).mean() - fraction) < 0.03


def test_a_patch_comes_with_its_image_label_and_resolution_in_mm():
    for batch in epoch(mixture(0.5, spacing=0.5), 1, 1):
        value = batch.lr[:, 0, 0, 0, 0]
        np.testing.assert_allclose(batch.target[:, 1, 1, 1, 0], 10 * value, rtol=1e-6)
        np.testing.assert_array_equal(batch.target[:, 1, 1, 1, 1], value > 0)
        np.testing.assert_allclose(batch.resolution, 1.5 * value, rtol=1e-6)


def test_no_patch_is_drawn_twice():
    data = mixture(1.0, cycles=3)
    assert (data.cycles(1), data.patches) == (3, 12)
    found = values(data.stream(range(1, 3), 2))
    assert found.shape == (2 * 3 * 3, 4)  # epochs, cycles, updates
    assert (found > 0).all() and len(np.unique(found)) == found.size


class Slow(Numbers):
    """Takes longer for some patches than for others."""

    def draw(self, rng):
        patch = super().draw(rng)
        time.sleep(0.002 * (1e4 * patch.resolution % 1))
        return patch


def test_batches_follow_from_the_seed_alone():
    def batches(epochs=range(1, 4), first_cycle=0, **options):
        return mixture(0.5, size=6, **options).stream(epochs, 1, first_cycle)

    whole = list(batches())
    assert len({batch.epsilon.tobytes() for batch in whole}) == len(whole)
    for threads in (1, 5):  # however many there are, and however fast
        assert same(whole, batches(sources=[Slow()], threads=threads))
    assert same(whole[(3 + 1) * 2 :], batches(range(2, 4), 1))  # entered anywhere
    other = values(batches(seed=1))
    assert not set(values(whole).ravel()) & set(other.ravel()) - {0.0}
    parts = [batches(shard=(index, 3)) for index in range(3)]
    for batch, *others in zip(whole, *parts, strict=True):
        for array, *pieces in zip(batch, *others, strict=True):
            np.testing.assert_array_equal(array, np.concatenate(pieces))


def test_the_real_patches_that_stay_are_those_of_a_training_without_synthetic_ones(tmp_path):
    table = read_cases(write_table(tmp_path, ("Train", "Train", "Test")))
    real = Dataset(table.train, Degradation((1, 1, 3)), Cutting(8, 4), 4, 0)
    mixed = MixedDataset([Numbers(patch=8)], [0.5], 8, 4, 0, real=real)
    assert mixed.cycles(1) == real.cycles(1) and mixed.patches == real.patches
    for batch, plain in zip(epoch(mixed, 1, 1), epoch(real, 1, 1), strict=True):
        kept = batch.target[:, 0, 0, 0, 0] < 10
        assert kept.sum() == 2
        for array, expected in zip(batch, plain, strict=True):
            np.testing.assert_array_equal(array[kept], expected[kept])
        np.testing.assert_array_equal(batch.epsilon, plain.epsilon)


def test_an_error_of_a_source_is_raised_where_the_batches_are_used():
    with pytest.raises(ZeroDivisionError):
        next(epoch(mixture(1.0, sources=[SimpleNamespace(draw=lambda rng: 1 / 0)]), 1, 0))
    assert not any(item.name.startswith("synthesis") for item in threading.enumerate())


def test_only_a_few_batches_are_drawn_ahead_and_none_after_the_end():
    source = Numbers()
    stream = epoch(mixture(1.0, cycles=1000, sources=[source], threads=4), 1, 0)
    next(stream)
    expected = (1 + 2) * 4  # one batch in use, two ahead
    wait_for(lambda: len(source.drawn) >= expected)
    time.sleep(0.05)
    assert len(source.drawn) == expected
    stream.close()
    assert len(source.drawn) == expected
    assert not any(item.name.startswith("synthesis") for item in threading.enumerate())


def test_the_memory_is_bounded_as_stated():
    label_map = prepare_labels(head(), (3,))
    source = SyntheticSource(label_map, patch=32, acquisition=Acquisition())
    source.draw(np.random.default_rng(0))  # what is loaded once
    data = MixedDataset([source], [0.5], 32, 4, 0, patches=24, threads=2)
    tracemalloc.start()
    for _ in epoch(data, 1, 0):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.memory() / 5 < peak < data.memory()


def test_patches_are_drawn_from_images_and_from_maps_by_their_fractions(tmp_path):
    cases = read_cases(write_table(tmp_path, ("Train", "Train", "Test"))).train
    rows = ("head0.nii.gz,3", "head1.nii.gz,1")
    maps = read_maps(write_maps(tmp_path, header="Label_map,Fraction", rows=rows))
    plain = {"percent_val_max": 0.0, "image_power": (1.0, 1.0), "inverted": 0.0}
    plain |= {"synthetic": "maps.csv", "image_patches": "drawn", "synthetic_thickness": (3.0, 3.0)}
    settings = make_settings(batch_size=4, **plain)
    data = mixed(settings, GeneratorSpec(), maps, cases, patches=10)
    np.testing.assert_allclose(data._odds, (0.375, 0.125, 0.5))
    assert (data.cycles(1), data.patches) == (3, 12)
    for batch in epoch(data, 1, 0):
        np.testing.assert_allclose(batch.resolution, 3.0, rtol=1e-6)
        assert (np.abs(batch.lr).max((1, 2, 3, 4)) > 0).all()  # nothing but drawn patches
    (source,) = mixed(settings, GeneratorSpec(), [], cases, patches=10)._sources
    assert len(source.images) == 2
    assert source.draw(np.random.default_rng(0)).truth["cortex"].any()
