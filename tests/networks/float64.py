# SPDX-License-Identifier: MIT
"""A generator in float64 NumPy, straight from its layers: the truth that float32 rounds."""

import keras
import numpy as np

from segsrgan.networks.layers import (
    Fold,
    InstanceNormalization3D,
    OutputHead,
    ReflectConv3D,
    Unfold,
)

SPATIAL = (1, 2, 3)
# The worst voxel's rounding in units of the estimate below: at most 1.3, and 6.6 under a constant
# map, with TensorFlow (oneDNN for SSE4.1, AVX2 and AVX-512, and Eigen), JAX and OpenVINO.
MARGIN = 16
EPSILON = np.finfo(np.float32).eps


def truth_and_tolerance(model, inputs):
    """The output in float64, and how far from it float32 may round on any processor.

    A convolution rounds in proportion to the sum of its products' absolute values, in whatever
    order a processor adds them up; the instance normalisation after it divides the error by the
    deviation of the result. What the layers round adds up, in units of the last features'
    deviation, and the output head does not enlarge it. So the tolerance is wider where the input
    has a constant map of large values: the first convolution is then a large constant plus little.
    """
    inputs = inputs if isinstance(inputs, list) else [inputs]
    arrays = {id(t): a.astype(np.float64) for t, a in zip(model.inputs, inputs, strict=True)}
    rounding, size = 0.0, 1.0
    for layer in model.operations:
        if id(layer.output) in arrays:
            continue
        tensors = layer.input if isinstance(layer.input, list) else [layer.input]
        x = [arrays[id(tensor)] for tensor in tensors]
        result = arrays[id(layer.output)] = FORMULAS[type(layer)](layer, *x)
        if isinstance(layer, ReflectConv3D):
            size = result.std(SPATIAL).max()
            rounding += (rounding_of_convolution(x[0], layer.kernel) / result.std(SPATIAL)).max()
        elif isinstance(layer, InstanceNormalization3D):
            size = result.std(SPATIAL).max()
            rounding += (EPSILON * np.abs(x[0]).mean(SPATIAL) / x[0].std(SPATIAL)).max()
    return arrays[id(model.outputs[0])], MARGIN * rounding * size


def rounding_of_convolution(x, kernel):
    """What float32 rounds in a convolution, per sample and channel: an epsilon of all products."""
    return EPSILON * np.abs(x).mean(SPATIAL) @ np.abs(number(kernel)).sum((0, 1, 2))


def number(variable):
    return np.asarray(variable, np.float64)


def convolve(layer, x):
    kernel = number(layer.kernel)
    for axis, factor in zip(SPATIAL, layer.upsampling, strict=True):
        x = x.repeat(factor, axis)
    n = layer.kernel_size // 2
    steps = tuple(slice(None, None, step) for step in layer.strides)
    padded = np.pad(x, ((0, 0), (n, n), (n, n), (n, n), (0, 0)), mode="reflect")
    sizes = x.shape[1:4]
    total = 0
    for i, j, k in np.ndindex(kernel.shape[:3]):
        window = padded[:, i : i + sizes[0], j : j + sizes[1], k : k + sizes[2]]
        total = total + window[(slice(None), *steps)] @ kernel[i, j, k]
    return total


def normalise(layer, x):
    centred = x - x.mean(SPATIAL, keepdims=True)
    gain = number(layer.scale) / (x.std(SPATIAL, keepdims=True) + layer.epsilon)
    return centred * gain + number(layer.shift)


def head(layer, image, features):
    def corrected(y):
        y = y * 0.1 * image.std(SPATIAL, keepdims=True) if layer.scaled else y
        return image - y if layer.residual else y

    def softmax(y):
        return np.exp(y) / np.exp(y).sum(-1, keepdims=True)

    functions = {"image": corrected, "sigmoid": lambda y: 1 / (1 + np.exp(-y)), "softmax": softmax}
    ends = np.cumsum([width for _, width in layer.activations])
    parts = np.split(features, ends[:-1], axis=-1)
    names = [name for name, _ in layer.activations]
    return np.concatenate([functions[n](y) for n, y in zip(names, parts, strict=True)], axis=-1)


BLOCK = (2, 2, 4)


def fold(layer, x):
    parts = [x[:, i::2, j::2, k::4] for i, j, k in np.ndindex(BLOCK)]
    return np.concatenate(parts, axis=-1)


def unfold(layer, x):
    channels = x.shape[-1] // 16
    sizes = [n * k for n, k in zip(x.shape[1:4], BLOCK, strict=True)]
    result = np.empty((len(x), *sizes, channels))
    for place, (i, j, k) in enumerate(np.ndindex(BLOCK)):
        result[:, i::2, j::2, k::4] = x[..., place * channels : (place + 1) * channels]
    return result


FORMULAS = {
    Fold: fold,
    Unfold: unfold,
    ReflectConv3D: convolve,
    InstanceNormalization3D: normalise,
    OutputHead: head,
    keras.layers.ReLU: lambda layer, x: np.maximum(x, 0),
    keras.layers.Add: lambda layer, *x: sum(x),
    keras.layers.Concatenate: lambda layer, *x: np.concatenate(x, axis=-1),
}
