# SPDX-License-Identifier: MIT
"""Layers of the SegSRGAN networks, in `keras.ops` alone: they run on TensorFlow, JAX and torch.

All tensors are channels-last: `(batch, x, y, z, channels)`.
"""

import keras
from keras import ops

from segsrgan.networks.rewrites import (
    conv3d,
    edge_pad,
    interleave,
    reflect_pad,
    strided_head_kernel,
    subpixel_kernel,
    upsample_nearest,
)

register = keras.saving.register_keras_serializable(package="segsrgan")

# Up to so many filters a convolution with 8 times as many and stride 2 is the faster one: vector
# units compute 16 channels at once, and a kernel of 7 grows to 8, by (8/7)^3 = 1.5.
FEW_FILTERS = 6


@register
class InstanceNormalization3D(keras.layers.Layer):
    """Normalises each sample and channel over its three spatial axes.

    `scale * (x - mean) / (sqrt(var) + epsilon) + shift`: epsilon is added to the standard
    deviation, not to the variance as in `keras.layers.GroupNormalization`. Statistics are
    computed in float32 whatever the compute dtype. On a constant patch the result is `shift`
    and the gradient is finite.

    Args:
        epsilon: float added to the standard deviation.

    Reference: Ulyanov et al., 2016 (arXiv:1607.08022).
    """

    def __init__(self, epsilon=1e-7, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
        self.shift = self.add_weight(shape=channels, initializer="zeros", name="shift")

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        mean = _spatial_mean(x)
        variance = _spatial_mean(ops.square(x - mean))
        # sqrt has an infinite slope at 0; the inner where keeps it out of the gradient.
        positive = variance > 0
        deviation = ops.where(positive, ops.sqrt(ops.where(positive, variance, 1.0)), 0.0)
        gain = ops.cast(self.scale, "float32") / (deviation + self.epsilon)
        # Centring first keeps precision where the mean is far larger than the deviation.
        return ops.cast((x - mean) * gain + ops.cast(self.shift, "float32"), self.compute_dtype)

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

    - `upsampling=2`, kernel 3: eight 2^3 sub-pixel kernels on the coarse grid, interleaved
      (3.4 times fewer operations);
    - few filters: a stride-2 convolution to 8 times as many, interleaved (vector units are
      filled; needs even sizes).

    Args:
        filters: output channels.
        kernel_size: odd edge length of the kernel.
        strides: 1 or 2.
        upsampling: 1 or 2, factor of the nearest upsampling that comes first.
        formulation: `"fast"` or `"plain"`; equal up to rounding.
        kernel_initializer: a Keras initialiser; the paper's code uses `lecun_normal`.
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
        if strides != 1 and upsampling != 1:
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
        if self.formulation == "fast" and self.upsampling == 2 and self.kernel_size == 3:
            phases = conv3d(edge_pad(x), subpixel_kernel(kernel))
            return interleave(phases, self.filters)[:, 1:-1, 1:-1, 1:-1]
        if self.upsampling > 1:
            x = upsample_nearest(x, self.upsampling)
        x = reflect_pad(x, self.kernel_size // 2)
        even = all(n is not None and n % 2 == 0 for n in inputs.shape[1:4])
        few = self.filters <= FEW_FILTERS and self.strides == 1
        if self.formulation == "fast" and few and even:
            return interleave(conv3d(x, strided_head_kernel(kernel), strides=2), self.filters)
        return conv3d(x, kernel, self.strides)

    def compute_output_shape(self, input_shape):
        sizes = (
            None if n is None else -(-n * self.upsampling // self.strides) for n in input_shape[1:4]
        )
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


@register
class OutputHead(keras.layers.Layer):
    """Turns the last convolution's channels into an image, probabilities and classes.

    Called on `[image (b, x, y, z, 1), features (b, x, y, z, channels)]`; returns
    `(b, x, y, z, channels)` in float32.

    Args:
        activations: pairs of a name and a number of channels: "image" (`image - y`, or `y`
            when not residual), "sigmoid" or "softmax" over the channels.
        residual: whether the image is a correction of the input.
        scaled: whether the correction is in tenths of the patch's own standard deviation.
            Everything before this layer is blind to the scale and offset of its input, because no
            convolution has a bias and instance normalisation follows each; a scaled residual makes
            the image follow any linear change of the input's intensities exactly. Tenths, because
            what is missing is small: the steps of an optimiser then are, too.
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
