# SPDX-License-Identifier: MIT
"""Which engine is taken, and that each computes what the Keras model computes."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import keras
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance

from segsrgan.config import ENGINES
from segsrgan.errors import UserError
from segsrgan.inference import engines
from segsrgan.inference.engines import choose, graphics_card, make_engine, tensorflow
from segsrgan.inference.engines.tensorflow import TensorFlowEngine
from segsrgan.networks import load_generator, read_generator

HIDING = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)


def patches(count=3, shape=(8, 12, 16)):
    return np.random.default_rng(1).random((count, *shape, 1), dtype=np.float32)


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends what this machine has."""

    def pretend(graphics_card, openvino=True):
        monkeypatch.setattr(engines, "graphics_card", lambda: graphics_card)
        found = {"tensorflow": "a spec", "openvino": "a spec" if openvino else None}
        monkeypatch.setattr(engines, "find_spec", found.get)

    return pretend


@pytest.mark.parametrize("graphics_card", [True, False])
@pytest.mark.parametrize("openvino", [True, False])
def test_a_graphics_card_takes_tensorflow_else_openvino(machine, graphics_card, openvino):
    machine(graphics_card, openvino)
    expected = "openvino" if openvino and not graphics_card else "tensorflow"
    assert choose() == choose("auto", "float32") == expected
    # An engine named is taken, and half precision is OpenVINO's.
    assert [choose(name) for name in ENGINES] == list(ENGINES)
    assert choose("auto", "float16") == "openvino"
    with pytest.raises(UserError, match="auto, openvino, tensorflow, received 'steam'"):
        choose("steam")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a function that makes a folder like `/`, with these files, and returns it."""
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)

    def make(*names, text=""):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize("name", ["proc/driver/nvidia/gpus/0000:01:00.0", "dev/nvidia0"])
def test_a_card_of_nvidia_is_seen_unless_it_is_hidden(root, monkeypatch, name):
    assert not graphics_card(root("proc/driver/nvidia/version", "dev/nvidiactl"))
    folder = root(name)
    assert graphics_card(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert graphics_card(folder)
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert not graphics_card(folder)


@pytest.mark.parametrize(("units", "expected"), [("256", True), ("0", False), ("many", False)])
def test_amd_lists_processors_too(root, monkeypatch, units, expected):
    name = "sys/class/kfd/kfd/topology/nodes/0/properties"
    folder = root(name, text=f"cpu_cores_count 8\nsimd_count {units}\n")
    assert graphics_card(folder) is expected
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "-1")
    assert not graphics_card(folder)


@pytest.mark.parametrize("read", [read_generator, load_generator])
def test_the_log_names_engine_and_precision_once(tiny, caplog, machine, read):
    machine(graphics_card=True)
    caplog.set_level(logging.INFO, "segsrgan")
    engine = make_engine(read(tiny))
    assert (engine.name, engine.precision) == ("tensorflow", "float32")
    assert caplog.messages == ["engine: tensorflow float32"]


def test_what_cannot_run_here_is_refused_with_the_reason(tiny, machine):
    generator = read_generator(tiny)
    with pytest.raises(UserError, match="tensorflow computes float32.*received precision float16"):
        make_engine(generator, "tensorflow", "float16")
    machine(graphics_card=False, openvino=False)
    for name, precision in (("openvino", "float32"), ("auto", "float16")):
        with pytest.raises(UserError, match="openvino is not installed; pip install openvino"):
            make_engine(generator, name, precision)


def test_a_model_of_another_kind_goes_to_tensorflow(echo):
    assert make_engine(echo).name == "tensorflow"
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match="take engine tensorflow"):
        make_engine(echo, "openvino")


def engine_and_model(weights, name, **spec):
    pytest.importorskip(name)
    path = weights(f"engine{len(spec)}", **spec)
    return make_engine(read_generator(path), name), load_generator(path)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_agrees_with_the_model_in_batches_and_one_by_one(weights, name):
    engine, model = engine_and_model(weights, name)
    for shape in ((8, 12, 16), (16, 16, 16)):
        batch = patches(3, shape)
        expected, atol = truth_and_tolerance(model, batch)
        result = engine.predict_batch(batch, None)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=atol)
        single = np.concatenate([engine.predict_batch(patch[None], None) for patch in batch])
        np.testing.assert_allclose(result, single, atol=2 * atol)


@pytest.mark.parametrize("name", ENGINES)
def test_a_conditional_generator_is_computed_without_its_map(weights, name):
    # Instance normalisation takes away what a constant map adds, see `simplified_arrays`.
    engine, model = engine_and_model(weights, name, conditional=True)
    batch = patches()
    for resolution in (2.0, 3.3):
        full = np.full(batch.shape, resolution, np.float32)
        expected, atol = truth_and_tolerance(model, [batch, full])
        np.testing.assert_allclose(engine.predict_batch(batch, resolution), expected, atol=atol)


def test_another_model_of_two_inputs_sees_the_resolution():
    image, resolution = (keras.Input((None, None, None, 1)) for _ in range(2))
    both = keras.layers.Concatenate()([image, resolution])
    engine = make_engine(keras.Model([image, resolution], both))
    result = engine.predict_batch(patches(), 2.5)
    np.testing.assert_array_equal(result[..., 1], 2.5)
    with pytest.raises(UserError, match="resolution"):
        engine.predict_batch(patches(), None)


def test_the_weights_are_constants_of_the_graph(tiny):
    engine = TensorFlowEngine(load_generator(tiny))
    function = engine._trace((8, 12, 16, 1))
    assert function.get_concrete_function().captured_inputs == []


def test_a_patch_size_is_traced_once_and_few_are_kept(echo):
    engine = TensorFlowEngine(echo)
    for size in (8, 12, 16, 20, 24, 28):
        for count in (1, 2, 3):
            engine.predict_batch(patches(count, (size,) * 3), None)
        assert engine._trace((size,) * 3 + (1,)).experimental_get_tracing_count() == 1
    assert engine._trace.cache_info().currsize == 4


def test_threads_that_meet_at_a_new_patch_size_trace_it_once(echo, monkeypatch):
    traced, real = [], tensorflow._trace
    barrier, batch = Barrier(4), patches(1, (8, 8, 8))

    def trace(model, shape):
        traced.append(shape)
        return real(model, shape)

    def compute(_):
        barrier.wait()
        engine.predict_batch(batch, None)

    monkeypatch.setattr(tensorflow, "_trace", trace)
    engine = TensorFlowEngine(echo)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(compute, range(4)))
    assert traced == [(8, 8, 8, 1)]


def test_threads_asked_for_too_late_are_reported(tiny, echo, caplog):
    TensorFlowEngine(echo).predict_batch(patches(), None)
    make_engine(read_generator(tiny), "tensorflow", threads=37)
    assert "ask for 37 before" in caplog.text


def test_a_card_that_tensorflow_cannot_use_is_named(echo, monkeypatch, caplog):
    monkeypatch.setattr("segsrgan.inference.engines.tensorflow.graphics_card", lambda: True)
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    TensorFlowEngine(echo)
    assert "pip install 'tensorflow[and-cuda]', or take engine openvino" in caplog.text


def test_another_backend_is_refused(echo, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND"):
        make_engine(echo, "tensorflow")
