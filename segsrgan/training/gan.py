# SPDX-License-Identifier: MIT
"""The two networks of a training, their optimisers and what each of them minimises.

Everything here is `keras.ops`; gradients are taken in `step_tensorflow` or `step_jax`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
)
from segsrgan.networks.architecture import spec_values
from segsrgan.training.losses import charbonnier, gradient_penalty, soft_dice_loss
from segsrgan.training.optimizers import make_adam, state_of


def charbonnier_of_all(target, output):
    """Charbonnier loss of the image, the label and the mask classes alike (Eqs. 6 and 7)."""
    return charbonnier(target, output)


def charbonnier_and_dice(target, output):
    """Charbonnier loss of the image plus the soft Dice loss of the label and mask classes."""
    return charbonnier(target[..., :1], output[..., :1]) + soft_dice_loss(
        target[..., 1:], output[..., 1:]
    )


RECONSTRUCTION = {"charbonnier": charbonnier_of_all, "dice": charbonnier_and_dice}


@dataclass(frozen=True)
class Objective:
    """What the networks minimise (Delannoy et al. 2020, Eqs. 6 to 10).

    Attributes:
        lambrec: weight of the reconstruction loss.
        lambadv: weight of the adversarial loss; at 0 there is no discriminator.
        lambgp: weight of the gradient penalty.
        reconstruction: function `(target, output) -> scalar` of `(b, p, p, p, 2 + classes)`.
    """

    lambrec: float = 1.0
    lambadv: float = 0.001
    lambgp: float = 100.0
    reconstruction: Callable = charbonnier_of_all


class Gan:
    """A generator, perhaps its discriminator, and an optimiser for each.

    Args:
        generator: model of `build_generator`.
        discriminator: model of `build_discriminator`; None if `objective.lambadv` is 0.
        objective: an `Objective`.
        lrgen: learning rate of the generator, a number or a Keras schedule. Adam with beta 0.5
            and 0.999 as in the released code.
        lrdis: of the discriminator, likewise.
        loss_scaling: whether losses are scaled up dynamically, which float16 needs.
        **adam: further arguments of both optimisers.
    """

    def __init__(
        self,
        generator,
        discriminator,
        objective,
        lrgen=1e-4,
        lrdis=1e-4,
        loss_scaling=False,
        **adam,
    ):
        if (discriminator is None) != (objective.lambadv == 0):
            raise ValueError(
                "a discriminator goes with lambadv above 0 and with no other, received "
                f"lambadv {objective.lambadv} and discriminator {discriminator}"
            )
        adam = {"beta_1": 0.5, "beta_2": 0.999, **adam}
        self.generator, self.discriminator, self.objective = generator, discriminator, objective
        self.generator_optimizer = make_adam(generator, lrgen, loss_scaling, **adam)
        self.discriminator_optimizer = None
        if discriminator is not None:
            self.discriminator_optimizer = make_adam(discriminator, lrdis, loss_scaling, **adam)

    @classmethod
    def build(cls, generator, discriminator=None, patch=64, objective=None, **options):
        """Fresh networks of two specs; `discriminator` is ignored where lambadv is 0.

        Args:
            generator: a `GeneratorSpec`.
            discriminator: a `DiscriminatorSpec`; one that fits the generator when None.
            patch: edge in voxels.
            objective: an `Objective`, the paper's when None.
            **options: see `Gan`.
        """
        objective = objective or Objective()
        model = build_generator(generator or GeneratorSpec(), (patch,) * 3)
        critic = None
        if objective.lambadv:
            critic = build_discriminator(discriminator or matching(model.spec, patch))
        return cls(model, critic, objective, **options)

    def state(self):
        """All variables that a training changes, by meaning.

        Returns:
            dict of lists of Keras variables: `generator`, `generator_optimizer`, with loss scaling
            `generator_scaling`; likewise of the discriminator, if there is one. Learning rates are
            not among them, unless they are schedules: they are settings.
        """
        result = state_of("generator", self.generator, self.generator_optimizer)
        if self.discriminator is not None:
            result |= state_of("discriminator", self.discriminator, self.discriminator_optimizer)
        return result

    def specs(self):
        """The specs of the networks there are, as dicts: `{"generator": {...}, ...}`."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            name: spec_values(model.spec) for name, model in networks.items() if model is not None
        }

    @property
    def scaled(self):
        """Whether losses are scaled dynamically, so that a gradient may overflow now and then."""
        return hasattr(self.generator_optimizer, "dynamic_scale")

    def generator_inputs(self, lr, resolution):
        """What the generator is called on: `lr` (b, p, p, p, 1), with a map of mm if conditional.

        Args:
            lr: (b, p, p, p, 1).
            resolution: (b,) mm.
        """
        return [lr, _map(lr, resolution)] if self.generator.spec.conditional else lr

    def discriminator_inputs(self, images, resolution):
        """What the discriminator is called on: `images` (b, p, p, p, 2 + classes), and the map."""
        if not self.discriminator.spec.conditional:
            return images
        return ops.concatenate([images, _map(images, resolution)], axis=-1)

    def discriminator_loss(self, critic, gradient, real, fake, epsilon):
        """The critic's loss, minus Eq. 8.

        Args:
            critic: function from images (b, p, p, p, c) to scores (b, 1).
            gradient: function `(critic, images)` to the gradient of the summed scores with
                respect to the images.
            real: images (b, p, p, p, c) of the targets.
            fake: those of the generator.
            epsilon: (b,) in [0, 1], one number for each sample.

        Returns:
            `(loss, metrics)`, a scalar and a dict of scalars.
        """
        epsilon = ops.reshape(epsilon, (-1, 1, 1, 1, 1))
        between = epsilon * real + (1 - epsilon) * fake
        penalty = gradient_penalty(gradient(critic, between))
        distance = ops.mean(critic(real)) - ops.mean(critic(fake))
        loss = self.objective.lambgp * penalty - distance
        return loss, {
            "discriminator_loss": loss,
            "wasserstein_distance": distance,
            "gradient_penalty": penalty,
        }

    def generator_loss(self, critic, target, output):
        """The generator's loss, Eq. 10.

        Args:
            critic: as above, unused where there is no discriminator.
            target: (b, p, p, p, 2 + classes).
            output: of the generator, likewise.

        Returns:
            `(loss, metrics)` likewise.
        """
        loss = reconstruction = self.objective.reconstruction(target, output)
        metrics = {"reconstruction_loss": reconstruction}
        if self.discriminator is not None:
            adversarial = -ops.mean(critic(output))
            metrics["adversarial_loss"] = adversarial
            loss = self.objective.lambrec * loss + self.objective.lambadv * adversarial
        else:
            loss = self.objective.lambrec * loss
        return loss, {"generator_loss": loss, **metrics}


def matching(spec, patch, kernel=32):
    """The `DiscriminatorSpec` for the patches of a generator."""
    return DiscriminatorSpec(kernel, spec.conditional, spec.mask_classes, patch, spec.heads)


def _map(like, resolution):
    """A map (b, p, p, p, 1) of (b,) numbers."""
    shape = (-1, 1, 1, 1, 1)
    return ops.reshape(resolution, shape) * ops.ones_like(like[..., :1])
