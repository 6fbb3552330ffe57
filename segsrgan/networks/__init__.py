# SPDX-License-Identifier: MIT
"""Networks and their weights, in `keras.ops`: generator, discriminator, layers, files."""

from segsrgan.errors import WeightsError
from segsrgan.networks.discriminator import DiscriminatorSpec, build_discriminator
from segsrgan.networks.generator import GeneratorSpec, build_generator
from segsrgan.networks.registry import available, default_weights, resolve
from segsrgan.networks.simplified import simplified
from segsrgan.networks.weights import (
    convert,
    describe,
    load_discriminator,
    load_generator,
    save_generator,
)

__all__ = [
    "DiscriminatorSpec",
    "GeneratorSpec",
    "WeightsError",
    "available",
    "build_discriminator",
    "build_generator",
    "convert",
    "default_weights",
    "describe",
    "load_discriminator",
    "load_generator",
    "resolve",
    "save_generator",
    "simplified",
]
