# SPDX-License-Identifier: MIT
"""The generator computed by OpenVINO, on the processor; needs neither Keras nor TensorFlow.

The graph is built directly, since that of a conversion keeps what Keras had to write in other
words: here an upsampling with its convolution is one transposed convolution, which needs neither
the interleaving nor the cropping of `segsrgan.networks.layers`. Inside, channels stand second,
as OpenVINO wants it; input and output have them last.
"""

import math
import sys
import threading
from contextlib import contextmanager
from functools import cache, lru_cache, partial

import numpy as np

from segsrgan.errors import UserError
from segsrgan.networks.architecture import EPSILON, FEW_FILTERS, FOLD, assemble
from segsrgan.networks.outputs import output_channels

# At its import OpenVINO tells Google Analytics that it is used, unless this module is missing.
sys.modules.setdefault("openvino_telemetry", None)

import openvino as ov  # noqa: E402
import openvino.opset15 as op  # noqa: E402

# Compiled models kept, one per patch size; whole images of many sizes must not pile them up.
_KEPT = 4
# Our name, OpenVINO's name of the precision and of the capability of the processor.
_PRECISIONS = {"float32": ("f32", "FP32"), "float16": ("f16", "FP16"), "bfloat16": ("bf16", "BF16")}
# Of oneDNN, of the C++ library, of Linux.
_OUT_OF_MEMORY = ("out_of_memory", "out of memory", "bad_alloc", "allocate")
_SPATIAL = (2, 3, 4)
# Edge of the blocks whose means are taken first, see `_mean`.
_BLOCK = 8


@cache
def core():
    """OpenVINO's `Core`, the only one of this process, kept to its end.

    Each brings a signal stack for its thread and takes it along when it goes, whoever uses it by
    then: the next Ctrl-C would be a segmentation fault.
    """
    return ov.Core()


def precisions():
    """Precisions that the processor computes itself; others would be converted back and forth."""
    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, (_, key) in _PRECISIONS.items() if key in capabilities)


def make(generator, precision="float32", threads=None):
    """Builds the engine of `(spec, arrays)`; a model of another kind is a `UserError`."""
    if not isinstance(generator, tuple):
        raise UserError(
            "the openvino engine computes models of segsrgan.networks.build_generator, received "
            f"{type(generator).__name__}; take engine tensorflow"
        )
    return OpenVINOEngine(*generator, precision=precision, threads=threads)


class OpenVINOEngine:
    """Runs a generator that is not conditional, compiled per patch size.

    `arrays` are its weights, float32, by `<layer>/<weight>`. Input and output are float32 in every
    precision. OpenVINO chooses the CPU threads when None.
    """

    name = "openvino"

    def __init__(self, spec, arrays, precision="float32", threads=None):
        self.precision = precision
        options = {
            # Unless told otherwise OpenVINO takes bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision][0],
            # Several jobs on one computer would all be pinned to its first cores.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._compile = lru_cache(_KEPT)(partial(_compile, spec, arrays, precision, options))
        self._lock = threading.Lock()

    def predict_batch(self, patches, resolution=None):
        """See `segsrgan.inference.engines`; patch by patch, which is as fast."""
        with self._lock, _memory_errors():
            request = self._compile(tuple(patches.shape[1:4]))
            result = request.get_output_tensor()
            outputs = np.empty((len(patches), *result.get_shape()[1:]), np.float32)
            for patch, output in zip(patches, outputs, strict=True):
                request.infer([np.ascontiguousarray(patch[np.newaxis], dtype=np.float32)])
                output[...] = result.data[0]
        return outputs


def _compile(spec, arrays, precision, options, shape):
    graph = build_graph(spec, arrays, shape, precision)
    graph.reshape([1, *shape, 1])
    return core().compile_model(graph, "CPU", options).create_infer_request()


def build_graph(spec, arrays, patch, precision="float32"):
    """The `openvino.Model` of a generator that is not conditional, for patches of three sizes.

    Float32 `(b, x, y, z, 1)` to `(b, x, y, z, channels)`, b free. In a `precision` of less than
    float32 statistics are left to one operation, which computes them in float32 nevertheless.
    """
    image = op.parameter([-1, *patch, 1], np.float32, "image")
    # One channel: to put it second is no more than another name for the same memory.
    x = op.reshape(image, _integers(0, 1, *patch), special_zero=True)
    output = assemble(spec, _Builder(arrays, precision), x)
    last = op.transpose(output, _integers(0, *_SPATIAL, 1))
    return ov.Model([op.result(last, "output")], [image], "generator")


class _Builder:
    """Adds the nodes of one layer after the other, see `assemble`."""

    def __init__(self, arrays, precision="float32"):
        self._arrays = arrays
        self._normalise = _normalise if precision == "float32" else _normalise_coarsely

    def convolution(self, x, filters, kernel_size, name, strides=1, upsampling=1):
        kernel = self._arrays[f"{name}/kernel"]
        strides, upsampling = (np.broadcast_to(n, 3).tolist() for n in (strides, upsampling))
        if max(upsampling) > 1:
            return _convolve_upsampled(x, kernel, upsampling)
        x = _pad(x, [kernel_size // 2] * 3, "reflect")
        even = all(size % 2 == 0 for size in _sizes(x))
        if max(strides) == 1 and filters <= FEW_FILTERS and even:
            wide = _convolution(x, _all_phases(kernel), [2] * 3)
            return op.depth_to_space(wide, "blocks_first", 2)
        return _convolution(x, kernel, strides)

    def normalisation(self, x, name):
        arrays = (self._arrays[f"{name}/{weight}"] for weight in ("scale", "shift"))
        return self._normalise(x, *(_constant(a.reshape(1, -1, 1, 1, 1)) for a in arrays))

    def relu(self, x, name):
        return op.relu(x)

    def add(self, tensors, name):
        return op.add(*tensors)

    def concatenate(self, tensors, name):
        return op.concat(tensors, 1)

    def fold(self, x, name):
        size = [n // k for n, k in zip(_sizes(x), FOLD, strict=True)]
        pairs = (n for pair in zip(size, FOLD, strict=True) for n in pair)
        x = op.reshape(x, _integers(0, 0, *pairs), special_zero=True)
        x = op.transpose(x, _integers(0, 3, 5, 7, 1, 2, 4, 6))
        return op.reshape(x, _integers(0, -1, *size), special_zero=True)

    def unfold(self, x, name):
        size = _sizes(x)
        x = op.reshape(x, _integers(0, *FOLD, -1, *size), special_zero=True)
        x = op.transpose(x, _integers(0, 4, 5, 1, 6, 2, 7, 3))
        whole = (n * k for n, k in zip(size, FOLD, strict=True))
        return op.reshape(x, _integers(0, -1, *whole), special_zero=True)

    def head(self, image, features, spec, name):
        activations = {
            "image": lambda y: _image(image, y, spec),
            "sigmoid": op.sigmoid,
            "softmax": lambda y: op.softmax(y, 1),
        }
        nodes = []
        for head, channels in output_channels(spec).items():
            bounds = _integers(channels.start), _integers(channels.stop)
            part = op.slice(features, *bounds, _integers(1), _integers(1))
            nodes.append(activations[head.activation](part))
        return op.concat(nodes, 1)


def _image(image, y, spec):
    if spec.scaled:
        deviation = _deviation(op.subtract(image, _mean(image)))
        y = op.multiply(y, op.multiply(deviation, _constant(0.1)))
    return op.subtract(image, y) if spec.residual else y


def _convolution(x, kernel, strides):
    weights = _constant(np.transpose(kernel, (4, 3, 0, 1, 2)))
    return op.convolution(x, weights, strides, [0] * 3, [0] * 3, [1] * 3)


def _all_phases(kernel):
    """As in `segsrgan.networks.layers`, but in NumPy."""
    taps, (channels, filters) = kernel.shape[0], kernel.shape[3:]
    wide = np.zeros((*(taps + 1,) * 3, channels, 8, filters), np.float32)
    for phase, (i, j, k) in enumerate(np.ndindex(2, 2, 2)):
        wide[i : i + taps, j : j + taps, k : k + taps, :, phase] = kernel
    return wide.reshape(*wide.shape[:4], 8 * filters)


def _convolve_upsampled(x, kernel, upsampling):
    """Nearest upsampling by 2, reflect padding and a convolution with a kernel of 3^3, as one.

    Upsampling repeats voxel i at 2i and 2i + 1, and output o is the sum over the taps t of
    kernel[t] * upsampled[o + t - 1]. So voxel i reaches o = 2i + s - t + 1 for s = 0, 1: it is
    spread by a kernel of 4^3, the sum of 8 shifted copies of the mirrored one. The upsampled
    signal reflected by one voxel is the coarse one with its edge voxels repeated: with these in
    front the outputs begin at 3. Along an axis that is not upsampled there is no s, the kernel is
    the mirrored one, the padding a reflection, and the outputs begin at 2.
    """
    spread = np.zeros((*(2 + n for n in upsampling), *kernel.shape[3:]), np.float32)
    for i, j, k in np.ndindex(*upsampling):
        spread[i : i + 3, j : j + 3, k : k + 3] += kernel[::-1, ::-1, ::-1]
    weights = _constant(np.transpose(spread, (3, 4, 0, 1, 2)))
    for mode, factor in (("edge", 2), ("reflect", 1)):
        x = _pad(x, [int(n == factor) for n in upsampling], mode)
    begin = [1 + n for n in upsampling]
    return op.convolution_backprop_data(x, weights, upsampling, None, begin, begin, [1] * 3)


def _normalise(x, scale, shift):
    centred = op.subtract(x, _mean(x))
    gain = op.divide(scale, op.add(_deviation(centred), _constant(EPSILON)))
    return op.add(op.multiply(centred, gain), shift)


def _normalise_coarsely(x, scale, shift):
    y = op.mvn(x, _integers(*_SPATIAL), True, EPSILON, "outside_sqrt")
    return op.add(op.multiply(y, scale), shift)


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


def _pad(x, margins, mode):
    margin = _integers(0, 0, *margins)
    return op.pad(x, margin, margin, mode) if any(margins) else x


def _sizes(x):
    """The spatial sizes of a node; the batch alone may be free."""
    return [x.output(0).get_partial_shape()[axis].get_length() for axis in _SPATIAL]


def _constant(array):
    return op.constant(np.ascontiguousarray(array, dtype=np.float32))


def _integers(*values):
    return op.constant(np.array(values, np.int64))


@contextmanager
def _memory_errors():
    """Gives OpenVINO's errors of allocation, which are RuntimeErrors with a text, their class."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if any(words in text for words in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise
