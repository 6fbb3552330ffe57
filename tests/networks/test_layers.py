# SPDX-License-Identifier: MIT
"""Layers against hand-computed values and direct formulas."""

import keras
import numpy as np
import pytest
from keras import ops
from networks.float64 import MARGIN, convolve, rounding_of_convolution

from segsrgan.networks import layers


def test_instance_norm_of_two_values_adds_epsilon_to_the_deviation():
    # Mean 2, deviation 1; with epsilon 1 the result is +-1/2, scaled by 3 and shifted by 10.
    x = np.array([1.0, 3.0], "float32").reshape(1, 2, 1, 1, 1)
    layer = layers.InstanceNormalization3D(epsilon=1.0)
    layer.build(x.shape)
    layer.scale.assign([3.0])
    layer.shift.assign([10.0])
    np.testing.assert_allclose(np.ravel(layer(x)), [8.5, 11.5], rtol=1e-6)


def test_instance_norm_keeps_its_digits_under_a_large_offset():
    # The sum of 64^3 values near 100 has to be exact enough for deviations of 1.
    x = np.random.default_rng(0).normal(0, 1, (1, 64, 64, 64, 1)).astype("float32")
    layer = layers.InstanceNormalization3D()
    shifted = np.asarray(layer(x + np.float32(100)))
    np.testing.assert_allclose(shifted, np.asarray(layer(x)), atol=1e-4)


def test_instance_norm_of_a_constant_is_the_shift_with_a_finite_gradient():
    layer = layers.InstanceNormalization3D()
    layer.build((1, 4, 4, 4, 1))
    layer.shift.assign([7.0])
    x = np.full((1, 4, 4, 4, 1), 0.5, "float32")
    np.testing.assert_array_equal(np.asarray(layer(x)), np.full_like(x, 7.0))
    assert np.isfinite(gradient(lambda t: ops.sum(layer(t) ** 2), x)).all()


def gradient(function, x):
    """The gradient of a scalar function of an array, on the backend in use."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x))
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x).numpy()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.ReflectConv3D(5, 7, formulation="plain"), (2, 8, 12, 8, 3)),
        (layers.ReflectConv3D(5, 3, strides=2, formulation="plain"), (2, 8, 12, 8, 3)),
        # The convolution after upsampling in one, per subpixel.
        (layers.ReflectConv3D(4, 3, upsampling=2), (2, 4, 6, 10, 3)),
        (layers.ReflectConv3D(4, 3, upsampling=2), (2, 1, 2, 3, 3)),
        (layers.ReflectConv3D(4, 3, upsampling=(2, 2, 1)), (2, 4, 6, 5, 3)),
        (layers.ReflectConv3D(4, 3, strides=(2, 2, 1)), (2, 4, 6, 5, 3)),
        # The head with strides.
        (layers.ReflectConv3D(1, 7), (1, 8, 6, 10, 3)),
        (layers.ReflectConv3D(6, 7), (1, 4, 4, 4, 3)),
        (layers.ReflectConv3D(7, 7), (1, 4, 4, 4, 3)),
        (layers.ReflectConv3D(2, 7), (1, 5, 4, 4, 3)),
    ],
)
def test_every_formulation_equals_the_sum_over_its_taps(layer, shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    y = np.asarray(layer(x))
    atol = MARGIN * rounding_of_convolution(x, layer.kernel).max()
    np.testing.assert_allclose(y, convolve(layer, x), atol=atol)
    assert layer.compute_output_shape(shape) == y.shape


def test_a_fold_has_a_block_in_each_voxel_and_is_undone():
    x = np.arange(2 * 4 * 2 * 8 * 3, dtype="float32").reshape(2, 4, 2, 8, 3)
    folded = np.asarray(layers.Fold()(x))
    assert folded.shape == layers.Fold().compute_output_shape(x.shape) == (2, 2, 1, 2, 48)
    np.testing.assert_array_equal(folded[0, 1, 0, 1], x[0, 2:, :, 4:].ravel())
    np.testing.assert_array_equal(np.asarray(layers.Unfold()(folded)), x)
    assert layers.Unfold().compute_output_shape(folded.shape) == x.shape


def test_output_head_by_hand():
    image = np.full((1, 1, 1, 2, 1), 0.5, "float32")
    features = np.zeros((1, 1, 1, 2, 4), "float32")
    features[..., 0] = [0.1, -0.3]
    features[..., 1] = [0.0, np.log(3.0)]
    features[..., 2:] = [[0.0, 0.0], [np.log(4.0), 0.0]]
    activations = [("image", 1), ("sigmoid", 1), ("softmax", 2)]
    residual = np.asarray(layers.OutputHead(activations)([image, features]))[0, 0, 0]
    np.testing.assert_allclose(residual[0], [0.4, 0.5, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(residual[1], [0.8, 0.75, 0.8, 0.2], rtol=1e-6)
    direct = np.asarray(layers.OutputHead(activations, residual=False)([image, features]))[0, 0, 0]
    np.testing.assert_allclose(direct[:, 0], [0.1, -0.3], rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        layers.InstanceNormalization3D(epsilon=0.1),
        layers.ReflectConv3D(2, 3, upsampling=2, formulation="plain"),
        layers.ReflectConv3D(2, 3, strides=2),
    ],
    ids=lambda layer: layer.name,
)
def test_layers_come_back_from_their_configuration(layer):
    x = np.random.default_rng(0).random((1, 4, 4, 4, 3), dtype="float32")
    expected = np.asarray(layer(x))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    copy(x)
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.asarray(copy(x)), expected)


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (layers.ReflectConv3D, {"kernel_size": 4}, "must be odd, received 4"),
        (layers.ReflectConv3D, {"kernel_size": 3, "formulation": "quick"}, "received 'quick'"),
        (layers.ReflectConv3D, {"kernel_size": 3, "strides": 2, "upsampling": 2}, "both differ"),
        (layers.OutputHead, {"residual": False, "scaled": True}, "needs residual=True"),
    ],
)
def test_a_layer_refuses_what_it_cannot_do(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(2, **arguments)
