# SPDX-License-Identifier: MIT
"""The networks as Keras models, each with its spec."""

from functools import partial

import keras
import numpy as np

from segsrgan.errors import UserError
from segsrgan.networks.architecture import (
    LAST_CONVOLUTION,
    DiscriminatorSpec,
    GeneratorSpec,
    assemble,
)
from segsrgan.networks.layers import (
    Fold,
    InstanceNormalization3D,
    OutputHead,
    ReflectConv3D,
    Unfold,
)
from segsrgan.networks.outputs import output_channels


def build_generator(spec=None, patch=None, formulation="fast", head_initializer="lecun_normal"):
    """Builds the generator of a spec.

    Args:
        spec: a `GeneratorSpec`; the paper's by default.
        patch: three sizes divisible by `spec.multiple`, to fix the input; free when None.
        formulation: `"fast"` or `"plain"`, see `ReflectConv3D`; the same function of the same
            weights.
        head_initializer: initialiser of the last convolution.

    Returns:
        A `keras.Model` with the attribute `spec`. Input `(b, x, y, z, 1)` in [0, 1]; when
        conditional a list of it and of a map `(b, x, y, z, 1)` in mm. Output
        `(b, x, y, z, spec.channels)`: image, probability, classes, see
        `segsrgan.networks.outputs`. Sizes are divisible by `spec.multiple`.

    Raises:
        UserError: if a size of `patch` is not divisible by `spec.multiple`.
    """
    spec = spec or GeneratorSpec()
    if patch is not None and any(n % spec.multiple for n in patch):
        raise UserError(
            f"the patch sizes of this generator must be divisible by {spec.multiple}, received "
            f"{tuple(patch)}"
        )
    names = ["image", "resolution"] if spec.conditional else ["image"]
    shape = (*(patch or (None, None, None)), 1)
    inputs = [keras.Input(shape, name=name) for name in names]
    output = assemble(spec, _KerasBuilder(formulation, head_initializer), *inputs)
    model = keras.Model(inputs if spec.conditional else inputs[0], output, name="generator")
    model.spec = spec
    return model


class _KerasBuilder:
    """Adds Keras layers, see `assemble`."""

    def __init__(self, formulation, head_initializer):
        self._options = formulation, head_initializer

    def convolution(self, x, filters, kernel_size, name, strides=1, upsampling=1):
        formulation, initializer = self._options
        if name != LAST_CONVOLUTION:
            initializer = "lecun_normal"
        sizes = filters, kernel_size, strides, upsampling
        return ReflectConv3D(*sizes, formulation, initializer, name=name)(x)

    def normalisation(self, x, name):
        return InstanceNormalization3D(name=name)(x)

    def relu(self, x, name):
        return keras.layers.ReLU(name=name)(x)

    def add(self, tensors, name):
        return keras.layers.Add(name=name)(tensors)

    def concatenate(self, tensors, name):
        return keras.layers.Concatenate(name=name)(tensors)

    def fold(self, x, name):
        return Fold(name=name)(x)

    def unfold(self, x, name):
        return Unfold(name=name)(x)

    def head(self, image, features, spec, name):
        activations = [(h.activation, h.width(spec)) for h in output_channels(spec)]
        return OutputHead(activations, spec.residual, spec.scaled, name=name)([image, features])


def build_discriminator(spec=None):
    """Builds the critic of a `DiscriminatorSpec`, the paper's by default.

    Stride-2 convolutions of 4^3 with bias and LeakyReLU(0.01), then a 2^3 convolution to one
    channel without bias.

    Returns:
        A `keras.Model` with the attribute `spec`: patches `(b, p, p, p, spec.channels)`, the
        generator's output and, when conditional, the map, to one number each, `(b, 1)`.
    """
    spec = spec or DiscriminatorSpec()
    convolution = partial(keras.layers.Conv3D, kernel_initializer="he_normal")
    patches = keras.Input((spec.patch,) * 3 + (spec.channels,), name="patches")
    x = patches
    for level in range(spec.depth):
        name = f"conv_dis_{level + 1}"
        x = convolution(spec.kernel * 2**level, 4, strides=2, padding="same", name=name)(x)
        x = keras.layers.LeakyReLU(negative_slope=0.01, name=f"{name}_relu")(x)
    # Scores are compared with each other: too few digits in a mixed-precision policy's dtype.
    x = convolution(1, 2, use_bias=False, dtype="float32", name="dis_decision")(x)
    score = keras.layers.Reshape((1,), dtype="float32", name="score")(x)
    model = keras.Model(patches, score, name="discriminator")
    model.spec = spec
    return model


def named_weights(model):
    """The variables of a model: dict, `<layer>/<weight>` -> variable."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}


def read_weights(model):
    """The weights of a model: dict, `<layer>/<weight>` -> float32 array."""
    return {name: np.asarray(v.value, np.float32) for name, v in named_weights(model).items()}


def assign_weights(model, arrays):
    """The model, into which arrays by `<layer>/<weight>` are copied; they must be all of its."""
    for name, variable in named_weights(model).items():
        variable.assign(arrays[name])
    return model
