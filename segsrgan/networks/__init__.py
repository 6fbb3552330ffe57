# SPDX-License-Identifier: MIT
"""Networks and their weights, in `keras.ops`: specs, models, layers, files.

The names below are loaded when they are first used: specs and weight files need no Keras.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "architecture": ["DiscriminatorSpec", "GeneratorSpec", "generator_shapes"],
        "models": ["build_discriminator", "build_generator"],
        "registry": ["available", "default_weights", "resolve"],
        "weights": [
            "convert",
            "describe",
            "load_discriminator",
            "load_generator",
            "read_generator",
            "save_generator",
        ],
    },
)
