# SPDX-License-Identifier: MIT
"""Adam, its learning rate, clipped gradients, averaged weights, and what of it a training keeps."""

import contextlib

import keras
import numpy as np
from keras import ops

# Of the peak, where a rate rises from and falls to.
_SMALLEST_RATE = 0.01


def make_adam(model, rate, loss_scaling=False, ema=0.0, **options):
    """An Adam optimiser whose variables are there already.

    Args:
        model: whose trainable variables it is for.
        rate: learning rate, a number or a Keras schedule.
        loss_scaling: whether losses are scaled up dynamically, which float16 needs.
        ema: decay of the moving average of the weights, 0 for none; see `averaged`.
        **options: of `keras.optimizers.Adam`.
    """
    if ema:
        options |= {"use_ema": True, "ema_momentum": ema}
    optimizer = keras.optimizers.Adam(rate, **options)
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(peak, updates, schedule="constant", warm_up=0):
    """A learning rate that rises linearly from a hundredth of its peak and then stays or falls.

    Args:
        peak: the largest rate.
        updates: of the whole training.
        schedule: "constant", or "cosine": half a cosine down to a hundredth of the peak.
        warm_up: updates in which the rate rises.

    Returns:
        A number, or a Keras schedule.
    """
    if schedule == "constant" and not warm_up:
        return peak
    return keras.optimizers.schedules.CosineDecay(
        _SMALLEST_RATE * peak if warm_up else peak,
        max(1, updates - warm_up),
        alpha=_SMALLEST_RATE if schedule == "cosine" else 1.0,
        warmup_target=peak if warm_up else None,
        warmup_steps=warm_up,
    )


@contextlib.contextmanager
def averaged(model, optimizer):
    """The model with its averaged weights, if its optimiser keeps them; afterwards its own."""
    inner = _inner(optimizer)
    if not inner.use_ema:
        yield
        return
    kept = [np.asarray(variable.value) for variable in model.trainable_variables]
    inner.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept, strict=True):
            variable.assign(value)


def state_of(name, model, optimizer):
    """All variables that the training of a network changes, by meaning.

    Returns:
        dict of lists of Keras variables: `<name>`, `<name>_optimizer` (averages of the weights
        included), with loss scaling `<name>_scaling`. Learning rates are not among them, unless
        they are schedules: they are settings.
    """
    inner = _inner(optimizer)
    result = {name: model.weights, f"{name}_optimizer": _without_rate(inner.variables)}
    if inner is not optimizer:
        scaling = [v for v in optimizer.variables if not any(v is w for w in inner.variables)]
        result[f"{name}_scaling"] = _without_rate(scaling)
    return result


def global_norm(gradients):
    """The Euclidean norm of all gradients together, float32."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    return ops.sqrt(ops.sum(ops.stack(squares)))


def kept_finite(gradients, norm):
    """The gradients, or zeros if their norm is not finite, so that no weight is lost to a NaN."""
    finite = ops.isfinite(norm)
    return [ops.where(finite, g, ops.zeros_like(g)) for g in gradients]


def clipped(gradients, norm, limit=None):
    """The gradients, all made shorter by one factor where their norm is above a limit.

    Args:
        gradients: list of tensors.
        norm: theirs, see `global_norm`; a norm that is not a number changes nothing.
        limit: the largest norm, None for any.
    """
    if limit is None:
        return gradients
    factor = ops.where(norm > limit, limit / norm, 1.0)
    return [g * ops.cast(factor, g.dtype) for g in gradients]


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _without_rate(variables):
    return [variable for variable in variables if variable.name != "learning_rate"]
