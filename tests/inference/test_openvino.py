# SPDX-License-Identifier: MIT
"""OpenVINO computes every variant as the plain network does, in whatever shape."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance
from networks.variants import ALL_VARIANTS, name_of, randomise, simplified

from segsrgan.networks import GeneratorSpec, build_generator
from segsrgan.networks.layers import InstanceNormalization3D, ReflectConv3D
from segsrgan.networks.models import read_weights

pytest.importorskip("openvino")
openvino = pytest.importorskip("segsrgan.inference.engines.openvino")


def engine_of(model, *arguments):
    return openvino.OpenVINOEngine(model.spec, read_weights(model), *arguments)


def run_layer(model, image):
    """The output of a model of one layer, computed by OpenVINO."""
    layer, builder = model.layers[-1], openvino._Builder(read_weights(model))

    def add(x):
        if isinstance(layer, InstanceNormalization3D):
            return builder.normalisation(x, layer.name)
        sizes = layer.filters, layer.kernel_size
        return builder.convolution(x, *sizes, layer.name, layer.strides, layer.upsampling)

    image = np.moveaxis(image, -1, 1)
    x = openvino.op.parameter(image.shape, np.float32)
    graph = openvino.ov.Model([add(x)], [x], "layer")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return np.moveaxis(openvino.core().compile_model(graph, "CPU", options)(image)[0], 1, -1)


def layer_alone(layer):
    """A model of one layer, with random weights."""
    image = keras.Input((None, None, None, 1))
    return randomise(keras.Model(image, layer(image)))


def small():
    return randomise(build_generator(GeneratorSpec(1, blocks=1)))


def random_input(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("spec", ALL_VARIANTS, ids=name_of)
def test_every_variant_equals_the_plain_network(spec):
    model = simplified(randomise(build_generator(spec)), formulation="plain")
    shape = np.random.default_rng(ALL_VARIANTS.index(spec)).choice([8, 12, 16, 20, 28], 3)
    image = random_input(2, *shape, 1)
    expected, atol = truth_and_tolerance(model, image)
    result = engine_of(model).predict_batch(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=atol)


@pytest.mark.parametrize(
    "layer",
    [
        partial(ReflectConv3D, 3, 7),
        partial(ReflectConv3D, 7, 7),
        partial(ReflectConv3D, 2, 1),
        partial(ReflectConv3D, 3, 3, strides=2),
        partial(ReflectConv3D, 3, 3, upsampling=2),
        partial(ReflectConv3D, 3, 3, strides=(2, 2, 1)),
        partial(ReflectConv3D, 3, 3, upsampling=(2, 2, 1)),
        InstanceNormalization3D,
    ],
    ids=[
        *("few filters", "many filters", "a point", "stride", "upsampling", "stride of two axes"),
        *("upsampling of two axes", "norm"),
    ],
)
@pytest.mark.parametrize("shape", [(8, 8, 8), (4, 12, 20)])
def test_a_layer_equals_its_formula_at_the_borders_too(layer, shape):
    model = layer_alone(layer())
    image = random_input(1, *shape, 1)
    expected, atol = truth_and_tolerance(model, image)
    np.testing.assert_allclose(run_layer(model, image), expected, atol=atol)


@pytest.mark.parametrize(("offset", "shape"), [(0, (64, 64, 64)), (100, (44, 52, 148))])
def test_statistics_keep_their_digits(offset, shape):
    # OpenVINO's own normalisation is 1e-4 off here, with an offset of 100.
    image = np.random.default_rng(0).normal(offset, 1, (1, *shape, 1)).astype(np.float32)
    model = layer_alone(InstanceNormalization3D())
    expected, _ = truth_and_tolerance(model, image)
    np.testing.assert_allclose(run_layer(model, image), expected, atol=1e-5 + 2e-7 * offset)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_constant_patch_has_a_finite_answer(precision, value):
    model = randomise(build_generator(GeneratorSpec(2)))
    result = engine_of(model, precision).predict_batch(np.full((1, 16, 16, 16, 1), value))
    assert np.isfinite(result).all()


def test_the_precision_is_what_was_asked_for():
    model = randomise(build_generator(GeneratorSpec(4)))
    image = random_input(1, 16, 16, 16, 1)
    expected, atol = truth_and_tolerance(model, image)
    apart = {}
    for precision in ("float32", *openvino.precisions()):
        engine = engine_of(model, precision)
        apart[precision] = np.abs(engine.predict_batch(image) - expected).max()
        compiled = engine._compile(image.shape[1:4]).get_compiled_model()
        hint = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        assert precision.removesuffix("32") in hint
    assert apart.pop("float32") < atol
    assert all(atol < value < 1 for value in apart.values())


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (["FP32", "INT8"], ("float32",)),
        (["BF16", "FP32", "FP16"], ("float32", "float16", "bfloat16")),
    ],
)
def test_only_what_the_processor_computes_itself_is_offered(monkeypatch, capabilities, expected):
    properties = {("CPU", "OPTIMIZATION_CAPABILITIES"): capabilities}
    core = SimpleNamespace(get_property=lambda *key: properties[key])
    monkeypatch.setattr(openvino, "core", lambda: core)
    assert openvino.precisions() == expected


def test_few_compiled_models_are_kept():
    engine = engine_of(small())
    first = engine.predict_batch(random_input(1, 8, 8, 8, 1))
    for size in (12, 16, 20, 24, 28):
        assert engine.predict_batch(random_input(2, size, 8, 8, 1)).shape == (2, size, 8, 8, 2)
    assert engine._compile.cache_info().currsize == 4
    np.testing.assert_array_equal(engine.predict_batch(random_input(1, 8, 8, 8, 1)), first)


def test_threads_do_not_disturb_each_other():
    engine = engine_of(small())
    batches = [random_input(1, 8, 8, 8 + 4 * (i % 2), 1, seed=i) for i in range(8)]
    expected = [engine.predict_batch(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(engine.predict_batch, batches * 5)
    for result, wanted in zip(results, expected * 5, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_the_number_of_threads_is_passed_on():
    properties = engine_of(small(), "float32", 1)._compile((8, 8, 8)).get_compiled_model()
    assert properties.get_property("INFERENCE_NUM_THREADS") == 1
    assert properties.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Exception from src/inference: std::bad_alloc", MemoryError),
        ("Can not allocate 4294967296 bytes", MemoryError),
        ("could not create a memory descriptor", RuntimeError),
    ],
)
def test_only_running_out_of_memory_is_a_memory_error(monkeypatch, text, kind):
    engine = engine_of(small())

    def fail(shape):
        raise RuntimeError(text)

    monkeypatch.setattr(engine, "_compile", fail)
    with pytest.raises(kind, match=text):
        engine.predict_batch(random_input(2, 8, 8, 8, 1))


INTERRUPTED = """
import os, signal
import numpy as np
from segsrgan.inference.engines.openvino import OpenVINOEngine
from segsrgan.networks import GeneratorSpec, generator_shapes

spec = GeneratorSpec(1, blocks=1)
arrays = {name: np.ones(shape, np.float32) for name, shape in generator_shapes(spec).items()}
engines = [OpenVINOEngine(spec, arrays) for _ in range(2)]
for engine in engines:
    engine.predict_batch(np.zeros((1, 8, 8, 8, 1), np.float32))
del engines[0], engines[0], engine
signal.signal(signal.SIGINT, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_process_survives_ctrl_c_after_its_engines_are_gone():
    run = [sys.executable, "-c", INTERRUPTED]
    process = subprocess.run(run, capture_output=True, encoding="utf-8")
    assert (process.returncode, process.stdout) == (0, "heard\n"), process.stderr
