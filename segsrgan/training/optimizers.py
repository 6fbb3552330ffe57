# SPDX-License-Identifier: MIT
"""Adam, its learning rate, clipped gradients, and what of it a training keeps."""

import keras
from keras import ops

# Of the peak, where a rate rises from and falls to.
_SMALLEST_RATE = 0.01


def make_adam(model, rate, loss_scaling=False, ema=0.0, **options):
    """A built Adam optimiser for the trainable variables of a model.

    Its `rate` is a number or a Keras schedule; `loss_scaling` scales losses up dynamically, which
    float16 needs; `ema` is the decay of a moving average of the weights, 0 for none.
    """
    if ema:
        options |= {"use_ema": True, "ema_momentum": ema}
    optimizer = keras.optimizers.Adam(rate, **options)
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(peak, updates, schedule="constant", warm_up=0):
    """A rate, a number or a Keras schedule, over the updates of a whole training.

    It rises linearly from a hundredth of its peak in `warm_up` updates and then stays or, with
    "cosine", falls as half a cosine to a hundredth.
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


def state_of(name, model, optimizer):
    """All Keras variables that the training of a network changes, as lists by their meaning.

    They are `<name>`, `<name>_optimizer` (averages of the weights included) and, with loss scaling,
    `<name>_scaling`. Constant learning rates are not among them: they are settings.
    """
    adam = inner(optimizer)
    result = {name: model.weights, f"{name}_optimizer": _without_rate(adam.variables)}
    if adam is not optimizer:
        scaling = [v for v in optimizer.variables if not any(v is w for w in adam.variables)]
        result[f"{name}_scaling"] = _without_rate(scaling)
    return result


def clipped(gradients, limit=None, scale=None):
    """Gradients that do no harm, and the Euclidean norm of all of them together, float32.

    Args:
        gradients: list of tensors.
        limit: the largest norm, None for any; gradients beyond are shortened by one factor.
        scale: factor by which the loss was scaled up, None without loss scaling. Then gradients
            whose norm is not finite become zeros, so that no weight is lost to a NaN; with loss
            scaling the optimiser skips them.
    """
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    norm = ops.sqrt(ops.sum(ops.stack(squares)))
    if scale is None:
        finite = ops.isfinite(norm)
        gradients = [ops.where(finite, g, ops.zeros_like(g)) for g in gradients]
    else:
        norm = norm / scale
    if limit is not None:
        factor = ops.where(norm > limit, limit / norm, 1.0)
        gradients = [g * ops.cast(factor, g.dtype) for g in gradients]
    return gradients, norm


def inner(optimizer):
    """The optimiser that a loss scaling wraps, or the optimiser itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _without_rate(variables):
    return [variable for variable in variables if variable.name != "learning_rate"]
