# SPDX-License-Identifier: MIT
"""A volume that stays on the device is computed as one in main memory; forced on a processor."""

import logging

import keras
import numpy as np
import pytest

from segsrgan.inference.engines.tensorflow import TensorFlowEngine
from segsrgan.inference.sweep import default_batch_size, predict_tiled
from segsrgan.networks.spatial import PatchReassembly
from segsrgan.volumes.tiling import plan


@pytest.fixture(scope="module")
def model():
    """Return a model whose second channel is twice the distance from the patch's mean."""
    image = keras.Input((None, None, None, 1))
    mean = keras.ops.mean(image, axis=(1, 2, 3), keepdims=True)
    return keras.Model(image, keras.layers.Concatenate()([image, 2 * (image - mean)]))


def volume(shape=(17, 12, 20)):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    array[:9, :, :9] = 0.25  # a patch that is constant, and is computed once
    return array


def both(model, batch_size=3, **options):
    """The results in main memory and on the device."""
    array = volume()
    tiling = plan(array.shape, 8, 4)
    engines = (TensorFlowEngine(model, on_device=flag) for flag in (False, True))
    return [predict_tiled(engine, array, tiling, 2, batch_size, **options) for engine in engines]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
def test_results_are_the_same_wherever_the_volume_is(model, blend, batch_size):
    host, device = both(model, batch_size, blend=blend)
    assert device.shape == host.shape
    assert device.dtype == np.float32
    np.testing.assert_allclose(device, host, atol=2e-6)
    assert np.ptp(host[..., 1]) > 0.5


def test_patches_do_not_come_back_one_by_one(model, monkeypatch):
    def refuse(*arguments):
        raise AssertionError

    monkeypatch.setattr(TensorFlowEngine, "predict_batch", refuse)
    engine = TensorFlowEngine(model, on_device=True)
    array = volume()
    result = predict_tiled(engine, array, plan(array.shape, 8, 4), 2)
    np.testing.assert_allclose(result[..., 0], array, atol=2e-6)


def test_a_volume_that_does_not_fit_stays_in_main_memory(model, monkeypatch, caplog):
    import tensorflow as tf

    def fail(self, channels, dtype="float32"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    caplog.set_level(logging.INFO, "segsrgan")
    monkeypatch.setattr(PatchReassembly, "begin", fail)
    host, device = both(model)
    np.testing.assert_array_equal(device, host)
    assert "stays in main memory" in caplog.text


def test_running_out_of_the_devices_memory_halves_the_batch(model, monkeypatch, caplog):
    import tensorflow as tf

    real = TensorFlowEngine._compute

    def small(self, patches, resolution):
        if len(patches) > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return real(self, patches, resolution)

    expected, _ = both(model, 1)
    monkeypatch.setattr(TensorFlowEngine, "_compute", small)
    for result in both(model, 8):
        np.testing.assert_allclose(result, expected, atol=2e-6)
    assert "not enough memory for 8 patches at once; going on with 4" in caplog.text
    assert "not enough memory for 4 patches at once; going on with 2" in caplog.text


def test_batches_are_larger_on_a_graphics_card(model):
    sizes = [default_batch_size(64, TensorFlowEngine(model, flag)) for flag in (False, True)]
    assert sizes == [2, 32]
