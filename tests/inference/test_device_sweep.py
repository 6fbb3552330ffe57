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

VOLUME = np.random.default_rng(0).random((17, 12, 20), dtype=np.float32)
VOLUME[:9, :, :9] = 0.25  # a patch that is constant, and is computed once


@pytest.fixture(scope="module")
def engines():
    """Return two engines, whose second channel is twice the distance from the patch's mean."""
    image = keras.Input((None, None, None, 1))
    mean = keras.ops.mean(image, axis=(1, 2, 3), keepdims=True)
    model = keras.Model(image, keras.layers.Concatenate()([image, 2 * (image - mean)]))
    return [TensorFlowEngine(model, on_device=flag) for flag in (False, True)]


def results(engines, batch_size=3, **options):
    tiling = plan(VOLUME.shape, 8, 4)
    return [predict_tiled(engine, VOLUME, tiling, 2, batch_size, **options) for engine in engines]


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
    np.testing.assert_allclose(result[..., 0], VOLUME, atol=2e-6)


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


def test_batches_are_larger_on_a_graphics_card(engines):
    assert [default_batch_size(64, engine) for engine in engines] == [2, 32]
