# SPDX-License-Identifier: MIT
"""A generator in float64 NumPy, straight from its layers: the truth that float32 rounds."""

import keras
import numpy as np

from segsrgan.networks.layers import InstanceNormalization3D, OutputHead, ReflectConv3D

SPATIAL = (1, 2, 3)


def truth(model, inputs):
    """The output of a model of `build_generator`, `(b, x, y, z, channels)` in float64."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    arrays = {id(t): a.astype(np.float64) for t, a in zip(model.inputs, inputs, strict=True)}
    for layer in model.operations:
        if id(layer.output) not in arrays:
            tensors = layer.input if isinstance(layer.input, list) else [layer.input]
            arrays[id(layer.output)] = FORMULAS[type(layer)](
                layer, *[arrays[id(tensor)] for tensor in tensors]
            )
    return arrays[id(model.outputs[0])]


def number(variable):
    return np.asarray(variable, np.float64)


def convolve(layer, x):
    kernel = number(layer.kernel)
    for axis in SPATIAL:
        x = x.repeat(layer.upsampling, axis)
    n, step = layer.kernel_size // 2, layer.strides
    padded = np.pad(x, ((0, 0), (n, n), (n, n), (n, n), (0, 0)), mode="reflect")
    sizes = x.shape[1:4]
    total = 0
    for i, j, k in np.ndindex(kernel.shape[:3]):
        window = padded[:, i : i + sizes[0], j : j + sizes[1], k : k + sizes[2]]
        total = total + window[:, ::step, ::step, ::step] @ kernel[i, j, k]
    return total


def normalise(layer, x):
    centred = x - x.mean(SPATIAL, keepdims=True)
    gain = number(layer.scale) / (x.std(SPATIAL, keepdims=True) + layer.epsilon)
    return centred * gain + number(layer.shift)


def head(layer, image, features):
    first = features[..., :1]
    if layer.scaled:
        first = first * 0.1 * image.std(SPATIAL, keepdims=True)
    first = image - first if layer.residual else first
    classes = np.exp(features[..., 2:])
    classes = classes / classes.sum(-1, keepdims=True) if features.shape[-1] > 2 else classes
    return np.concatenate([first, 1 / (1 + np.exp(-features[..., 1:2])), classes], axis=-1)


FORMULAS = {
    ReflectConv3D: convolve,
    InstanceNormalization3D: normalise,
    OutputHead: head,
    keras.layers.ReLU: lambda layer, x: np.maximum(x, 0),
    keras.layers.Add: lambda layer, *x: sum(x),
    keras.layers.Concatenate: lambda layer, *x: np.concatenate(x, axis=-1),
}
