# SPDX-License-Identifier: MIT
"""Layers of the SegSRGAN networks, in `keras.ops` alone: they run on TensorFlow, JAX and torch.

All tensors are channels-last: `(batch, x, y, z, channels)`.
"""

import math

import keras
import numpy as np
from keras import ops

from segsrgan.networks.architecture import EPSILON, FEW_FILTERS, FOLD

register = keras.saving.register_keras_serializable(package="segsrgan")

# The upsampled signal is x0 x0 x1 x1 x2 x2 ...; a 3-tap window covers two coarse voxels only:
#   even output 2i:    k0*x[i-1] + (k1+k2)*x[i]        odd output 2i+1: (k0+k1)*x[i] + k2*x[i+1]
# _GATHER[phase, tap of the 2-tap kernel, tap of the 3-tap kernel]. The odd phase comes first:
# the window at position i then gives the outputs 2i-1 and 2i, so that the phases of positions
# 0..n lie in order and only the first and the last of the 2n+2 outputs are superfluous.
_GATHER = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], "float32")
_AS_IT_IS = np.eye(3, dtype="float32")[np.newaxis]  # of an axis without upsampling


@register
class InstanceNormalization3D(keras.layers.Layer):
    """Normalises each sample and channel over its three spatial axes.

    `scale * (x - mean) / (sqrt(var) + epsilon) + shift`: epsilon is added to the standard
    deviation, not to the variance as in `keras.layers.GroupNormalization`. Statistics are
    computed in float32 whatever the compute dtype. On a constant patch the result is `shift`
    and the gradient is finite. Reference: Ulyanov et al., 2016 (arXiv:1607.08022).
    """

    def __init__(self, epsilon=EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
        self.shift = self.add_weight(shape=channels, initializer="zeros", name="shift")

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        # Centring first keeps precision where the mean is far larger than the deviation.
        centred = x - _spatial_mean(x)
        variance = _spatial_mean(ops.square(centred))
        # sqrt has an infinite slope at 0; the inner where keeps it out of the gradient.
        positive = variance > 0
        deviation = ops.where(positive, ops.sqrt(ops.where(positive, variance, 1.0)), 0.0)
        gain = ops.cast(self.scale, "float32") / (deviation + self.epsilon)
        return ops.cast(centred * gain + ops.cast(self.shift, "float32"), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


def _spatial_mean(x):
    # Axis by axis: a single sum over millions of voxels loses digits in float32.
    for axis in (3, 2, 1):
        x = ops.mean(x, axis=axis, keepdims=True)
    return x


@register
class ReflectConv3D(keras.layers.Layer):
    """Convolution without bias after reflect padding, optionally after a nearest upsampling.

    The kernel has the standard shape `(k, k, k, in, filters)` under every formulation, so that
    weights do not depend on it. Two of the network's convolutions cost several times what they
    need when computed as written; `formulation="fast"` computes the same function otherwise:

    - upsampling, kernel 3: eight 2^3 sub-pixel kernels on the coarse grid, interleaved
      (3.4 times fewer operations; with two axes upsampled four, of 2x2x3);
    - few filters: a stride-2 convolution to 8 times as many, interleaved (vector units are
      filled; needs even sizes).

    `kernel_size` is odd, `strides` and `upsampling` are 1 or 2, one number or three, and one of
    them is 1 along every axis.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides=1,
        upsampling=1,
        formulation="fast",
        kernel_initializer="lecun_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, received {kernel_size}")
        if formulation not in ("fast", "plain"):
            raise ValueError(f"formulation must be 'fast' or 'plain', received {formulation!r}")
        strides, upsampling = (tuple(np.broadcast_to(n, 3).tolist()) for n in (strides, upsampling))
        if max(strides) > 1 and max(upsampling) > 1:
            raise ValueError("strides and upsampling cannot both differ from 1")
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.upsampling = upsampling
        self.formulation = formulation
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        shape = (self.kernel_size,) * 3 + (input_shape[-1], self.filters)
        self.kernel = self.add_weight(
            shape=shape, initializer=self.kernel_initializer, name="kernel"
        )

    def call(self, inputs):
        x, kernel = inputs, ops.cast(self.kernel, inputs.dtype)
        fast = self.formulation == "fast"
        if fast and max(self.upsampling) == 2 and self.kernel_size == 3:
            # The upsampled signal reflected by one voxel is the coarse signal with its edge
            # voxels repeated.
            for axis, factor in enumerate(self.upsampling, 1):
                x = _pad_axis(x, axis, 1, "symmetric" if factor > 1 else "reflect")
            phases = _convolve(x, _subpixel_kernel(kernel, self.upsampling))
            cut = tuple(slice(1, -1) if factor > 1 else slice(None) for factor in self.upsampling)
            return _interleave(phases, self.filters, self.upsampling)[(slice(None), *cut)]
        for axis, factor in enumerate(self.upsampling, 1):
            if factor > 1:
                x = ops.repeat(x, factor, axis=axis)
        n = self.kernel_size // 2
        x = ops.pad(x, ((0, 0), (n, n), (n, n), (n, n), (0, 0)), mode="reflect")
        even = all(n is not None and n % 2 == 0 for n in inputs.shape[1:4])
        if fast and self.filters <= FEW_FILTERS and max(self.strides) == 1 and even:
            return _interleave(_convolve(x, _all_phases(kernel), 2), self.filters)
        return _convolve(x, kernel, self.strides)

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:4], self.upsampling, self.strides, strict=True)
        sizes = [n and -(-n * factor // stride) for n, factor, stride in axes]
        return (input_shape[0], *sizes, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "upsampling": self.upsampling,
            "formulation": self.formulation,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _convolve(x, kernel, strides=1):
    return ops.conv(x, kernel, strides=strides, padding="valid", data_format="channels_last")


def _pad_axis(x, axis, n, mode):
    return ops.pad(x, [(n, n) if k == axis else (0, 0) for k in range(5)], mode=mode)


def _subpixel_kernel(kernel, upsampling):
    """Kernel `(2, 2, 2, in, 8 * out)` equal to nearest upsampling by 2, then `kernel` (3^3).

    Output channels are ordered (phase x, phase y, phase z, out). An axis that is not upsampled has
    three taps and one phase.
    """
    gather = [ops.cast(_GATHER if n > 1 else _AS_IT_IS, kernel.dtype) for n in upsampling]
    small = ops.einsum("pai,qbj,rck,ijkuv->abcupqrv", *gather, kernel)
    phases = math.prod(upsampling)
    return ops.reshape(small, (*small.shape[:3], kernel.shape[3], phases * kernel.shape[4]))


def _all_phases(kernel):
    """Kernel `(k+1, k+1, k+1, in, 8 * out)` that, with stride 2, yields all eight phases.

    Phase p of an axis is the kernel shifted by p taps. Channels as in `_subpixel_kernel`.
    """
    pads = [[(p, 1 - p) for p in phase] + [(0, 0), (0, 0)] for phase in np.ndindex(2, 2, 2)]
    wide = ops.stack([ops.pad(kernel, pad) for pad in pads], axis=4)
    return ops.reshape(wide, (*wide.shape[:4], 8 * kernel.shape[4]))


def _interleave(x, channels, block=(2, 2, 2)):
    """Depth to space: `(b, x, y, z, 8 * channels)` to `(b, 2x, 2y, 2z, channels)`."""
    size = ops.shape(x)[1:4]
    x = ops.reshape(x, (-1, *size, *block, channels))
    x = ops.transpose(x, (0, 1, 4, 2, 5, 3, 6, 7))
    return ops.reshape(x, (-1, *(n * k for n, k in zip(size, block, strict=True)), channels))


@register
class Fold(keras.layers.Layer):
    """Blocks of 2x2x4 voxels, side by side, as channels: `(b, x / 2, y / 2, z / 4, 16 * c)`.

    They are ordered by their place in the block, then by channel, as `Unfold` takes them.
    """

    def call(self, inputs):
        x, channels = inputs, inputs.shape[-1]
        size = [n // k for n, k in zip(ops.shape(x)[1:4], FOLD, strict=True)]
        pairs = (n for pair in zip(size, FOLD, strict=True) for n in pair)
        x = ops.reshape(x, (-1, *pairs, channels))
        x = ops.transpose(x, (0, 1, 3, 5, 2, 4, 6, 7))
        return ops.reshape(x, (-1, *size, math.prod(FOLD) * channels))

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        sizes = (n and n // k for n, k in zip(sizes, FOLD, strict=True))
        return (batch, *sizes, math.prod(FOLD) * channels)


@register
class Unfold(keras.layers.Layer):
    """What `Fold` undoes: `(b, x, y, z, 16 * c)` to `(b, 2 x, 2 y, 4 z, c)`."""

    def call(self, inputs):
        return _interleave(inputs, inputs.shape[-1] // math.prod(FOLD), FOLD)

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        sizes = (n and n * k for n, k in zip(sizes, FOLD, strict=True))
        return (batch, *sizes, channels // math.prod(FOLD))


@register
class OutputHead(keras.layers.Layer):
    """Turns the last convolution's channels into an image, probabilities and classes.

    Called on `[image (b, x, y, z, 1), features (b, x, y, z, channels)]`; returns
    `(b, x, y, z, channels)` in float32.

    Args:
        activations: pairs of a name and a number of channels: "image" (`image - y`, or `y`
            when not residual), "sigmoid" or "softmax" over the channels.
        residual: whether the image is a correction of the input.
        scaled: whether the correction is in tenths of the patch's own standard deviation. All
            that comes before is blind to the scale and offset of its input; so the image follows
            any linear change of the input's intensities exactly. Tenths, because what is missing
            is small: the steps of an optimiser then are, too.
    """

    def __init__(self, activations, residual=True, scaled=False, **kwargs):
        # The image must not be rounded to the compute dtype of a mixed-precision policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if scaled and not residual:
            raise ValueError("scaled=True needs residual=True, received residual=False")
        self.activations = [tuple(pair) for pair in activations]
        self.residual = residual
        self.scaled = scaled

    def call(self, inputs):
        image, features = inputs
        functions = {
            "image": lambda y: self._image(image, y),
            "sigmoid": ops.sigmoid,
            "softmax": lambda y: ops.softmax(y, axis=-1),
        }
        results, start = [], 0
        for name, width in self.activations:
            results.append(functions[name](features[..., start : start + width]))
            start += width
        return ops.concatenate(results, axis=-1)

    def _image(self, image, y):
        if self.scaled:
            y = y * (0.1 * ops.std(image, axis=(1, 2, 3), keepdims=True))
        return image - y if self.residual else y

    def compute_output_shape(self, input_shape):
        return input_shape[1]

    def get_config(self):
        return {
            **super().get_config(),
            "activations": self.activations,
            "residual": self.residual,
            "scaled": self.scaled,
        }
