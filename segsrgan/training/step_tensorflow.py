# SPDX-License-Identifier: MIT
"""Gradient steps of the GAN on TensorFlow."""

import tensorflow as tf

from segsrgan.training.replicas import ReplicatedStep, deterministic, translated

__all__ = ["Step", "deterministic", "translated"]


class Step(ReplicatedStep):
    """Compiled updates of the networks of a `Gan`.

    Args:
        gan: a `Gan`, built in the strategy's scope if there is one.
        distribution: a `Distribution`; each call gets this worker's share of the batch, which is
            divided among its replicas. Losses and gradients are means over the global batch.
    """

    def __init__(self, gan, distribution=None):
        super().__init__(gan, distribution)
        self._gan = gan
        self._update_generator = self.compile(self._generator)
        self._update_discriminator = self.compile(self._discriminator)
        self._predict = tf.function(
            lambda lr, resolution: gan.generator(
                gan.generator_inputs(lr, resolution), training=False
            )
        )

    def generator(self, batch):
        """Updates the generator.

        Args:
            batch: a `Batch`.

        Returns:
            dict of scalars, see `Gan.generator_loss`, and `generator_gradient`, the norm.
        """
        return self._update_generator(batch)

    def discriminator(self, batch):
        """Updates the discriminator; as `generator`."""
        return self._update_discriminator(batch)

    def predict(self, batch):
        """The generator's output for a `Batch`, NumPy (b, p, p, p, 2 + classes)."""
        return self._predict(batch.lr, batch.resolution).numpy()

    def _generator(self, batch):
        gan = self._gan

        def loss():
            output = gan.generator(gan.generator_inputs(batch.lr, batch.resolution), training=True)
            return gan.generator_loss(self._critic(batch), batch.target, output)

        return self.minimise("generator", loss)

    def _discriminator(self, batch):
        gan = self._gan
        inputs = gan.generator_inputs(batch.lr, batch.resolution)
        fake = tf.stop_gradient(gan.generator(inputs, training=True))
        critic = self._critic(batch)
        return self.minimise(
            "discriminator",
            lambda: gan.discriminator_loss(critic, _gradient, batch.target, fake, batch.epsilon),
        )

    def _critic(self, batch):
        gan = self._gan
        return lambda images: gan.discriminator(
            gan.discriminator_inputs(images, batch.resolution), training=True
        )


def _gradient(critic, images):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        score = tf.reduce_sum(critic(images))
    return tape.gradient(score, images)
