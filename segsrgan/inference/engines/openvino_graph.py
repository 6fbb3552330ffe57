# SPDX-License-Identifier: MIT
"""A Keras generator as an OpenVINO model, built operation by operation.

Direct, because the graph of a conversion keeps what Keras had to write in other words: here an
upsampling with its convolution is one transposed convolution, which needs neither the
interleaving nor the cropping of `segsrgan.networks.rewrites`. Inside, channels stand second, as
OpenVINO wants it; input and output are as Keras'.
"""

import math

import keras
import numpy as np
import openvino as ov
import openvino.opset15 as op

from segsrgan.errors import UserError
from segsrgan.networks.layers import (
    FEW_FILTERS,
    InstanceNormalization3D,
    OutputHead,
    ReflectConv3D,
)
from segsrgan.networks.rewrites import strided_head_kernel

_SPATIAL = (2, 3, 4)
# Edge of the blocks whose means are taken first, see `_mean`.
_BLOCK = 8


def build_graph(model, patch, precision="float32"):
    """Builds the graph.

    Args:
        model: a `keras.Model` of the layers of `segsrgan.networks.build_generator`, with one
            input.
        patch: three sizes divisible by 4.
        precision: the precision it will be computed in; with less than float32 statistics are
            left to one operation, which computes them in float32 whatever the rest is.

    Returns:
        An `openvino.Model`: float32 `(b, x, y, z, 1)` to `(b, x, y, z, channels)`, b free.

    Raises:
        UserError: if the model has several inputs or a layer of another kind.
    """
    if len(model.inputs) != 1:
        raise UserError(
            f"the openvino engine computes networks of one input, received {len(model.inputs)}; "
            "take the engine tensorflow"
        )
    builder = _Builder(precision)
    image = op.parameter([-1, *patch, 1], np.float32, "image")
    # One channel: to put it second is no more than another name for the same memory.
    first = op.reshape(image, _integers(0, 1, *patch), special_zero=True)
    tensors = {id(model.inputs[0]): first}
    for operation in model.operations:
        if id(operation.output) not in tensors:
            inputs = operation.input if isinstance(operation.input, list) else [operation.input]
            node = builder.add(operation, [tensors[id(tensor)] for tensor in inputs])
            tensors[id(operation.output)] = node
    result = op.transpose(tensors[id(model.outputs[0])], _integers(0, 2, 3, 4, 1))
    return ov.Model([op.result(result, "output")], [image], "generator")


class _Builder:
    """Adds the nodes of one layer after the other."""

    def __init__(self, precision):
        self._normalise = _normalise if precision == "float32" else _normalise_coarsely

    def add(self, layer, inputs):
        """The node of a Keras layer on its inputs' nodes."""
        match layer:
            case ReflectConv3D():
                return _convolve(layer, *inputs)
            case InstanceNormalization3D():
                return self._normalise(layer, *inputs)
            case OutputHead():
                return _head(layer, *inputs)
            case keras.layers.ReLU():
                return op.relu(*inputs)
            case keras.layers.Add():
                return op.add(*inputs)
            case keras.layers.Concatenate():
                return op.concat(inputs, 1)
        raise UserError(
            f"the openvino engine does not know {type(layer).__name__} ({layer.name}); "
            "take the engine tensorflow"
        )


def _convolve(layer, x):
    kernel = _array(layer.kernel)
    if layer.upsampling == 2 and layer.kernel_size == 3:
        return _convolve_upsampled(x, kernel)
    if layer.upsampling > 1:
        raise UserError(
            "the openvino engine upsamples by 2 before a kernel of 3, received "
            f"{layer.upsampling} before {layer.kernel_size}; take the engine tensorflow"
        )
    x = _pad(x, layer.kernel_size // 2, "reflect")
    even = all(size % 2 == 0 for size in _sizes(x))
    if layer.strides == 1 and layer.filters <= FEW_FILTERS and even:
        wide = _array(strided_head_kernel(kernel))
        return op.depth_to_space(_convolution(x, wide, 2), "blocks_first", 2)
    return _convolution(x, kernel, layer.strides)


def _convolution(x, kernel, stride):
    weights = _constant(np.transpose(kernel, (4, 3, 0, 1, 2)))
    return op.convolution(x, weights, [stride] * 3, [0] * 3, [0] * 3, [1] * 3)


def _convolve_upsampled(x, kernel):
    """Nearest upsampling by 2, reflect padding and a convolution with a kernel of 3^3, as one.

    Upsampling repeats voxel i at 2i and 2i + 1, and output o is the sum over the taps t of
    kernel[t] * upsampled[o + t - 1]. So voxel i reaches o = 2i + s - t + 1 for s = 0, 1: it is
    spread by a kernel of 4^3, the sum of 8 shifted copies of the mirrored one. The upsampled
    signal reflected by one voxel is the coarse one with its edge voxels repeated: with these in
    front the outputs begin at 3.
    """
    spread = np.zeros((4, 4, 4, *kernel.shape[3:]), np.float32)
    for i, j, k in np.ndindex(2, 2, 2):
        spread[i : i + 3, j : j + 3, k : k + 3] += kernel[::-1, ::-1, ::-1]
    weights = _constant(np.transpose(spread, (3, 4, 0, 1, 2)))
    x = _pad(x, 1, "edge")
    return op.convolution_backprop_data(x, weights, [2] * 3, None, [3] * 3, [3] * 3, [1] * 3)


def _normalise(layer, x):
    centred = op.subtract(x, _mean(x))
    spread = op.add(_deviation(centred), _constant(layer.epsilon))
    gain = op.divide(_per_channel(layer.scale), spread)
    return op.add(op.multiply(centred, gain), _per_channel(layer.shift))


def _mean(x):
    """Mean over the voxels, `(b, c, 1, 1, 1)`: of blocks first, then of the blocks' means.

    OpenVINO adds up all voxels of a channel one after the other. After 64^3 of them a sum in
    float32 is off by 1e-5, after 128^3 by 1e-4 (and so is its MVN, the normalisation in one).
    """
    edges = [max(k for k in range(1, _BLOCK + 1) if size % k == 0) for size in _sizes(x)]
    blocks = op.avg_pool(x, edges, [0] * 3, [0] * 3, edges, exclude_pad=True)
    return op.reduce_mean(blocks, _integers(*_SPATIAL), keep_dims=True)


def _deviation(centred):
    """Standard deviation over the voxels, `(b, c, 1, 1, 1)`, of an x that has no mean.

    The length of each plane first, for which no squares are written down.
    """
    planes = op.reduce_l2(centred, _integers(3, 4), keep_dims=True)
    squares = op.reduce_mean(op.multiply(planes, planes), _integers(2), keep_dims=True)
    return op.sqrt(op.multiply(squares, _constant(1 / math.prod(_sizes(centred)[1:]))))


def _normalise_coarsely(layer, x):
    y = op.mvn(x, _integers(*_SPATIAL), True, layer.epsilon, "outside_sqrt")
    return op.add(op.multiply(y, _per_channel(layer.scale)), _per_channel(layer.shift))


def _head(layer, image, features):
    count = layer.input[1].shape[-1]
    first = _channels(features, 0, 1)
    if layer.scaled:
        deviation = _deviation(op.subtract(image, _mean(image)))
        first = op.multiply(first, op.multiply(deviation, _constant(0.1)))
    channels = [op.subtract(image, first) if layer.residual else first]
    channels.append(op.sigmoid(_channels(features, 1, 2)))
    if count > 2:
        channels.append(op.softmax(_channels(features, 2, count), 1))
    return op.concat(channels, 1)


def _channels(x, start, stop):
    return op.slice(x, _integers(start), _integers(stop), _integers(1), _integers(1))


def _pad(x, n, mode):
    margin = _integers(0, 0, n, n, n)
    return op.pad(x, margin, margin, mode) if n else x


def _sizes(x):
    """The spatial sizes of a node; the batch alone may be free."""
    return [x.output(0).get_partial_shape()[axis].get_length() for axis in _SPATIAL]


def _array(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def _per_channel(variable):
    return _constant(_array(variable).reshape(1, -1, 1, 1, 1))


def _constant(array):
    return op.constant(np.ascontiguousarray(array, dtype=np.float32))


def _integers(*values):
    return op.constant(np.array(values, np.int64))
