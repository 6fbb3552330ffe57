# SPDX-License-Identifier: MIT
"""Trains tiny networks on fixed batches and saves their weights; run as a process of its own.

    python step_child.py MODE OUTPUT.npz [WORKERS INDEX]

MODE is `single` (any backend), `mirrored` (two logical CPUs) or `worker` (one of several
processes). All get the same global batches of four patches.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

CYCLES, BATCH, PATCH = 3, 4, 16
SETTINGS = {"lrgen": 3.0, "lrdis": 3e-3, "ema": 0.5, "clip_gradient": 0.5, "lambadv": 0.01}


def distribution(mode, arguments):
    from segsrgan.training.distribution import Distribution, distribute, mirrored

    if mode == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        return mirrored(["CPU:0", "CPU:1"])
    if mode == "worker":
        return distribute(True, arguments[0], int(arguments[1]))
    return Distribution()


def fixed_gan():
    """Networks whose weights depend on nothing but their shapes."""
    from training.command import make_gan

    from segsrgan.networks import GeneratorSpec

    # With so large an epsilon Adam's steps follow the size of the gradient, not its sign alone.
    gan = make_gan(
        GeneratorSpec(2, conditional=True, blocks=1),
        {"epsilon": 1.0},
        reconstruction_loss="dice",
        **SETTINGS,
    )
    rng = np.random.default_rng(1)
    for model in (gan.generator, gan.discriminator):
        for variable in model.trainable_variables:
            fan = max(1, int(np.prod(variable.shape[:-1])))
            values = rng.normal(0, fan**-0.5, variable.shape).astype("float32")
            variable.assign(values + 1 if variable.name == "scale" else values)
    return gan


def batches():
    from segsrgan.training.dataset import Batch

    for index in range(2 * CYCLES):
        rng = np.random.default_rng([2, index])
        shape = (BATCH, PATCH, PATCH, PATCH)
        yield Batch(
            rng.random((*shape, 1), dtype="float32"),
            rng.random((*shape, 2), dtype="float32"),
            rng.uniform(2, 6, BATCH).astype("float32"),
            rng.random(BATCH, dtype="float32"),
        )


def main(mode, output, *arguments):
    spread = distribution(mode, arguments)
    if keras.backend.backend() == "jax":
        from segsrgan.training.step_jax import Step
    else:
        from segsrgan.training.step_tensorflow import Step
    with spread.scope():
        gan = fixed_gan()
    step, losses = Step(gan, spread), []
    rows = BATCH // spread.workers
    mine = slice(spread.index * rows, (spread.index + 1) * rows)
    for index, batch in enumerate(batches()):
        part = type(batch)(*(array[mine] for array in batch))
        metrics = (step.generator if index % 2 else step.discriminator)(part)
        losses.append([float(np.asarray(metrics[key])) for key in sorted(metrics)])
    with gan.averaged():
        weights = [
            np.asarray(variable.value)
            for model in (gan.generator, gan.discriminator)
            for variable in model.trainable_variables
        ]
    np.savez(output, *weights, losses=np.concatenate(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
