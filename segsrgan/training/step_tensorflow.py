# SPDX-License-Identifier: MIT
"""Gradient steps on TensorFlow. The only module of the training that names the backend."""

import tensorflow as tf


def reconstruction_step(generator, optimizer, loss):
    """A compiled update of the generator on its reconstruction loss alone.

    Args:
        generator: a built `keras.Model`.
        optimizer: a Keras optimiser.
        loss: function `(target, prediction) -> scalar`.

    Returns:
        Function `(lr, target) -> loss`, which updates the generator.
    """
    variables = generator.trainable_variables
    optimizer.build(variables)

    @tf.function
    def step(lr, target):
        with tf.GradientTape() as tape:
            value = loss(target, generator(lr, training=True))
        optimizer.apply(tape.gradient(value, variables), variables)
        return value

    return step


def compiled_prediction(generator):
    """The generator as a compiled function of a batch; returns NumPy."""
    function = tf.function(lambda inputs: generator(inputs, training=False))
    return lambda inputs: function(inputs).numpy()
