# SPDX-License-Identifier: MIT
"""What the two networks minimise, against values worked out by hand."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import ops
from training.command import make_gan

from segsrgan.networks import GeneratorSpec
from segsrgan.training import losses
from segsrgan.training.cases import UNKNOWN
from segsrgan.training.dataset import Batch
from segsrgan.training.optimizers import clipped

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="gradients are taken with TensorFlow here"
)


def linear(weights):
    """The critic `sum(weights * image)`, whose gradient is `weights` everywhere."""
    return lambda images: ops.sum(images * weights, axis=(1, 2, 3, 4))[:, None]


def gradient(critic, images):
    from segsrgan.training.step_tensorflow import _gradient

    return _gradient(critic, ops.convert_to_tensor(images))


def images(value):
    return np.full((2, 16, 16, 16, 2), value, "float32")


def test_the_discriminators_loss_of_a_linear_critic():
    weights = np.zeros((16, 16, 16, 2), "float32")
    weights[0, 0, 0, 0], weights[5, 5, 5, 1] = 3, 4  # norm 5
    seen = []

    def record(critic, between):
        seen.append(np.asarray(between))
        return gradient(critic, between)

    epsilon = np.array([0.25, 1.0], "float32")
    loss, metrics = make_gan(lambgp=10.0).discriminator_loss(
        linear(weights), record, images(2.0), images(0.5), epsilon
    )
    # real scores 2*(3+4), fake ones 0.5*(3+4); penalty (5-1)^2
    assert float(metrics["wasserstein_distance"]) == pytest.approx(14 - 3.5)
    assert float(metrics["gradient_penalty"]) == pytest.approx(16, rel=1e-5)
    assert float(loss) == pytest.approx(10 * 16 - 10.5, rel=1e-5)
    # Between real and fake there is one epsilon for each sample.
    np.testing.assert_allclose(seen[0][0], 0.25 * 2 + 0.75 * 0.5)
    np.testing.assert_allclose(seen[0][1], 2.0)


def test_the_gradient_penalty_is_the_mean_of_samples():
    gradient = np.zeros((3, 2, 1, 1, 2), "float32")
    gradient[0, 0, 0, 0] = [3, 4]  # norm 5: 16
    gradient[1, 1, 0, 0, 0] = 1  # norm 1: 0; the third has norm 0: 1
    assert float(losses.gradient_penalty(gradient)) == pytest.approx((16 + 0 + 1) / 3)


def test_the_generators_loss_is_weighted_as_the_paper_says():
    model = make_gan(lambrec=2.0, lambadv=0.5)
    loss, metrics = model.generator_loss(linear(np.float32(1.0)), images(1.0), images(1.0))
    score = 16**3 * 2
    assert float(metrics["reconstruction_loss"]) == pytest.approx(1e-3)
    assert float(metrics["adversarial_loss"]) == pytest.approx(-score)
    assert float(loss) == pytest.approx(2e-3 - 0.5 * score, rel=1e-6)


def column(*values):
    """One sample and channel, `(1, n, 1, 1, 1)`."""
    return np.array(values, "float32").reshape(1, -1, 1, 1, 1)


@pytest.mark.parametrize(
    ("loss", "target", "prediction", "expected"),
    [
        # sqrt(9+16), sqrt(16+16)
        (partial(losses.charbonnier, nu=4.0), (3, 0), (0, 4), (5.0 + np.sqrt(32.0)) / 2),
        (losses.soft_dice_loss, (1, 0), (0.5, 0.5), 1 - (2 * 0.5 + 1) / (1 + 1 + 1)),
        (losses.binary_cross_entropy, (1, 0), (0.25, 0.5), -(np.log(0.25) + np.log(0.5)) / 2),
        (losses.binary_cross_entropy, (1,), (0,), -np.log(1e-6)),  # a sure error is finite
    ],
)
def test_losses_by_hand(loss, target, prediction, expected):
    found = loss(column(*target), column(*prediction))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_soft_dice_averages_over_samples_and_channels():
    target = np.zeros((2, 1, 1, 1, 2), "float32")
    target[0, ..., 0] = 1
    # Sample 0, channel 0 is missed: 1 - 1/2; the three others are rightly empty: 0.
    assert float(losses.soft_dice_loss(target, np.zeros_like(target))) == pytest.approx(0.5 / 4)


BALANCED = {"lambadv": 0.0, "reconstruction_loss": "balanced"}
WEIGHTS = {"lambda_image": 2.0, "lambda_entropy": 3.0, "lambda_dice": 5.0, "nu": 0.1}
MISSED = 1 - 1 / (16**3 + 1)  # soft Dice loss
HALF = 1 - (16**3 + 1) / (1.5 * 16**3 + 1)


@pytest.mark.parametrize(
    ("name", "weights", "heads", "last", "expected"),
    [
        ("charbonnier", {}, (), 0, (1e-3 + np.sqrt(1 + 1e-6)) / 2),
        ("charbonnier", {"nu": 1.0}, (), 0, (1 + np.sqrt(2)) / 2),
        ("dice", {}, (), 0, 1e-3 + MISSED),
        ("balanced", WEIGHTS, (), 0.5, 2 * 0.1 + 3 * np.log(2) + 5 * HALF),
        ("charbonnier", {}, ("brain",), 0, (2e-3 + MISSED) / 3),
    ],
)
def test_reconstruction_losses_by_hand(name, weights, heads, last, expected, brain):
    """Target and output are 1 but for the last channel of the output."""
    spec = GeneratorSpec(2, blocks=1, heads=heads)
    gan = make_gan(spec, lambadv=0.0, reconstruction_loss=name, **weights)
    target = np.ones((2, 16, 16, 16, 2 + len(heads)), "float32")
    output = target.copy()
    output[..., -1] = last
    assert float(gan.reconstruction_loss(target, output)) == pytest.approx(expected)


def test_balanced_measures_the_image_in_tenths_of_its_deviation():
    gan = make_gan(lambda_dice=0.0, lambda_entropy=0.0, **BALANCED, nu=0.5)
    target = images(0.0)
    target[..., ::2, 0] = 0.6  # deviation 0.3
    target[1] /= 3
    output = target.copy()
    output[0, ..., 0] += 0.06
    output[1, ..., 0] += 0.02
    assert float(gan.reconstruction_loss(target, output)) == pytest.approx((4 + 0.25) ** 0.5)
    nothing = images(0.0)
    assert float(gan.reconstruction_loss(nothing, nothing + 1)) == pytest.approx(500, rel=1e-3)


@pytest.mark.parametrize("name", losses.RECONSTRUCTIONS)
def test_a_label_that_nobody_drew_counts_in_no_loss(name):
    gan = make_gan(GeneratorSpec(2, blocks=1), lambadv=0.0, reconstruction_loss=name)
    target = images(1.0)
    target[1, ..., 1] = UNKNOWN
    output = np.full_like(target, 0.5)
    expected, other = float(gan.reconstruction_loss(target, output)), output.copy()
    other[1, ..., 1] = 0.9
    assert float(gan.reconstruction_loss(target, other)) == pytest.approx(expected, rel=1e-6)
    other[0, ..., 1] = 0.9
    assert float(gan.reconstruction_loss(target, other)) < expected - 0.01


def test_a_conditional_generator_and_critic_see_the_resolution():
    model = make_gan(GeneratorSpec(2, conditional=True, blocks=1))
    lr, map_ = model.generator_inputs(images(0.0)[..., :1], np.array([3.0, 4.0], "float32"))
    assert map_.shape == lr.shape
    np.testing.assert_array_equal(np.unique(map_[1]), 4.0)
    inputs = model.discriminator_inputs(images(0.0), np.array([3.0, 4.0], "float32"))
    assert inputs.shape[-1] == 3
    np.testing.assert_array_equal(np.unique(inputs[0, ..., 2]), 3.0)


@pytest.mark.parametrize(
    ("second", "how", "expected", "norm"),
    [
        (4.0, {}, [3, 4], 5),
        (4.0, {"limit": 5.0}, [3, 4], 5),
        (4.0, {"limit": 1.0}, [0.6, 0.8], 5),
        (4.0, {"limit": 1.0, "scale": 2.0}, [1.2, 1.6], 2.5),
        (np.nan, {"limit": 1.0}, [0, 0], np.nan),  # so that no weight is lost
        (np.inf, {}, [0, 0], np.inf),
        (np.inf, {"scale": 2.0}, [3, np.inf], np.inf),  # the optimiser sees it, and waits
    ],
)
def test_gradients_are_clipped_together_and_no_weight_is_lost_to_a_nan(second, how, expected, norm):
    gradients = [np.array([3.0], "float32"), np.array([[second]], "float32")]
    found, length = clipped(gradients, **how)
    assert [float(np.squeeze(g)) for g in found] == pytest.approx(expected)
    assert float(length) == pytest.approx(norm, nan_ok=True)


def random_batch():
    rng = np.random.default_rng(0)
    return Batch(
        rng.random((2, 16, 16, 16, 1), dtype="float32"),
        rng.random((2, 16, 16, 16, 2), dtype="float32"),
        np.array([3.0, 4.0], "float32"),
        rng.random(2, dtype="float32"),
    )


def update(step, model, name):
    """The losses of an update, and how far it moves the weights of each network."""
    networks = (model.generator, model.discriminator)
    before = [network.get_weights() for network in networks]
    values = getattr(step, name)(random_batch())
    moves = [
        max(np.abs(a - b).max() for a, b in zip(old, network.get_weights(), strict=True))
        for old, network in zip(before, networks, strict=True)
    ]
    return {key: float(value) for key, value in values.items()}, moves


def test_updates_in_bfloat16_are_those_in_float32_and_each_is_of_its_own_network():
    from segsrgan.training.step_tensorflow import Step

    keras.utils.set_random_seed(0)
    plain, batch = make_gan(lambgp=1.0), random_batch()
    fake = plain.generator(batch.lr)
    _, expected = plain.discriminator_loss(
        plain.discriminator, gradient, batch.target, fake, batch.epsilon
    )
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = make_gan(lambgp=1.0, lrdis=1e-3)
    assert {v.dtype for v in model.generator.weights + model.discriminator.weights} == {"float32"}
    assert model.generator.layers[1].compute_dtype == "bfloat16"
    model.generator.set_weights(plain.generator.get_weights())
    model.discriminator.set_weights(plain.discriminator.get_weights())
    step = Step(model)
    first, (generator, discriminator) = update(step, model, "discriminator")
    assert generator == 0 and discriminator > 1e-5
    # The penalty is the square of a small difference, whose slopes are 2 % from each other.
    root = np.sqrt(float(expected["gradient_penalty"]))
    assert np.sqrt(first["gradient_penalty"]) == pytest.approx(root, abs=0.02)
    plain.discriminator.set_weights(model.discriminator.get_weights())
    loss, _ = plain.generator_loss(plain.discriminator, batch.target, fake)
    values, (generator, discriminator) = update(step, model, "generator")
    assert generator > 1e-5 and discriminator == 0
    assert values["generator_loss"] == pytest.approx(float(loss), rel=0.05)
    assert values["generator_loss"] != float(loss)
    last = [step.discriminator(batch) for _ in range(14)][-1]  # the critic learns
    assert float(last["wasserstein_distance"]) > first["wasserstein_distance"] + 0.05


def test_float16_scales_the_loss_and_waits_for_a_scale_that_fits():
    from segsrgan.training.step_tensorflow import Step

    keras.config.set_dtype_policy("mixed_float16")
    model = make_gan(precision="mixed_float16")
    optimizer = model.generator_optimizer
    metrics, (moved, _) = update(Step(model), model, "generator")
    lowered = float(optimizer.dynamic_scale) < optimizer.initial_scale
    assert np.isfinite(metrics["generator_loss"])
    assert (moved > 1e-5) != lowered
    assert np.isfinite(metrics["generator_gradient"]) != lowered
