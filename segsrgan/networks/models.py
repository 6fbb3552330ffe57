# SPDX-License-Identifier: MIT
"""The networks as Keras models, each with its spec."""

import keras
import numpy as np

from segsrgan.networks.architecture import (
    LAST_CONVOLUTION,
    DiscriminatorSpec,
    GeneratorSpec,
    assemble,
    simplified_arrays,
)
from segsrgan.networks.layers import InstanceNormalization3D, OutputHead, ReflectConv3D
from segsrgan.networks.outputs import output_channels


def build_generator(spec=None, patch=None, formulation="fast", head_initializer="lecun_normal"):
    """Builds the generator of a spec.

    Args:
        spec: a `GeneratorSpec`; the paper's by default.
        patch: three sizes divisible by 4, to fix the input; free when None.
        formulation: `"fast"` or `"plain"`, see `ReflectConv3D`; the same function of the same
            weights.
        head_initializer: initialiser of the last convolution.

    Returns:
        A `keras.Model` with the attribute `spec`. Input `(b, x, y, z, 1)` in [0, 1]; when
        conditional a list of it and of a map `(b, x, y, z, 1)` in mm. Output
        `(b, x, y, z, spec.channels)`: image, probability, classes, see
        `segsrgan.networks.outputs`. Sizes are divisible by 4.

    Raises:
        ValueError: if a size of `patch` is not divisible by 4.
    """
    spec = spec or GeneratorSpec()
    if patch is not None and any(n % 4 for n in patch):
        raise ValueError(f"patch sizes must be divisible by 4, received {tuple(patch)}")
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
        self._formulation = formulation
        self._initializers = {LAST_CONVOLUTION: head_initializer}

    def convolution(self, x, filters, kernel_size, name, strides=1, upsampling=1):
        initializer = self._initializers.get(name, "lecun_normal")
        return ReflectConv3D(
            filters, kernel_size, strides, upsampling, self._formulation, initializer, name=name
        )(x)

    def normalisation(self, x, name):
        return InstanceNormalization3D(name=name)(x)

    def relu(self, x, name):
        return keras.layers.ReLU(name=name)(x)

    def add(self, tensors, name):
        return keras.layers.Add(name=name)(tensors)

    def concatenate(self, tensors, name):
        return keras.layers.Concatenate(name=name)(tensors)

    def head(self, image, features, spec, name):
        activations = [(h.activation, h.width(spec)) for h in output_channels(spec)]
        return OutputHead(activations, spec.residual, spec.scaled, name=name)([image, features])


def build_discriminator(spec=None):
    """Builds the critic: patches `(b, p, p, p, spec.channels)` to one number each, `(b, 1)`.

    Stride-2 convolutions of 4^3 with bias and LeakyReLU(0.01), then a 2^3 convolution to one
    channel without bias. Channels: those of the generator's output, resolution map (conditional).

    Args:
        spec: a `DiscriminatorSpec`; the paper's by default.

    Returns:
        A `keras.Model` with the attribute `spec`.
    """
    spec = spec or DiscriminatorSpec()
    patches = keras.Input((spec.patch,) * 3 + (spec.channels,), name="patches")
    x = patches
    for level in range(spec.depth):
        x = keras.layers.Conv3D(
            spec.kernel * 2**level,
            4,
            strides=2,
            padding="same",
            kernel_initializer="he_normal",
            name=f"conv_dis_{level + 1}",
        )(x)
        x = keras.layers.LeakyReLU(negative_slope=0.01, name=f"conv_dis_{level + 1}_relu")(x)
    # Scores are compared with each other: too few digits in a mixed-precision policy's dtype.
    x = keras.layers.Conv3D(
        1, 2, use_bias=False, kernel_initializer="he_normal", dtype="float32", name="dis_decision"
    )(x)
    score = keras.layers.Reshape((1,), dtype="float32", name="score")(x)
    model = keras.Model(patches, score, name="discriminator")
    model.spec = spec
    return model


def simplified(model, patch=None, formulation="fast"):
    """The generator of one input that computes what `model` computes, see `simplified_arrays`.

    Args:
        model: a model of `build_generator`.
        patch: three sizes to fix the input; free when None.
        formulation: see `build_generator`.

    Returns:
        A `keras.Model` with the attribute `spec`: `(b, x, y, z, 1)` to
        `(b, x, y, z, spec.channels)`.
    """
    spec, arrays = simplified_arrays(model.spec, read_weights(model))
    result = build_generator(spec, patch, formulation)
    assign_weights(result, arrays)
    return result


def named_weights(model):
    """The variables of a model: dict, `<layer>/<weight>` -> variable."""
    return {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}


def read_weights(model):
    """The weights of a model: dict, `<layer>/<weight>` -> float32 array."""
    return {name: np.asarray(v.value, np.float32) for name, v in named_weights(model).items()}


def assign_weights(model, arrays):
    """Copies arrays into a model by name, `<layer>/<weight>`; names and shapes must be its own."""
    for name, variable in named_weights(model).items():
        variable.assign(arrays[name])
