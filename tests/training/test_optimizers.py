# SPDX-License-Identifier: MIT
"""Learning rates, averaged weights and epochs of a fixed length, against values by hand."""

import keras
import numpy as np
import pytest
from training.command import make_gan

from segsrgan.training.optimizers import Muon, learning_rate, orthogonal
from segsrgan.training.run import FixedEpochs


@pytest.mark.parametrize(
    ("schedule", "warm_up", "expected"),
    [
        # In the middle half of 1 - 0.01 is left above 0.01.
        ("cosine", 0, {0: 1, 50: 0.505, 100: 0.01, 150: 0.01}),
        ("cosine", 20, {0: 0.01, 10: 0.505, 20: 1, 100: 0.01}),
        ("constant", 20, {0: 0.01, 10: 0.505, 20: 1, 100: 1}),
    ],
)
def test_a_rate_rises_linearly_and_falls_as_a_cosine(schedule, warm_up, expected):
    rate = learning_rate(1.0, 100, schedule=schedule, warm_up=warm_up)
    assert {update: float(rate(update)) for update in expected} == pytest.approx(expected)


def test_a_rate_that_neither_rises_nor_falls_is_a_number():
    assert learning_rate(0.5, 0) == 0.5


def weights(model):
    return [np.asarray(variable.value) for variable in model.trainable_variables]


@pytest.mark.parametrize("ema", [0.75, 0.0])
def test_averaged_weights_are_those_by_hand_and_the_trained_ones_come_back(ema):
    gan, rng = make_gan(patch_size=8, lambadv=0.0, lrgen=1e-2, ema=ema), np.random.default_rng(0)
    expected, variables = None, gan.generator.trainable_variables
    for _ in range(4):
        gradients = [keras.ops.convert_to_tensor(rng.random(v.shape, "float32")) for v in variables]
        gan.generator_optimizer.apply(gradients, variables)
        new = weights(gan.generator)
        expected = expected or new
        expected = [ema * old + (1 - ema) * w for old, w in zip(expected, new, strict=True)]
    with gan.averaged():
        found = weights(gan.generator)
    for a, b, c in zip(found, expected, new, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        assert ema == 0 or np.abs(a - c).max() > 1e-6
    np.testing.assert_equal(weights(gan.generator), new)


@pytest.mark.parametrize("shape", [(81, 12), (12, 81), (12, 12)])
def test_a_matrix_is_made_orthogonal_but_keeps_its_directions(shape):
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    sizes = np.geomspace(1, 0.02, 12)
    found = np.asarray(orthogonal(keras.ops.convert_to_tensor((u * sizes @ v).astype("float32"))))
    turned = u.T @ found @ v.T
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-3
    assert 0.6 < np.diag(turned).min() and np.diag(turned).max() < 1.3
    assert not np.asarray(orthogonal(keras.ops.zeros(shape))).any()


def test_muon_turns_kernels_by_their_mean_gradient_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 3, 3, 2, 4)), rng.normal(size=(4,))]
    kernel, scale = (keras.Variable(array.astype("float32")) for array in start)
    (adams,) = [keras.Variable(scale)]
    muon, adam = Muon(0.1, beta_1=0.5), keras.optimizers.Adam(0.1, beta_1=0.5)
    mean = 0
    for _ in range(2):
        old = np.asarray(kernel.value)
        gradients = [keras.ops.convert_to_tensor(rng.random(a.shape, "float32")) for a in start]
        muon.apply(gradients, [kernel, scale])
        adam.apply(gradients[1:], [adams])
        gradient = np.asarray(gradients[0])
        mean = (mean + gradient) / 2
        u, _, v = np.linalg.svd(((mean + gradient) / 2).reshape(54, 4), full_matrices=False)
        step = (old - np.asarray(kernel.value)).reshape(54, 4)
        lengths = np.diag(u.T @ step @ v.T) / (0.1 * 0.2 * 54**0.5)
        assert np.abs(lengths - 1).max() < 0.35
    np.testing.assert_array_equal(np.asarray(scale.value), np.asarray(adams.value))


class Numbers:
    """Epochs of 2 and 3 cycles in turn, whose batches are their place."""

    patches, memory = 7, None

    def cycles(self, epoch):
        return 2 + epoch % 2

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        for epoch in epochs:
            for cycle in range(first_cycle if epoch == epochs[0] else 0, self.cycles(epoch)):
                yield from [(epoch, cycle)] * (discriminator_batches + 1)


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_epochs_of_a_fixed_length_leave_nothing_out(steps, extra):
    fixed, each = FixedEpochs(Numbers(), steps), 1 + extra
    whole = list(Numbers().stream(range(1, 12), extra))[: 3 * steps * each]
    assert list(fixed.stream(range(1, 4), extra)) == whole
    resumed = list(fixed.stream(range(2, 4), extra, steps - 1))
    assert resumed == whole[(2 * steps - 1) * each :]
    assert fixed.cycles(5) == steps
