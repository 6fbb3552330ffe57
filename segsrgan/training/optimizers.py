# SPDX-License-Identifier: MIT
"""Optimisers of networks, and what of both a training has to keep."""

import keras
from keras import ops


def make_adam(model, rate, loss_scaling=False, **options):
    """An Adam optimiser whose variables are there already.

    Args:
        model: whose trainable variables it is for.
        rate: learning rate, a number or a Keras schedule.
        loss_scaling: whether losses are scaled up dynamically, which float16 needs.
        **options: of `keras.optimizers.Adam`.
    """
    optimizer = keras.optimizers.Adam(rate, **options)
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def state_of(name, model, optimizer):
    """All variables that the training of a network changes, by meaning.

    Returns:
        dict of lists of Keras variables: `<name>`, `<name>_optimizer`, with loss scaling
        `<name>_scaling`. Learning rates are not among them, unless they are schedules: they are
        settings.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    result = {name: model.weights, f"{name}_optimizer": _without_rate(inner.variables)}
    if inner is not optimizer:
        own = [v for v in optimizer.variables if not any(v is w for w in inner.variables)]
        result[f"{name}_scaling"] = _without_rate(own)
    return result


def global_norm(gradients):
    """The Euclidean norm of all gradients together, float32."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    return ops.sqrt(ops.sum(ops.stack(squares)))


def kept_finite(gradients, norm):
    """The gradients, or zeros if their norm is not finite, so that no weight is lost to a NaN."""
    finite = ops.isfinite(norm)
    return [ops.where(finite, g, ops.zeros_like(g)) for g in gradients]


def _without_rate(variables):
    return [variable for variable in variables if variable.name != "learning_rate"]
