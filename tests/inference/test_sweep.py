# SPDX-License-Identifier: MIT
"""Patches out and back: nothing is lost, memory is bounded, batches do not matter.

On a device as well, which a processor stands in for.
"""

import logging
import tracemalloc

import keras
import numpy as np
import pytest

from segsrgan.inference.engines.tensorflow import TensorFlowEngine
from segsrgan.inference.sweep import default_batch_size, predict_tiled
from segsrgan.networks.spatial import PatchReassembly
from segsrgan.volumes.tiling import plan


class Echo:
    """An engine that gives its input back twice, with memory for `capacity` patches at once."""

    def __init__(self, capacity=1000):
        self.capacity, self.batches = capacity, []

    def predict_batch(self, patches, resolution=None):
        self.batches.append(len(patches))
        if len(patches) > self.capacity:
            raise MemoryError
        return np.concatenate([patches, patches], axis=-1)


class Ramp:
    """An engine whose output is a voxel's index along x."""

    def predict_batch(self, patches, resolution=None):
        return np.indices((*patches.shape[:4], 2), np.float32)[1]


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
    ramp, array = Ramp(), random_volume(12, 8, 8)
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


HALF = random_volume(17, 12, 20)
HALF[:9, :, :9] = 0.25  # a patch that is constant, and is computed once


@pytest.fixture(scope="module")
def engines():
    """Return two engines, whose second channel is twice the distance from the patch's mean."""
    image = keras.Input((None, None, None, 1))
    mean = keras.ops.mean(image, axis=(1, 2, 3), keepdims=True)
    model = keras.Model(image, keras.layers.Concatenate()([image, 2 * (image - mean)]))
    return [TensorFlowEngine(model, on_device=flag) for flag in (False, True)]


def results(engines, batch_size=3, **options):
    tiling = plan(HALF.shape, 8, 4)
    return [predict_tiled(engine, HALF, tiling, 2, batch_size, **options) for engine in engines]


@pytest.mark.parametrize(("blend", "batch_size"), [("uniform", 1), ("gaussian", 4)])
def test_results_are_the_same_wherever_the_volume_is(engines, blend, batch_size):
    host, device = results(engines, batch_size, blend=blend)
    assert device.shape == host.shape
    assert device.dtype == np.float32
    np.testing.assert_allclose(device, host, atol=2e-6)
    assert np.ptp(host[..., 1]) > 0.5


def test_patches_do_not_come_back_one_by_one(engines, monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr(TensorFlowEngine, "predict_batch", refuse)
    (result,) = results(engines[1:])
    np.testing.assert_allclose(result[..., 0], HALF, atol=2e-6)


def out_of_memory(*arguments, **options):
    import tensorflow as tf

    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def test_a_volume_that_does_not_fit_stays_in_main_memory(engines, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "segsrgan")
    monkeypatch.setattr(PatchReassembly, "begin", out_of_memory)
    host, device = results(engines)
    np.testing.assert_array_equal(device, host)
    assert "stays in main memory" in caplog.text


def test_running_out_of_the_devices_memory_halves_the_batch(engines, monkeypatch, caplog):
    real = TensorFlowEngine._compute

    def compute(self, patches, resolution):
        return (out_of_memory if len(patches) > 2 else real)(self, patches, resolution)

    (expected,) = results(engines[:1], 1)
    monkeypatch.setattr(TensorFlowEngine, "_compute", compute)
    for result in results(engines, 8):
        np.testing.assert_allclose(result, expected, atol=2e-6)
    assert "not enough memory for 8 patches at once; going on with 4" in caplog.text
    assert "not enough memory for 4 patches at once; going on with 2" in caplog.text


@pytest.mark.parametrize(
    ("patch", "size"), [(None, 1), (8, 32), (32, 16), (64, 2), (128, 1), (256, 1)]
)
def test_the_default_batch_holds_a_bounded_number_of_voxels_and_more_on_a_device(
    engines, patch, size
):
    assert default_batch_size(patch) == default_batch_size(patch, engines[0]) == size
    assert default_batch_size(64, engines[1]) == 32
