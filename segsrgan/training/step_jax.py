# SPDX-License-Identifier: MIT
"""Gradient steps on JAX, for accelerators without TensorFlow. The interface of the other step."""

import contextlib

import jax
import numpy as np

from segsrgan.errors import TrainingError
from segsrgan.training.optimizers import clipped, global_norm, kept_finite


def deterministic(several=False):
    """JAX repeats exactly on a CPU by itself."""


@contextlib.contextmanager
def translated(several=False, smaller="--batch_size or --patch_size"):
    """Turns JAX's error of a full memory into `TrainingError`.

    Args:
        several: whether several processes train together; JAX trains in one.
        smaller: the flags that save memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"out of memory; take a smaller {smaller}, or --precision mixed_bfloat16"
        ) from error


class Step:
    """Compiled updates of the networks of a `Gan` on one device.

    Args:
        gan: a `Gan`.
        distribution: must be that of one process and device.
    """

    def __init__(self, gan, distribution=None):
        if distribution is not None and distribution.replicas > 1:
            raise ValueError("several devices need KERAS_BACKEND=tensorflow")
        self._gan = gan
        # What is updated is given away, so that it is not held twice.
        self._update_generator = jax.jit(self._generator, donate_argnums=0)
        self._update_discriminator = jax.jit(self._discriminator, donate_argnums=0)
        self._predict = jax.jit(
            lambda weights, lr, resolution: _call(
                gan.generator, weights, gan.generator_inputs(lr, resolution)
            )
        )

    def generator(self, batch):
        """Updates the generator; see the TensorFlow step."""
        return self._run("generator", self._update_generator, batch)

    def discriminator(self, batch):
        """Updates the discriminator; see the TensorFlow step."""
        return self._run("discriminator", self._update_discriminator, batch)

    def predict(self, batch):
        """The generator's output for a `Batch`, NumPy (b, p, p, p, 2 + classes)."""
        weights = _values(self._gan.generator.trainable_variables)
        return np.asarray(self._predict(weights, batch.lr, batch.resolution))

    def _run(self, name, update, batch):
        model, optimizer = getattr(self._gan, name), getattr(self._gan, f"{name}_optimizer")
        other = self._gan.discriminator if name == "generator" else self._gan.generator
        own = [model.trainable_variables, optimizer.variables]
        others = _values(other.trainable_variables) if other is not None else None
        *values, metrics = update([_values(variables) for variables in own], others, batch)
        for variables, group in zip(own, values, strict=True):
            for variable, value in zip(variables, group, strict=True):
                variable.assign(value)
        return metrics

    def _generator(self, own, discriminator, batch):
        gan = self._gan
        critic = self._critic(discriminator, batch)

        def loss(weights):
            inputs = gan.generator_inputs(batch.lr, batch.resolution)
            output = _call(gan.generator, weights, inputs, training=True)
            return gan.generator_loss(critic, batch.target, output)

        return self._update("generator", own, loss)

    def _discriminator(self, own, generator, batch):
        gan = self._gan
        inputs = gan.generator_inputs(batch.lr, batch.resolution)
        fake = _call(gan.generator, generator, inputs, training=True)

        def loss(weights):
            critic = self._critic(weights, batch)
            return gan.discriminator_loss(critic, _gradient, batch.target, fake, batch.epsilon)

        return self._update("discriminator", own, loss)

    def _critic(self, weights, batch):
        gan = self._gan
        return lambda images: _call(
            gan.discriminator,
            weights,
            gan.discriminator_inputs(images, batch.resolution),
            training=True,
        )

    def _update(self, name, own, loss):
        optimizer = getattr(self._gan, f"{name}_optimizer")
        weights, optimizer_state = own
        scale = _scale(optimizer, optimizer_state)

        def scaled(values):
            value, metrics = loss(values)
            return value * scale, metrics

        gradients, metrics = jax.grad(scaled, has_aux=True)(weights)
        norm = global_norm(gradients) / scale
        if not self._gan.scaled:  # else the optimiser skips what is not finite
            gradients = kept_finite(gradients, norm)
        gradients = clipped(gradients, norm, self._gan.clip_gradient)
        weights, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, weights)
        return weights, optimizer_state, {**metrics, f"{name}_gradient": norm}


def _gradient(critic, images):
    return jax.grad(lambda x: critic(x).sum())(images)


def _call(model, weights, inputs, training=False):
    return model.stateless_call(weights, [], inputs, training=training)[0]


def _values(variables):
    return [variable.value for variable in variables]


def _scale(optimizer, state):
    """The factor by which the loss is scaled up, out of the optimiser's traced state."""
    if not hasattr(optimizer, "dynamic_scale"):
        return 1.0
    index = [variable is optimizer.dynamic_scale for variable in optimizer.variables].index(True)
    return state[index]
