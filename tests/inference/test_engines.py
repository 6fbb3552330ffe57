# SPDX-License-Identifier: MIT
"""Engines compute what the Keras model computes."""

import keras
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance

from segsrgan.errors import UserError
from segsrgan.inference.engines import NAMES, make_engine, prepare_engine
from segsrgan.inference.engines.tensorflow_engine import TensorFlowEngine
from segsrgan.networks import load_generator


def patches(count=3, shape=(8, 12, 16)):
    return np.random.default_rng(1).random((count, *shape, 1), dtype=np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_agrees_with_the_model(tiny, name):
    if name == "openvino":
        pytest.importorskip("openvino")
    model = load_generator(tiny)
    engine = make_engine(name, model)
    for shape in ((8, 12, 16), (16, 16, 16)):
        batch = patches(3, shape)
        result = engine.predict_batch(batch, None)
        assert result.dtype == np.float32
        expected, atol = truth_and_tolerance(model, batch)
        np.testing.assert_allclose(result, expected, atol=atol)


def test_a_batch_equals_its_patches_one_by_one(tiny):
    model = load_generator(tiny)
    engine = make_engine("auto", model)
    batch = patches(4)
    single = np.concatenate([engine.predict_batch(patch[None], None) for patch in batch])
    _, atol = truth_and_tolerance(model, batch)
    np.testing.assert_allclose(engine.predict_batch(batch, None), single, atol=2 * atol)


def test_a_conditional_generator_is_computed_without_its_map(weights):
    # Instance normalisation takes away what a constant map adds, see `simplified`.
    model = load_generator(weights("conditional", conditional=True))
    engine = make_engine("auto", model)
    batch = patches()
    for resolution in (2.0, 3.3):
        full = np.full(batch.shape, resolution, np.float32)
        expected, atol = truth_and_tolerance(model, [batch, full])
        np.testing.assert_allclose(engine.predict_batch(batch, resolution), expected, atol=atol)


def test_another_model_of_two_inputs_sees_the_resolution():
    image, resolution = (keras.Input((None, None, None, 1)) for _ in range(2))
    both = keras.layers.Concatenate()([image, resolution])
    engine = make_engine("auto", keras.Model([image, resolution], both))
    result = engine.predict_batch(patches(), 2.5)
    np.testing.assert_array_equal(result[..., 1], 2.5)
    with pytest.raises(UserError, match="resolution"):
        engine.predict_batch(patches(), None)


def test_the_weights_are_constants_of_the_graph(tiny):
    model = load_generator(tiny)
    engine = TensorFlowEngine(model)
    engine.predict_batch(patches(), None)
    (function,) = engine._functions.values()
    assert function.get_concrete_function().captured_inputs == []


def test_a_patch_size_is_traced_once_and_few_are_kept(echo):
    engine = TensorFlowEngine(echo)
    for size in (8, 12, 16, 20, 24, 28):
        for count in (1, 2, 3):
            engine.predict_batch(patches(count, (size,) * 3), None)
    assert len(engine._functions) == 4
    assert all(f.experimental_get_tracing_count() == 1 for f in engine._functions.values())


def test_unknown_engines_are_refused(echo):
    for call in (lambda: make_engine("steam", echo), lambda: prepare_engine("steam")):
        with pytest.raises(UserError, match="auto, openvino, tensorflow, received 'steam'"):
            call()


def test_threads_asked_for_too_late_are_reported(echo, caplog):
    TensorFlowEngine(echo).predict_batch(patches(), None)
    prepare_engine("tensorflow", 37)
    assert "ask for 37 before" in caplog.text


def test_another_backend_is_refused(echo, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND"):
        make_engine("tensorflow", echo)
