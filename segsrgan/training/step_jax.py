# SPDX-License-Identifier: MIT
"""Gradient steps on JAX, for accelerators without TensorFlow. The interface of the other step."""

import contextlib

import jax
import numpy as np

from segsrgan.errors import TrainingError
from segsrgan.training.optimizers import clipped


def deterministic(several=False):
    """JAX repeats exactly on a CPU by itself."""


@contextlib.contextmanager
def translated(several=False, smaller="--batch_size or --patch_size"):
    """Turns JAX's error of a full memory into `TrainingError`; `smaller` flags save memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TrainingError(
            f"out of memory; take a smaller {smaller}, or --precision mixed_bfloat16"
        ) from error


class Step:
    """Compiled updates of the networks of a `Gan` on one device, whatever the distribution."""

    def __init__(self, gan, distribution=None):
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
        """Updates the generator by a `Batch`; returns a dict of scalars."""
        return self._run("generator", self._update_generator, batch)

    def discriminator(self, batch):
        """Updates the discriminator by a `Batch`; returns a dict of scalars."""
        return self._run("discriminator", self._update_discriminator, batch)

    def predict(self, batch):
        """The generator's output for a `Batch`, NumPy (b, p, p, p, 2 + classes)."""
        weights = _values(self._gan.generator.trainable_variables)
        return np.asarray(self._predict(weights, batch.lr, batch.resolution))

    def _run(self, name, update, batch):
        model, optimizer = getattr(self._gan, name), getattr(self._gan, f"{name}_optimizer")
        other = self._gan.discriminator if name == "generator" else self._gan.generator
        trained = [model.trainable_variables, optimizer.variables]
        others = _values(other.trainable_variables) if other is not None else None
        *values, metrics = update([_values(variables) for variables in trained], others, batch)
        for variables, group in zip(trained, values, strict=True):
            for variable, value in zip(variables, group, strict=True):
                variable.assign(value)
        return metrics

    def _generator(self, trained, discriminator, batch):
        gan = self._gan
        critic = self._critic(discriminator, batch)

        def loss(weights):
            inputs = gan.generator_inputs(batch.lr, batch.resolution)
            output = _call(gan.generator, weights, inputs, training=True)
            return gan.generator_loss(critic, batch.target, output)

        return self._update("generator", trained, loss)

    def _discriminator(self, trained, generator, batch):
        gan = self._gan
        inputs = gan.generator_inputs(batch.lr, batch.resolution)
        fake = _call(gan.generator, generator, inputs, training=True)

        def loss(weights):
            critic = self._critic(weights, batch)
            return gan.discriminator_loss(critic, _gradient, batch.target, fake, batch.epsilon)

        return self._update("discriminator", trained, loss)

    def _critic(self, weights, batch):
        gan = self._gan
        return lambda images: _call(
            gan.discriminator,
            weights,
            gan.discriminator_inputs(images, batch.resolution),
            training=True,
        )

    def _update(self, name, trained, loss):
        optimizer = getattr(self._gan, f"{name}_optimizer")
        weights, optimizer_state = trained
        scale = _scale(optimizer, optimizer_state)

        def scaled(values):
            value, metrics = loss(values)
            return value if scale is None else value * scale, metrics

        gradients, metrics = jax.grad(scaled, has_aux=True)(weights)
        gradients, norm = clipped(gradients, self._gan.clip_gradient, scale)
        weights, optimizer_state = optimizer.stateless_apply(optimizer_state, gradients, weights)
        return weights, optimizer_state, {**metrics, f"{name}_gradient": norm}


def _gradient(critic, images):
    return jax.grad(lambda x: critic(x).sum())(images)


def _call(model, weights, inputs, training=False):
    return model.stateless_call(weights, [], inputs, training=training)[0]


def _values(variables):
    return [variable.value for variable in variables]


def _scale(optimizer, state):
    """The factor by which the loss is scaled up, out of the optimiser's traced state, or None."""
    if not hasattr(optimizer, "dynamic_scale"):
        return None
    index = [variable is optimizer.dynamic_scale for variable in optimizer.variables].index(True)
    return state[index]
