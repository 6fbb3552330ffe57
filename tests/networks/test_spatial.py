# SPDX-License-Identifier: MIT
"""The affine sampler and the reassembly of patches."""

import keras
import numpy as np
import pytest
from scipy import ndimage

from segsrgan.networks.spatial import PatchReassembly, SpatialTransformer3D

IDENTITY = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1).astype("float32")


def volume(shape=(5, 6, 7), channels=2):
    return np.random.default_rng(0).random((1, *shape, channels), dtype="float32")


@pytest.mark.parametrize("interpolation", ["trilinear", "nearest"])
def test_each_sample_has_its_shift_by_whole_voxels_which_brings_zeros(interpolation):
    x, shifted = volume(), IDENTITY.copy()
    shifted[:, 3] = (1, 0, -2)
    matrices = np.stack([IDENTITY, shifted])
    same, y = np.asarray(SpatialTransformer3D(interpolation)([x.repeat(2, 0), matrices]))
    np.testing.assert_allclose(same, x[0], atol=1e-6)
    np.testing.assert_allclose(y[:-1, :, 2:], x[0, 1:, :, :-2], atol=1e-6)
    assert not y[-1].any() and not y[:, :, :2].any()


@pytest.mark.parametrize(("interpolation", "order"), [("trilinear", 1), ("nearest", 0)])
def test_any_affine_map_equals_scipys(interpolation, order):
    rng = np.random.default_rng(1)
    x = volume((7, 8, 6), 1)
    matrix = np.concatenate(
        [np.eye(3) + rng.normal(0, 0.2, (3, 3)), rng.normal(0, 1, (3, 1))], axis=1
    ).astype("float32")
    centre = (np.array(x.shape[1:4]) - 1) / 2
    offset = matrix[:, 3] + centre - matrix[:, :3] @ centre
    expected = ndimage.affine_transform(
        x[0, ..., 0], matrix[:, :3], offset, order=order, mode="grid-constant"
    )
    found = np.asarray(SpatialTransformer3D(interpolation)([x, matrix[None]]))
    np.testing.assert_allclose(found[0, ..., 0], expected, atol=1e-5)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="received 'cubic'"):
        SpatialTransformer3D("cubic")


def test_patches_of_a_volume_reassemble_to_it_at_once_and_in_batches():
    x = volume((6, 7, 8), 3)[0]
    starts = np.array([(i, j, k) for i in (0, 1, 2) for j in (0, 3) for k in (0, 2, 4)])
    patches = np.stack([x[i : i + 4, j : j + 4, k : k + 4] for i, j, k in starts])
    layer = PatchReassembly(x.shape[:3])
    np.testing.assert_allclose(np.asarray(layer([patches, starts])), x, atol=1e-6)
    total = layer.begin(3)
    for batch in (slice(0, 5), slice(5, None)):
        total = layer.add(total, patches[batch], starts[batch])
    np.testing.assert_allclose(np.asarray(layer.finish(total)), x, atol=1e-6)


def test_reassembly_is_the_mean_of_what_covers_a_voxel_by_weight_where_there_are_weights():
    # Two patches of two voxels over three: the middle one is 3/4 of the first, 1/4 of the second.
    patches = np.array([[8.0, 8.0], [4.0, 4.0]], "float32").reshape(2, 2, 1, 1, 1)
    weights = np.array([1.0, 3.0], "float32").reshape(2, 1, 1)
    layer, starts = PatchReassembly((4, 1, 1)), np.array([[0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(np.ravel(layer([patches, starts])), [8, 6, 4, 0])
    total = layer.add(layer.begin(1), patches, starts, weights)
    np.testing.assert_allclose(np.ravel(layer.finish(total)), [8, 7, 4, 0])


@pytest.mark.parametrize("layer", [SpatialTransformer3D("nearest"), PatchReassembly((2, 3, 4))])
def test_layers_come_back_from_their_configuration(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
