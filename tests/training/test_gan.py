# SPDX-License-Identifier: MIT
"""What the two networks minimise, against values worked out by hand."""

import keras
import numpy as np
import pytest
from keras import ops
from training.command import make_gan, make_settings

from segsrgan.networks import DiscriminatorSpec, GeneratorSpec
from segsrgan.networks.outputs import HEADS, Head, output_channels
from segsrgan.training.dataset import Batch
from segsrgan.training.losses import RECONSTRUCTIONS
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
    loss, metrics = make_gan(lambgp=10.0).discriminator_loss(
        linear(weights), gradient, images(2.0), images(0.5), np.array([0.3, 0.8], "float32")
    )
    # real scores 2*(3+4), fake ones 0.5*(3+4); penalty (5-1)^2
    assert float(metrics["wasserstein_distance"]) == pytest.approx(14 - 3.5)
    assert float(metrics["gradient_penalty"]) == pytest.approx(16, rel=1e-5)
    assert float(loss) == pytest.approx(10 * 16 - 10.5, rel=1e-5)


def test_the_penalty_is_taken_between_real_and_fake_at_one_epsilon_per_sample():
    seen = []

    def record(critic, between):
        seen.append(np.asarray(between))
        return ops.ones_like(between)

    epsilon = np.array([0.25, 1.0], "float32")
    make_gan().discriminator_loss(linear(0.0), record, images(2.0), images(0.0), epsilon)
    np.testing.assert_allclose(seen[0][0], 0.5)
    np.testing.assert_allclose(seen[0][1], 2.0)


def test_the_generators_loss_is_weighted_as_the_paper_says():
    model = make_gan(lambrec=2.0, lambadv=0.5)
    loss, metrics = model.generator_loss(linear(np.float32(1.0)), images(1.0), images(1.0))
    score = 16**3 * 2
    assert float(metrics["reconstruction_loss"]) == pytest.approx(1e-3)
    assert float(metrics["adversarial_loss"]) == pytest.approx(-score)
    assert float(loss) == pytest.approx(2e-3 - 0.5 * score, rel=1e-6)


def reconstruction(name, target, output, **weights):
    settings = make_settings(reconstruction_loss=name, **weights)
    loss = RECONSTRUCTIONS[name](target, output, output_channels(GeneratorSpec(2)), settings)
    return pytest.approx(float(loss))


def test_reconstruction_by_charbonnier_covers_image_and_label_alike():
    target, output = images(0.0), images(0.0)
    output[..., 1] = 1
    assert reconstruction("charbonnier", target, output) == (1e-3 + np.sqrt(1 + 1e-6)) / 2
    assert reconstruction("charbonnier", target, output, nu=1.0) == (1 + np.sqrt(2)) / 2


def test_reconstruction_by_dice_takes_charbonnier_for_the_image_alone():
    target, output = images(1.0), images(1.0)
    output[..., 1] = 0  # missed everywhere: 1 - 1/(n + 1)
    assert reconstruction("dice", target, output) == 1e-3 + 1 - 1 / (16**3 + 1)


def test_the_balanced_reconstruction_weighs_its_three_parts():
    target, output = images(1.0), images(1.0)
    output[..., 1] = 0.5
    entropy, dice = np.log(2), 1 - (16**3 + 1) / (1.5 * 16**3 + 1)
    weights = {"lambda_image": 2.0, "lambda_entropy": 3.0, "lambda_dice": 5.0, "nu": 0.1}
    assert reconstruction("balanced", target, output, **weights) == 0.2 + 3 * entropy + 5 * dice


def test_a_head_more_is_reconstructed_by_its_own_loss(monkeypatch):
    brain = Head("brain", "sigmoid", lambda spec: 1, "Brain_image", "dice", "Brain", 1)
    monkeypatch.setattr("segsrgan.networks.outputs.HEADS", (*HEADS, brain))
    target = np.ones((2, 16, 16, 16, 3), "float32")
    output = target.copy()
    output[..., 2] = 0
    missed = 1 - 1 / (16**3 + 1)
    assert reconstruction("charbonnier", target, output) == (2e-3 + missed) / 3


def test_without_the_adversarial_term_there_is_no_discriminator():
    assert set(make_gan(lambadv=0.0).state()) == {"generator", "generator_optimizer"}


def test_a_conditional_generator_and_critic_see_the_resolution():
    model = make_gan(GeneratorSpec(2, conditional=True, blocks=1))
    lr, map_ = model.generator_inputs(images(0.0)[..., :1], np.array([3.0, 4.0], "float32"))
    assert map_.shape == lr.shape
    np.testing.assert_array_equal(np.unique(map_[1]), 4.0)
    inputs = model.discriminator_inputs(images(0.0), np.array([3.0, 4.0], "float32"))
    assert inputs.shape[-1] == 3
    np.testing.assert_array_equal(np.unique(inputs[0, ..., 2]), 3.0)
    score = model.discriminator(inputs)
    other = model.discriminator(ops.concatenate([inputs[..., :2], inputs[..., 2:] + 3], -1))
    assert np.abs(np.asarray(score) - np.asarray(other)).max() > 1e-4


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


def random_batch(seed=0):
    rng = np.random.default_rng(seed)
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
    losses = getattr(step, name)(random_batch())
    moves = [
        max(np.abs(a - b).max() for a, b in zip(old, network.get_weights(), strict=True))
        for old, network in zip(before, networks, strict=True)
    ]
    return {key: float(value) for key, value in losses.items()}, moves


def test_each_update_changes_its_own_network_alone_and_the_critic_learns():
    from segsrgan.training.step_tensorflow import Step

    keras.utils.set_random_seed(0)
    model = make_gan(lambgp=1.0, lrdis=1e-3)
    step = Step(model)
    _, (generator, discriminator) = update(step, model, "generator")
    assert generator > 0 and discriminator == 0
    first, (generator, discriminator) = update(step, model, "discriminator")
    assert generator == 0 and discriminator > 0
    last = [step.discriminator(random_batch()) for _ in range(14)][-1]
    assert float(last["wasserstein_distance"]) > first["wasserstein_distance"] + 0.05


@pytest.fixture
def policy():
    """Sets a precision for the networks that are built in a test."""
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def test_bfloat16_computes_the_same_losses_in_half_the_bits(policy):
    from segsrgan.training.step_tensorflow import Step

    plain, batch = make_gan(), random_batch()
    fake = plain.generator(batch.lr)
    _, expected = plain.discriminator_loss(
        plain.discriminator, gradient, batch.target, fake, batch.epsilon
    )
    policy("mixed_bfloat16")
    model = make_gan()
    assert {v.dtype for v in model.generator.weights + model.discriminator.weights} == {"float32"}
    assert model.generator.layers[1].compute_dtype == "bfloat16"
    model.generator.set_weights(plain.generator.get_weights())
    model.discriminator.set_weights(plain.discriminator.get_weights())
    step = Step(model)
    values, (_, moved) = update(step, model, "discriminator")
    assert moved > 1e-5
    # The penalty is the square of a small difference: 2 % of the slope are 14 % of it.
    penalty = float(expected["gradient_penalty"])
    assert values["gradient_penalty"] == pytest.approx(penalty, rel=0.15)
    plain.discriminator.set_weights(model.discriminator.get_weights())
    loss, _ = plain.generator_loss(plain.discriminator, batch.target, fake)
    values, (moved, _) = update(step, model, "generator")
    assert moved > 1e-5
    assert values["generator_loss"] == pytest.approx(float(loss), rel=0.05)
    assert values["generator_loss"] != float(loss)


def test_float16_scales_the_loss_and_waits_for_a_scale_that_fits(policy):
    from segsrgan.training.step_tensorflow import Step

    policy("mixed_float16")
    model = make_gan(lambadv=0.0, precision="mixed_float16")
    before, optimizer = model.generator.get_weights(), model.generator_optimizer
    metrics = Step(model).generator(random_batch())
    pairs = zip(before, model.generator.get_weights(), strict=True)
    moved = max(np.abs(a - b).max() for a, b in pairs) > 1e-5
    lowered = float(optimizer.dynamic_scale) < optimizer.initial_scale
    assert np.isfinite(float(metrics["generator_loss"]))
    assert moved != lowered
    assert np.isfinite(float(metrics["generator_gradient"])) == moved


def test_the_discriminators_depth_follows_the_patch():
    assert [DiscriminatorSpec(patch=p).depth for p in (16, 32, 64, 128)] == [3, 4, 5, 6]
