# SPDX-License-Identifier: MIT
"""Learning rates, averaged weights and epochs of a fixed length, against values by hand."""

import keras
import numpy as np
import pytest
from training.command import make_gan

from segsrgan.training.optimizers import learning_rate
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
