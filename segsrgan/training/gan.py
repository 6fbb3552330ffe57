# SPDX-License-Identifier: MIT
"""The two networks of a training, their optimisers and what each of them minimises.

Everything here is `keras.ops`; gradients are taken in `step_tensorflow` or `step_jax`.
"""

import contextlib
import logging
from dataclasses import asdict, replace

import numpy as np
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
from segsrgan.networks.architecture import default_blocks, spec_values
from segsrgan.networks.outputs import output_channels
from segsrgan.training.losses import RECONSTRUCTIONS, gradient_penalty
from segsrgan.training.optimizers import inner, make_optimizer, state_of

logger = logging.getLogger(__name__)


class Gan:
    """A generator, perhaps its discriminator, and an optimiser for each.

    Args:
        generator: model of `build_generator`.
        discriminator: model of `build_discriminator`, or None.
        settings: a `TrainingSettings`: the losses and their weights (Delannoy et al. 2020, Eqs. 6
            to 10), the precision, clipped gradients, averaged weights.
        rates: learning rates of both, numbers or Keras schedules; None: as the settings say.
        **adam: further arguments of both optimisers.
    """

    def __init__(self, generator, discriminator, settings, rates=None, **adam):
        self.generator, self.discriminator, self.settings = generator, discriminator, settings
        self.channels = output_channels(generator.spec)
        self.clip_gradient = settings.clip_gradient
        # float16 needs losses scaled up dynamically, with which a gradient overflows now and then.
        self.scaled = settings.precision == "mixed_float16"
        rates = rates or (settings.lrgen, settings.lrdis)
        adam = {"beta_1": settings.beta_1, "beta_2": 0.999, **adam}
        self.generator_optimizer = make_optimizer(
            generator, rates[0], settings.optimizer, self.scaled, settings.ema, **adam
        )
        self.discriminator_optimizer = None
        if discriminator is not None:
            self.discriminator_optimizer = make_optimizer(
                discriminator, rates[1], loss_scaling=self.scaled, **adam
            )

    def state(self):
        """All variables that a training changes, by meaning; see `state_of`."""
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

    @contextlib.contextmanager
    def averaged(self):
        """A context in which the generator has its averaged weights, if there are any."""
        optimizer, variables = inner(self.generator_optimizer), self.generator.trainable_variables
        if not optimizer.use_ema:
            yield
            return
        kept = [np.asarray(variable.value) for variable in variables]
        optimizer.finalize_variable_values(variables)
        try:
            yield
        finally:
            for variable, value in zip(variables, kept, strict=True):
                variable.assign(value)

    def reconstruction_loss(self, target, output):
        """A scalar: how far an output (b, p, p, p, 2 + classes) is from its target."""
        reconstruct = RECONSTRUCTIONS[self.settings.reconstruction_loss]
        return reconstruct(target, output, self.channels, self.settings)

    def generator_inputs(self, lr, resolution):
        """What the generator is called on: `lr` (b, p, p, p, 1), perhaps with the (b,) mm."""
        return [lr, _map(lr, resolution)] if self.generator.spec.conditional else lr

    def discriminator_inputs(self, images, resolution):
        """What the discriminator is called on: (b, p, p, p, 2 + classes), perhaps with the mm."""
        if not self.discriminator.spec.conditional:
            return images
        return ops.concatenate([images, _map(images, resolution)], axis=-1)

    def discriminator_loss(self, critic, gradient, real, fake, epsilon):
        """The critic's loss, minus Eq. 8: `(loss, metrics)`, a scalar and a dict of scalars.

        `critic` makes of images (b, p, p, p, c), `real` or `fake`, scores (b, 1); `gradient` of
        critic and images the gradient of the summed scores; `epsilon` (b,) is in [0, 1].
        """
        epsilon = ops.reshape(epsilon, (-1, 1, 1, 1, 1))
        between = epsilon * real + (1 - epsilon) * fake
        penalty = gradient_penalty(gradient(critic, between))
        distance = ops.mean(critic(real)) - ops.mean(critic(fake))
        loss = self.settings.lambgp * penalty - distance
        return loss, {
            "discriminator_loss": loss,
            "wasserstein_distance": distance,
            "gradient_penalty": penalty,
        }

    def generator_loss(self, critic, target, output):
        """The generator's loss, Eq. 10: `(loss, metrics)`, a scalar and a dict of scalars.

        `critic` makes of the `output` (b, p, p, p, 2 + classes) scores (b, 1), where there is a
        discriminator.
        """
        reconstruction = self.reconstruction_loss(target, output)
        metrics = {"reconstruction_loss": reconstruction}
        loss = self.settings.lambrec * reconstruction
        if self.discriminator is not None:
            metrics["adversarial_loss"] = adversarial = -ops.mean(critic(output))
            loss = loss + self.settings.lambadv * adversarial
        return loss, {"generator_loss": loss, **metrics}


def matching(spec, patch, kernel=32):
    """The `DiscriminatorSpec` for the patches of a generator."""
    return DiscriminatorSpec(kernel, spec.conditional, spec.mask_classes, patch, spec.heads)


def build_networks(settings, weights, classes, state=None):
    """The networks that a training begins with: a generator, and a discriminator or None.

    What the settings leave open is as in the weights, a file or name, as in the `State` that the
    training goes on from in their place, or as in the paper. A `UserError` says where weights or
    state are not what the settings say.
    """
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
        "levels": settings.levels_gen,
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
    found = asdict(generator.spec)
    found["blocks"] = found["blocks"] or default_blocks(generator.spec)
    for field, value in requested.items():
        if found[field] != value:
            raise UserError(
                f"{weights or state.path}: its generator has {field} {found[field]}, the flags "
                f"and images say {value}; leave the flag out, or start without these weights"
            )
    return _with_input(generator, settings)


def _with_input(generator, settings):
    """The generator, whose spec says what input it will be trained with."""
    spec = generator.spec
    changed = {"interp": settings.interp, "slice_voxels": settings.slice_voxels}
    if settings.slice_voxels is None and settings.low_res != settings.low_res_upper:
        changed["slice_voxels"] = 0  # images of many slice distances
    changed = {n: v for n, v in changed.items() if v not in (None, getattr(spec, n))}
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
    if weights is None:
        return build_discriminator(requested)
    try:
        discriminator = load_discriminator(weights)
    except WeightsError as error:
        logger.info("a new discriminator is trained: %s", error)
        return build_discriminator(requested)
    if settings.kernel_dis is None:
        requested = replace(requested, kernel=discriminator.spec.kernel)
    if discriminator.spec == requested:
        return discriminator
    logger.info("%s: its discriminator does not fit %s; a new one is trained", weights, requested)
    return build_discriminator(requested)


def _map(like, resolution):
    """A map (b, p, p, p, 1) of (b,) numbers."""
    shape = (-1, 1, 1, 1, 1)
    return ops.reshape(resolution, shape) * ops.ones_like(like[..., :1])
