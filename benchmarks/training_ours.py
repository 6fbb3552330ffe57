# SPDX-License-Identifier: MIT
"""Child of `training.py`: this package's own training step, and its preparation of an epoch."""

import importlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from training_timing import (
    DISCRIMINATOR_UPDATES,
    arrays,
    emit,
    first_to_end,
    measure,
    parser,
    written,
)

import segsrgan  # noqa: F401 - sets the environment of TensorFlow before Keras loads it


def choose_device(args):
    """Must come before the backend is imported."""
    os.environ["KERAS_BACKEND"] = args.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.device == "cpu":
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")


def cycle(args):
    choose_device(args)
    import keras

    from segsrgan.networks import DiscriminatorSpec, GeneratorSpec
    from segsrgan.training.dataset import Batch
    from segsrgan.training.gan import Gan

    module = importlib.import_module(f"segsrgan.training.step_{args.backend}")
    module.deterministic()  # as `SegSRGAN_training.py` does
    peak_memory = memory_counter(args)
    keras.config.set_dtype_policy(args.precision)
    gan = Gan.build(GeneratorSpec(16), DiscriminatorSpec(32, patch=args.patch), args.patch)
    step = module.Step(gan)
    lr, target = arrays(args.batch, args.patch)
    epsilon = np.random.RandomState(1).rand(args.batch).astype("float32")
    batch = Batch(lr[..., None], target, np.full(args.batch, 3.0, "float32"), epsilon)

    def wait(metrics):
        # The losses can be there before the weights are updated.
        for model in (gan.generator, gan.discriminator):
            keras.ops.convert_to_numpy(model.trainable_variables[-1])
        return [float(value) for value in metrics.values()]

    result = measure(lambda: step.discriminator(batch), lambda: step.generator(batch), wait, args)
    result["operations"] = args.batch * operations_of_a_cycle(gan)
    if args.device == "gpu":
        result["device_memory_gb"] = peak_memory() / 1e9
    result["matrix_rate"] = matrix_rate(args)
    return result


def memory_counter(args):
    """A function for the most memory that was used of the GPU; ends where there is none."""
    if args.device == "cpu":
        return None
    if args.backend == "jax":
        import jax

        device = jax.local_devices()[0]
        if device.platform != "gpu":
            raise SystemExit("--device gpu: JAX sees no GPU; install jax[cuda12]")
        return lambda: device.memory_stats()["peak_bytes_in_use"]
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise SystemExit("--device gpu: TensorFlow sees no GPU; install tensorflow[and-cuda]")
    return lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]


def operations_of_a_cycle(gan):
    """Multiplications and additions that a cycle needs for one patch, convolutions alone.

    Forward, gradient of the weights and gradient of the input cost the same; the first layer's
    input gradient is needed by the penalty alone. The penalty's own gradient goes back through
    the input gradient (twice its cost) and no further: LeakyReLU is piecewise linear.
    """
    (g, g_first), (d, d_first) = map(operations, (gan.generator, gan.discriminator))
    scores, penalty = 2 * (3 * d - d_first), 4 * d
    discriminator = g + scores + penalty
    generator = 3 * g - g_first + 2 * d
    return DISCRIMINATOR_UPDATES * discriminator + generator


def operations(model):
    """Those of a model's convolutions for one patch forward, and of its first one."""
    result = []
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            work = 2 * np.prod(layer.kernel.shape, dtype=float)
            work *= np.prod(layer.output.shape[1:4], dtype=float)
            # After a nearest upsampling 2 taps of 3 are enough along each axis.
            result.append(work * (8 / 27 if getattr(layer, "upsampling", 1) == 2 else 1))
    return sum(result), result[0]


def matrix_rate(args):
    """Operations per second of large matrix products, on this device and in this type."""
    import keras

    size = 8192 if args.device == "gpu" else 2048
    dtype = keras.dtype_policies.get(args.precision).compute_dtype
    matrix = keras.random.normal((size, size), stddev=size**-0.5, dtype=dtype)
    if args.backend == "jax":
        import jax

        product = jax.jit(keras.ops.matmul)
    else:
        import tensorflow as tf

        product = tf.function(keras.ops.matmul)
    rates, repeats = [], 20 if args.device == "gpu" else 3
    for _ in range(6):  # the first compiles
        start, result = time.perf_counter(), matrix
        for _ in range(repeats):
            result = product(matrix, result)
        float(keras.ops.cast(result[0, 0], "float32"))  # ends when all is computed
        rates.append(2 * size**3 * repeats / (time.perf_counter() - start))
    return max(rates)


def epoch(args):
    from segsrgan.training.dataset import Cutting, Dataset, Simulation
    from segsrgan.training.table import read_table

    # Whatever was written on the way would count.
    tempfile.tempdir = args.folder
    cases = read_table(Path(args.csv)).train
    dataset = Dataset(
        cases, Simulation(tuple(args.resolution)), Cutting(args.patch, args.stride), args.batch, 0
    )
    before, start = written(), time.perf_counter()
    batches = sum(1 for _ in dataset.epoch(1, DISCRIMINATOR_UPDATES))
    return {
        "seconds": time.perf_counter() - start,
        "written_gb": (written() - before) / 1e9,
        "cycles": batches // (DISCRIMINATOR_UPDATES + 1),
        "patches": dataset.patches,
    }


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    first_to_end()
    emit({"cycle": cycle, "epoch": epoch}[arguments.what](arguments))
