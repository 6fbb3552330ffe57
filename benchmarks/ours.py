# SPDX-License-Identifier: MIT
"""Processes of the benchmarks that compute with this package, in the root of a clone.

python -m benchmarks.ours job IMAGE PATCH STEP FOLDER WEIGHTS
python -m benchmarks.ours limit|accuracy RUNS [--small]
python -m benchmarks.ours cycle BATCH PATCH BACKEND PRECISION CYCLES
python -m benchmarks.ours update RECIPE UPDATES
"""

import importlib
import json
import math
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.common import spread
from benchmarks.inference import engines

DISCRIMINATOR_UPDATES = 5
HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def predictor(path, engine="plain", precision="float32"):
    """A `Predictor` of the weights; "plain" is Keras' `predict_on_batch`, the layers as written."""
    from segsrgan import Predictor
    from segsrgan.networks import build_generator, load_generator

    if engine != "plain":
        return Predictor(path, engine=engine, precision=precision)
    made, trained = Predictor(path, engine="tensorflow", batch_size=1), load_generator(path)
    model = build_generator(trained.spec, formulation="plain")
    model.set_weights(trained.get_weights())
    made.engine = SimpleNamespace(
        name="plain",
        precision="float32",
        predict_batch=lambda patches, resolution=None: model.predict_on_batch(patches),
    )
    return made


def job(image, patch, step, folder, weights):
    """Plain Keras on one image."""
    from segsrgan import write_volume

    result = predictor(weights).predict(image, int(patch), int(step), 1.0)
    for kind in ("sr", "cortex", "cortex_mask"):
        write_volume(getattr(result, kind), Path(folder) / f"plain_{kind}.nii.gz")


def limit(runs, small=None):
    """How far one patch is from what the machine's matrix rate allows, a row for each engine."""
    from segsrgan.inference.engines import engine_module
    from segsrgan.networks import GeneratorSpec, build_generator
    from segsrgan.networks.models import read_weights

    size, edge, kernel = (256, 32, 4) if small else (4096, 128, 16)
    patch = np.random.default_rng(0).random((1, edge, edge, edge, 1), dtype=np.float32)
    model = build_generator(GeneratorSpec(kernel), (edge,) * 3)
    network, needed = (model.spec, read_weights(model)), int(sum(operations(model)))
    made = {pair: engine_module(pair[0]).make(network, pair[1], None) for pair in engines()}
    times = {pair: [] for pair in made}
    for number in range(int(runs) + 1):  # the first compiles
        for pair, engine in made.items():
            seconds = _seconds(lambda engine=engine: engine.predict_batch(patch, None))
            times[pair] += [seconds] * bool(number)
    rows = []
    for (name, precision), seconds in times.items():
        row, rate = spread(seconds), matrix_rate(precision, size)
        row |= {"engine": name, "precision": precision, "operations": needed, "matrix_rate": rate}
        rows.append({**row, "times_the_limit": row["seconds"] * rate / needed})
    return {"rows": rows}


def operations(model, rewritten=True):
    """Floating-point operations of each convolution of a model of fixed sizes for one patch.

    `rewritten` as `segsrgan.networks` computes the generator, or as written.
    """
    from segsrgan.networks.layers import FEW_FILTERS

    result = []
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        edge, filters = layer.kernel.shape[0], layer.kernel.shape[-1]
        taps = edge**3
        upsampling = getattr(layer, "upsampling", (1,))
        if max(upsampling) == 2:
            # Each output voxel sees two coarse ones along an axis that is upsampled.
            taps = math.prod(2 if factor == 2 else edge for factor in upsampling)
        elif rewritten and max(layer.strides) == 1 and filters <= FEW_FILTERS:
            taps = (edge + 1) ** 3  # a kernel wider by one, with stride 2
        voxels = np.prod(layer.output.shape[1:4], dtype=float)
        result.append(2 * voxels * taps * layer.kernel.shape[-2] * filters)
    return result


def matrix_rate(precision, size, runs=5):
    """Operations a second of a product of two square matrices, by the faster library at hand."""
    import openvino as ov
    import openvino.opset15 as op

    first, second = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    node = op.parameter(first.shape, np.float32)
    # A constant, as weights are: it is brought into its best order once.
    product = op.matmul(node, op.constant(second), False, False)
    graph = ov.Model([op.result(op.reduce_mean(product, op.constant([1])))], [node])
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
    request = ov.Core().compile_model(graph, "CPU", options).create_infer_request()
    products = [lambda: request.infer([first])]
    if precision == "float32":
        products.append(lambda: first @ second)
    for compute in products:
        compute()  # compiles
    return 2 * size**3 / min(_seconds(compute) for compute in products for _ in range(runs))


def accuracy(runs, small=None):
    """Scores of the bundled weights by engine and precision on the benchmark weights' adult T1.

    Beside them the Dice of the thresholded cortex with the plain network's.
    """
    from benchmarks.weights import acquire, adult_template, measure
    from segsrgan.networks import default_weights
    from segsrgan.volumes import dice

    truth, cortex, brain = adult_template(np.s_[80:112, 100:132, 80:112] if small else ...)
    truth, low = acquire(truth, brain)
    patch, rows, plain = 16 if small else 64, [], None
    for engine, precision in [("plain", "float32"), *engines()]:
        model = predictor(default_weights(), engine, precision)
        result = model.predict(low, patch, patch // 2, truth.spacing)
        mask = result.cortex_mask.array
        plain = mask if plain is None else plain
        row = measure(truth, result.sr.array, mask, cortex, brain)
        row = {k: float(v) for k, v in (row | {"dice_with_plain": dice(plain, mask)}).items()}
        rows.append({"engine": engine, "precision": precision, **row})
    return {"rows": rows}


def cycle(batch, patch, backend, precision, cycles):
    """Seconds of each cycle of our training on random patches, see the benchmark `training`.

    Also the last losses, by which to see that all is finite; operations and the rate of a product.
    """
    os.environ["KERAS_BACKEND"] = backend
    import keras

    mm = {"low_res": (0.5, 0.5, 3.0), "low_res_upper": (0.5, 0.5, 3.0)}
    values = {"batch_size": int(batch), "patch_size": int(patch), "precision": precision, **mm}
    gan, step, data = _training(values, backend)
    losses = {}

    def update(times):
        for _ in range(times):
            losses.update(step.discriminator(data))
        losses.update(step.generator(data))
        # The losses can be there before the weights are updated.
        for model in (gan.generator, gan.discriminator):
            keras.ops.convert_to_numpy(model.trainable_variables[-1])

    update(1)  # compiles
    seconds = [_seconds(lambda: update(DISCRIMINATOR_UPDATES)) for _ in range(int(cycles))]
    return {
        "cycles": seconds,
        "losses": {name: float(value) for name, value in losses.items()},
        "operations": int(batch) * operations_of_a_cycle(gan),
        "matrix_rate": matrix_rate(precision.removeprefix("mixed_"), 2048),
    }


def update(recipe, updates):
    """Seconds of each update of the generator by a recipe, on random patches; as `cycle`."""
    from keras import ops

    from segsrgan.config import from_toml
    from segsrgan.training.settings import TrainingSettings

    values = from_toml(recipe, TrainingSettings)
    values.setdefault("low_res_upper", values["low_res"])
    gan, step, data = _training(values, "tensorflow")

    def once():
        step.generator(data)
        ops.convert_to_numpy(gan.generator.trainable_variables[-1])

    once()  # compiles
    seconds = [_seconds(once) for _ in range(int(updates))]
    generator, settings = operations(gan.generator, False), gan.settings
    return {
        "cycles": seconds,
        "voxels": settings.batch_size * settings.patch_size**3,
        "operations": settings.batch_size * (3 * sum(generator) - generator[0]),
        "matrix_rate": matrix_rate(settings.precision.removeprefix("mixed_"), 2048),
    }


def _training(values, backend):
    """`(Gan, Step, Batch)` of settings, a dict, with random patches."""
    import keras

    from segsrgan.training.dataset import Batch
    from segsrgan.training.gan import Gan, build_networks
    from segsrgan.training.settings import TrainingSettings

    module = importlib.import_module(f"segsrgan.training.step_{backend}")
    module.deterministic()  # as `SegSRGAN_training.py` does
    files = {name: name for name in ("csv", "snapshot_folder", "dice_file", "mse_file")}
    settings = TrainingSettings(**{**values, **files})
    keras.config.set_dtype_policy(settings.precision)
    gan = Gan(*build_networks(settings, None, classes=0), settings)
    batch, patch, rng = settings.batch_size, settings.patch_size, np.random.default_rng(0)
    image, lr, label = rng.random((3, batch, patch, patch, patch), dtype=np.float32)
    target = np.stack([image, (label > 0.5).astype(np.float32)], axis=-1)
    epsilon = rng.random(batch, dtype=np.float32)
    data = Batch(lr[..., None], target, np.full(batch, 3.0, np.float32), epsilon)
    return gan, module.Step(gan), data


def operations_of_a_cycle(gan):
    """Multiplications and additions that a cycle needs for one patch, convolutions alone.

    Forward, gradient of the weights and gradient of the input cost the same; the first layer's
    input gradient is needed by the penalty alone. The penalty's own gradient goes back through
    the input gradient (twice its cost) and no further: LeakyReLU is piecewise linear.
    """
    generator, critic = (operations(m, False) for m in (gan.generator, gan.discriminator))
    g, d = sum(generator), sum(critic)
    discriminator = g + 2 * (3 * d - critic[0]) + 4 * d
    return DISCRIMINATOR_UPDATES * discriminator + 3 * g - generator[0] + 2 * d


def _seconds(compute):
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


if __name__ == "__main__":
    functions = {f.__name__: f for f in (job, limit, accuracy, cycle, update)}
    print("\n" + json.dumps(functions[sys.argv[1]](*sys.argv[2:])), flush=True)
