# SPDX-License-Identifier: MIT
"""The two networks of a training, their optimisers and what each of them minimises.

Everything here is `keras.ops`; gradients are taken in `step_tensorflow` or `step_jax`.
"""

import logging
from dataclasses import dataclass, replace

from keras import ops

from segsrgan.errors import UserError, WeightsError
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    load_discriminator,
    load_generator,
)
from segsrgan.networks.architecture import spec_values
from segsrgan.networks.outputs import output_channels
from segsrgan.training.losses import RECONSTRUCTIONS, gradient_penalty
from segsrgan.training.optimizers import averaged, make_adam, state_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objective:
    """What the networks minimise (Delannoy et al. 2020, Eqs. 6 to 10).

    Attributes:
        lambrec: weight of the reconstruction loss.
        lambadv: weight of the adversarial loss; at 0 there is no discriminator.
        lambgp: weight of the gradient penalty.
        reconstruction: the name of one of `segsrgan.training.losses.RECONSTRUCTIONS`.
        nu: of the Charbonnier loss.
        lambda_image, lambda_entropy, lambda_dice: weights of the parts of the balanced loss.
    """

    lambrec: float = 1.0
    lambadv: float = 0.001
    lambgp: float = 100.0
    reconstruction: str = "charbonnier"
    nu: float = 1e-3
    lambda_image: float = 1.0
    lambda_entropy: float = 1.0
    lambda_dice: float = 1.0


class Gan:
    """A generator, perhaps its discriminator, and an optimiser for each.

    Args:
        generator: model of `build_generator`.
        discriminator: model of `build_discriminator`; None if `objective.lambadv` is 0.
        objective: an `Objective`.
        lrgen: learning rate of the generator, a number or a Keras schedule. Adam with beta 0.5
            and 0.999 as in the released code.
        lrdis: learning rate of the discriminator, a number or a Keras schedule.
        loss_scaling: whether losses are scaled up dynamically, which float16 needs.
        clip_gradient: the largest norm of a network's gradients together; None for any.
        ema: decay of the moving average of the generator's weights, 0 for none; see `averaged`.
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
        clip_gradient=None,
        ema=0.0,
        **adam,
    ):
        if (discriminator is None) != (objective.lambadv == 0):
            raise UserError(
                "a discriminator goes with lambadv above 0 and with no other, received "
                f"lambadv {objective.lambadv} and discriminator {discriminator}"
            )
        adam = {"beta_1": 0.5, "beta_2": 0.999, **adam}
        self.generator, self.discriminator, self.objective = generator, discriminator, objective
        self.clip_gradient = clip_gradient
        self.channels = output_channels(generator.spec)
        self.generator_optimizer = make_adam(generator, lrgen, loss_scaling, ema, **adam)
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
            `generator_scaling`; and the same of the discriminator, if there is one. Learning rates
            are not among them, unless they are schedules: they are settings.
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

    def averaged(self):
        """A context in which the generator has its averaged weights, if there are any."""
        return averaged(self.generator, self.generator_optimizer)

    def reconstruction_loss(self, target, output):
        """A scalar: how far an output (b, p, p, p, 2 + classes) is from its target."""
        reconstruct = RECONSTRUCTIONS[self.objective.reconstruction]
        return reconstruct(target, output, self.channels, self.objective)

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
            critic: function from images (b, p, p, p, c) to scores (b, 1); unused where there is no
                discriminator.
            target: (b, p, p, p, 2 + classes).
            output: of the generator, of the same shape.

        Returns:
            `(loss, metrics)`, a scalar and a dict of scalars.
        """
        loss = reconstruction = self.reconstruction_loss(target, output)
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


def gan_of(settings, generator, discriminator, rates):
    """The `Gan` of two networks as the settings of a training say.

    Args:
        settings: a `TrainingSettings`.
        generator: a model.
        discriminator: a model or None.
        rates: learning rates of both, numbers or Keras schedules.
    """
    objective = Objective(
        lambrec=settings.lambrec,
        lambadv=settings.lambadv,
        lambgp=settings.lambgp,
        reconstruction=settings.reconstruction_loss,
        nu=settings.nu,
        lambda_image=settings.lambda_image,
        lambda_entropy=settings.lambda_entropy,
        lambda_dice=settings.lambda_dice,
    )
    return Gan(
        generator,
        discriminator,
        objective,
        *rates,
        loss_scaling=settings.precision == "mixed_float16",
        clip_gradient=settings.clip_gradient,
        ema=settings.ema,
        beta_1=settings.beta_1,
    )


def build_networks(settings, weights, classes, state=None):
    """The networks that a training begins with.

    Args:
        settings: a `TrainingSettings`. What it leaves open is as in the weights, or as in the
            paper.
        weights: file or name of the weights to start from, or None.
        classes: number of mask classes.
        state: the `State` that the training goes on from; its architecture goes before weights.

    Returns:
        `(generator, discriminator)`, models; no discriminator where `settings.lambadv` is 0.

    Raises:
        WeightsError: if the weights are unusable.
        UserError: if they, or the state, are not what the settings say.
    """
    weights = None if state is not None else weights
    generator = _generator(settings, weights, classes, state)
    if not settings.lambadv:
        return generator, None
    return generator, _discriminator(settings, weights, generator.spec, state)


def _generator(settings, weights, classes, state):
    shape = (settings.patch_size,) * 3
    requested = {
        "kernel": settings.kernel_gen,
        "unet": settings.u_net_generator,
        "conditional": settings.is_conditional,
        "residual": settings.is_residual,
        "scaled": settings.scaled_residual,
        "blocks": settings.blocks_gen,
        "growth": settings.growth_gen,
        "head": settings.head_gen,
    }
    requested = {field: value for field, value in requested.items() if value is not None}
    requested["mask_classes"] = classes
    if weights is not None:
        generator = load_generator(weights, patch=shape)
    elif state is not None:
        generator = build_generator(GeneratorSpec(**state.specs["generator"]), shape)
    else:
        initializer = "zeros" if settings.zero_head else "lecun_normal"
        spec = GeneratorSpec(**requested)
        return _with_input(build_generator(spec, shape, head_initializer=initializer), settings)
    for field, value in requested.items():
        if getattr(generator.spec, field) != value:
            raise UserError(
                f"{weights or state.path}: its generator has {field} "
                f"{getattr(generator.spec, field)}, the flags and images say {value}; leave the "
                "flag out, or start without these weights"
            )
    return _with_input(generator, settings)


def _with_input(generator, settings):
    """The generator, whose spec says what input it will be trained with."""
    spec, changed = generator.spec, {}
    if settings.interp not in (None, spec.interp):
        changed["interp"] = settings.interp
    if settings.slice_voxels not in (None, spec.slice_voxels):
        changed["slice_voxels"] = settings.slice_voxels
    elif spec.slice_voxels and settings.low_res != settings.low_res_upper:
        changed["slice_voxels"] = 0  # images of many slice distances
    for name, value in changed.items():
        logger.info("the generator gets used to --%s %s", name, value)
    generator.spec = replace(spec, **changed)
    return generator


def _discriminator(settings, weights, spec, state):
    kernel = settings.kernel_dis
    if kernel is None and state is not None:
        kernel = state.specs.get("discriminator", {}).get("kernel")
    requested = matching(spec, settings.patch_size, kernel or DiscriminatorSpec.kernel)
    if requested.depth != 5:
        logger.info(
            "patches of %d^3: the discriminator has %d levels instead of 5, so that its answer "
            "is still one number",
            settings.patch_size,
            requested.depth,
        )
    if weights is not None:
        try:
            discriminator = load_discriminator(weights)
        except WeightsError as error:
            logger.info("a new discriminator is trained: %s", error)
            return build_discriminator(requested)
        if settings.kernel_dis is None:
            requested = replace(requested, kernel=discriminator.spec.kernel)
        if discriminator.spec == requested:
            return discriminator
        logger.info(
            "%s: its discriminator does not fit %s; a new one is trained", weights, requested
        )
    return build_discriminator(requested)


def _map(like, resolution):
    """A map (b, p, p, p, 1) of (b,) numbers."""
    shape = (-1, 1, 1, 1, 1)
    return ops.reshape(resolution, shape) * ops.ones_like(like[..., :1])
