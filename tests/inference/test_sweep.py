# SPDX-License-Identifier: MIT
"""Patches out and back: nothing is lost, memory is bounded, batches do not matter."""

import logging
import tracemalloc

import numpy as np
import pytest

from segsrgan.inference.sweep import default_batch_size, predict_tiled
from segsrgan.volumes.tiling import plan


class Echo:
    """An engine that gives its input back on two channels and remembers the batches.

    `capacity` is the number of patches that it has memory for.
    """

    def __init__(self, capacity=1000):
        self.capacity, self.batches = capacity, []

    def predict_batch(self, patches, resolution=None):
        self.batches.append(len(patches))
        if len(patches) > self.capacity:
            raise MemoryError
        return np.concatenate([patches, patches], axis=-1)


class Fixed:
    """An engine whose output is a function of the resolution."""

    def __init__(self, output):
        self.output = output

    def predict_batch(self, patches, resolution=None):
        output = np.asarray(self.output(resolution), np.float32)
        return np.broadcast_to(output, (*patches.shape[:4], 2))


def random_volume(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


VOLUME = random_volume(20, 20, 20)
TILING = plan(VOLUME.shape, 8, 6)  # 27 patches


@pytest.mark.parametrize("geometry", ["exact", "legacy"])
@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "patch", "step"),
    [
        ((20, 24, 28), 8, 4),
        ((17, 23, 9), 8, 3),
        ((16, 16, 16), 16, 16),
        ((5, 30, 1), 8, 5),
        ((13, 11, 10), 12, 1),
        ((17, 23, 9), None, None),
    ],
)
def test_an_identity_network_gives_the_image_back(shape, patch, step, blend, geometry):
    array = random_volume(*shape)
    tiling = plan(shape, patch, step, geometry=geometry)
    result = predict_tiled(Echo(), array, tiling, 2, batch_size=3, blend=blend)
    assert result.shape == (*shape, 2)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.stack([array, array], axis=-1), atol=2e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_batches_are_bounded_and_do_not_change_the_result(batch_size):
    engine = Echo()
    result = predict_tiled(engine, VOLUME, TILING, 2, batch_size=batch_size)
    assert max(engine.batches) == min(batch_size, 27)
    assert sum(engine.batches) == 27
    np.testing.assert_array_equal(result, predict_tiled(Echo(), VOLUME, TILING, 2, batch_size=4))


@pytest.mark.parametrize(
    ("capacity", "batch_size", "tried"),
    [(2, 8, [8, 4, 2]), (3, 5, [5, 3]), (1, 4, [4, 2, 1]), (1, 5, [5, 3, 2, 1])],
)
def test_a_batch_too_large_for_the_memory_is_halved(caplog, capacity, batch_size, tried):
    caplog.set_level(logging.WARNING, "segsrgan")
    engine = Echo(capacity)
    result = predict_tiled(engine, VOLUME, TILING, 2, batch_size=batch_size)
    np.testing.assert_array_equal(result, predict_tiled(Echo(), VOLUME, TILING, 2))
    refused = [count for count in engine.batches if count > capacity]
    # The smaller size is kept for the batches that follow.
    assert refused == [count for count in tried if count > capacity]
    assert sum(engine.batches) - sum(refused) == 27
    sizes = zip(tried[:-1], tried[1:], strict=True)
    assert [record.args for record in caplog.records] == list(sizes)


def test_not_even_one_patch_fits():
    with pytest.raises(MemoryError):
        predict_tiled(Echo(0), VOLUME, TILING, 2, batch_size=2)


def test_a_gaussian_blend_prefers_the_middle_of_a_patch():
    ramp, array = Fixed(lambda _: np.arange(8).reshape(8, 1, 1, 1)), random_volume(12, 8, 8)
    uniform, gaussian = (
        predict_tiled(ramp, array, plan(array.shape, 8, 4), 2, blend=blend)[:, 0, 0, 0]
        for blend in ("uniform", "gaussian")
    )
    np.testing.assert_allclose(uniform, [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7])
    # At voxel 5 the first patch says 5 from near its middle, the second 1 from its edge.
    assert 3 < gaussian[4] < 4
    assert 2 < gaussian[7] < 4 < gaussian[5] + 1
    np.testing.assert_allclose(gaussian[[0, 3, 8, 11]], [0, 3, 4, 7], atol=1e-5)


def structure():
    array = np.zeros((64, 8, 8), np.float32)
    array[32:48] = 0.25
    array[60:] = random_volume(4, 8, 8)
    return array


def almost_constant():
    array = np.zeros((32, 8, 8), np.float32)
    array[3, 3, 3] = array[31, 7, 7] = 1
    return array


def many_constants():
    return np.repeat(np.arange(40, dtype=np.float32), 8)[:, None, None] * np.ones((8, 8), "f")


# Computed are 0, 0.25 and the one with structure; the two with one voxel and 0; all of them.
@pytest.mark.parametrize(
    ("make", "computed"), [(structure, 3), (almost_constant, 3), (many_constants, 40)]
)
def test_constant_patches_of_one_value_are_computed_once(make, computed):
    array, engine = make(), Echo()
    result = predict_tiled(engine, array, plan(array.shape, 8, 8), 2)
    np.testing.assert_array_equal(result[..., 1], array)
    assert len(engine.batches) == computed


def test_progress_counts_every_patch():
    calls = []
    predict_tiled(Echo(), VOLUME, TILING, 2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 27) for done in range(28)]


def test_the_resolution_reaches_the_engine():
    result = predict_tiled(Fixed(lambda resolution: resolution), VOLUME, TILING, 2, resolution=3.5)
    assert np.unique(result) == [3.5]


def test_memory_does_not_grow_with_the_number_of_patches():
    array = random_volume(96, 96, 96)

    def peak(step):
        tiling = plan(array.shape, 64, step)
        tracemalloc.start()
        predict_tiled(Echo(), array, tiling, 2, batch_size=2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return len(tiling.starts), peak

    (few, small), (many, large) = peak(64), peak(8)
    assert (few, many) == (8, 125)
    assert large < 1.02 * small
    accumulator, batch = 96**3 * 2 * 4, 2 * 64**3 * 4
    assert large < 1.1 * accumulator + 5 * batch


@pytest.mark.parametrize(
    ("patch", "size"), [(None, 1), (8, 32), (32, 16), (64, 2), (128, 1), (256, 1)]
)
def test_the_default_batch_holds_a_bounded_number_of_voxels(patch, size):
    assert default_batch_size(patch) == size
