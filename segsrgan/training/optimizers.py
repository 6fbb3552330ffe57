# SPDX-License-Identifier: MIT
"""Optimisers, their learning rate, clipped gradients, and what of them a training keeps."""

import keras
from keras import ops

# Of the peak, where a rate rises from and falls to.
_SMALLEST_RATE = 0.01


# Of the polynomial that brings singular values near 1 in so many steps (Jordan et al. 2024).
_POLYNOMIAL, _STEPS = (3.4445, -4.7750, 2.0315), 5
# The root of the mean square of an update's elements over the rate: about that of Adam, which has
# the rates of its other variables (Liu et al. 2025, arXiv:2502.16982).
_ROOT_MEAN_SQUARE = 0.2


@keras.saving.register_keras_serializable(package="segsrgan")
class Muon(keras.optimizers.Adam):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, Adam for all else.

    A kernel is a matrix from the inputs of all taps to the filters. Its mean gradient is made
    orthogonal: every direction learns as fast as the steepest one. The arguments are Adam's;
    `beta_1` is the decay of both.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Keras's hook: changes one variable."""
        if len(variable.shape) < 2:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum = self._momentums[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        self.assign_add(momentum, ops.multiply(ops.subtract(gradient, momentum), 1 - self.beta_1))
        # As Nesterov's: the mean once more, as if this gradient came again.
        ahead = ops.add(
            ops.multiply(momentum, self.beta_1), ops.multiply(gradient, 1 - self.beta_1)
        )
        matrix = orthogonal(ops.reshape(ahead, (-1, variable.shape[-1])))
        length = _ROOT_MEAN_SQUARE * max(matrix.shape) ** 0.5
        step = ops.multiply(ops.reshape(matrix, variable.shape), length)
        self.assign_sub(variable, ops.multiply(step, ops.cast(learning_rate, variable.dtype)))


def orthogonal(matrix):
    """A matrix (rows, columns) with the same singular vectors, its singular values near 1.

    By five steps of a polynomial of X^T X, taken for the small square matrices alone: one product
    with X before them and one after. A matrix of zeros stays one.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return ops.transpose(orthogonal(ops.transpose(matrix)))
    x = matrix / (ops.norm(matrix) + 1e-30)
    first, second, third = _POLYNOMIAL
    square = ops.matmul(ops.transpose(x), x)
    unit = ops.eye(matrix.shape[1], dtype=x.dtype)
    product = unit
    for _ in range(_STEPS):
        factor = first * unit + second * square + third * ops.matmul(square, square)
        square = ops.matmul(factor, ops.matmul(square, factor))
        product = ops.matmul(product, factor)
    return ops.matmul(x, product)


OPTIMIZERS = {"adam": keras.optimizers.Adam, "muon": Muon}


def make_optimizer(model, rate, kind="adam", loss_scaling=False, ema=0.0, **options):
    """A built optimiser for the trainable variables of a model.

    `kind` is a key of `OPTIMIZERS`. Its `rate` is a number or a Keras schedule; `loss_scaling`
    scales losses up dynamically, which float16 needs; `ema` is the decay of a moving average of the
    weights, 0 for none.
    """
    if ema:
        options |= {"use_ema": True, "ema_momentum": ema}
    optimizer = OPTIMIZERS[kind](rate, **options)
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
