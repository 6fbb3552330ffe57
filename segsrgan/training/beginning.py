# SPDX-License-Identifier: MIT
"""The networks that a training begins with."""

import logging
from dataclasses import replace

from segsrgan.errors import WeightsError
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    load_discriminator,
    load_generator,
)
from segsrgan.training.gan import RECONSTRUCTION, Gan, Objective, matching
from segsrgan.training.loop import snapshot_path

logger = logging.getLogger(__name__)


def build_networks(settings, classes, state=None):
    """The networks of a training and their optimisers, a `Gan`.

    Args:
        settings: a `Settings`. What it does not say is as in its weights, or as in the paper.
        classes: number of mask classes.
        state: the `State` that the training goes on from; its architecture goes before weights.

    Raises:
        WeightsError: if the weights are unusable.
        ValueError: if they, or the state, are not what the settings say.
    """
    objective = Objective(
        settings.lambrec,
        settings.lambadv,
        settings.lambgp,
        RECONSTRUCTION[settings.reconstruction_loss],
    )
    weights = None if state is not None else _weights(settings)
    generator = _generator(settings, weights, classes, state)
    discriminator = None
    if settings.lambadv:
        discriminator = _discriminator(settings, weights, generator.spec, state)
    return Gan(
        generator,
        discriminator,
        objective,
        settings.lrgen,
        settings.lrdis,
        loss_scaling=settings.precision == "mixed_float16",
    )


def _weights(settings):
    """The weights file to start from, or None."""
    if settings.weights is not None or settings.init_epoch == 1:
        return settings.weights
    path = snapshot_path(settings.snapshot_folder, settings.init_epoch - 1)
    if not path.is_file():
        raise ValueError(
            f"--init_epoch {settings.init_epoch} needs --weights, or the snapshot {path}"
        )
    return path


def _generator(settings, weights, classes, state):
    shape = (settings.patch_size,) * 3
    wished = {
        "kernel": settings.kernel_gen,
        "unet": settings.u_net_generator,
        "conditional": settings.is_conditional,
        "residual": settings.is_residual,
        "scaled": settings.scaled_residual,
        "blocks": settings.blocks_gen,
        "growth": settings.growth_gen,
        "head": settings.head_gen,
    }
    wished = {field: value for field, value in wished.items() if value is not None}
    wished["mask_classes"] = classes
    if weights is not None:
        generator = load_generator(weights, patch=shape)
    elif state is not None:
        generator = build_generator(GeneratorSpec(**state.specs["generator"]), shape)
    else:
        return _told(build_generator(GeneratorSpec(**wished), shape), settings)
    for field, value in wished.items():
        if getattr(generator.spec, field) != value:
            raise ValueError(
                f"{weights or state.path}: its generator has {field} "
                f"{getattr(generator.spec, field)}, the flags and images say {value}; leave the "
                "flag out, or start without these weights"
            )
    return _told(generator, settings)


def _told(generator, settings):
    """The generator, whose spec knows what input it will be trained with."""
    spec, told = generator.spec, {}
    if settings.interp not in (None, spec.interp):
        told["interp"] = settings.interp
    if settings.slice_voxels not in (None, spec.slice_voxels):
        told["slice_voxels"] = settings.slice_voxels
    elif spec.slice_voxels and settings.low_res != settings.low_res_upper:
        told["slice_voxels"] = 0  # there is no one slice distance
    for name, value in told.items():
        logger.info("the generator gets used to --%s %s", name, value)
    generator.spec = replace(spec, **told)
    return generator


def _discriminator(settings, weights, spec, state):
    kernel = settings.kernel_dis
    if kernel is None and state is not None:
        kernel = state.specs.get("discriminator", {}).get("kernel")
    wished = matching(spec, settings.patch_size, kernel or DiscriminatorSpec.kernel)
    if wished.depth != 5:
        logger.info(
            "patches of %d^3: the discriminator has %d levels instead of 5, so that its answer "
            "is still one number",
            settings.patch_size,
            wished.depth,
        )
    if weights is not None:
        try:
            discriminator = load_discriminator(weights)
        except WeightsError as error:
            logger.info("a new discriminator is trained: %s", error)
            return build_discriminator(wished)
        if settings.kernel_dis is None:
            wished = replace(wished, kernel=discriminator.spec.kernel)
        if discriminator.spec == wished:
            return discriminator
        logger.info("%s: its discriminator does not fit %s; a new one is trained", weights, wished)
    return build_discriminator(wished)
