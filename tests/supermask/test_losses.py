# SPDX-License-Identifier: MIT
"""Losses against direct computations, and what trains on them."""

import keras
import numpy as np
import pytest

from supermask.losses import (
    box_mean,
    l2,
    local_cross_correlation,
    similarity_loss,
)


def images(count=2, shape=(7, 6, 8)):
    return np.random.default_rng(0).random((count, 1, *shape, 1), dtype=np.float32)


def windows(array, window):
    """Yield each voxel and its neighbourhood, cut at the borders."""
    half = window // 2
    for index in np.ndindex(array.shape):
        yield index, array[tuple(slice(max(0, i - half), i + half + 1) for i in index)]


def test_box_means_against_a_direct_loop_with_windows_larger_than_the_volume_too():
    (image,) = images(1)
    for window in (5, 99):
        found = np.asarray(box_mean(image, window))[0, ..., 0]
        for index, values in windows(image[0, ..., 0], window):
            assert found[index] == pytest.approx(values.mean(), abs=1e-5)
    for window in (0, 4, -3):  # without a middle
        with pytest.raises(ValueError, match="odd and positive"):
            box_mean(image, window)


def test_local_correlation_against_a_direct_loop():
    a, b = images()
    found, weight = (np.asarray(x)[0, ..., 0] for x in local_cross_correlation(a, b, 3))
    assert weight.all()
    for (index, first), (_, second) in zip(
        windows(a[0, ..., 0].astype(float), 3), windows(b[0, ..., 0].astype(float), 3), strict=True
    ):
        first, second = first - first.mean(), second - second.mean()
        cross, variances = (first * second).mean(), (first**2).mean() * (second**2).mean()
        assert found[index] == pytest.approx(cross**2 / variances, abs=2e-3)


def test_similarity_knows_no_gain_offset_or_sign():
    a, b = images()
    assert float(similarity_loss(a, a, 5)) == pytest.approx(0, abs=2e-3)
    for image in (0.5 * a + 0.2, 1 - a):
        assert float(similarity_loss(image, a, 5)) == pytest.approx(0, abs=5e-3)
    assert float(similarity_loss(b, a, 5)) > 0.5


def test_similarity_counts_only_where_the_fixed_image_has_contrast():
    a = images(1)[0]
    padded = np.pad(a, ((0, 0), (20, 20), (0, 0), (0, 0), (0, 0)))
    assert float(similarity_loss(padded, padded, 3)) < 0.01
    flat = np.zeros_like(a)
    assert float(similarity_loss(a, flat, 3)) == 1  # nothing to be similar to: no NaN


def test_precision_does_not_suffer_from_an_offset_or_a_large_volume():
    rng = np.random.default_rng(1)
    a = rng.random((1, 40, 40, 40, 1), dtype=np.float32)
    b = np.clip(a + rng.normal(0, 0.2, a.shape).astype(np.float32), 0, 1)
    plain = float(similarity_loss(a, b, 15))
    assert float(similarity_loss(a + 3, b + 3, 15)) == pytest.approx(plain, abs=1e-3)


def test_l2_by_hand():
    a = np.zeros((2, 2, 2, 2, 1), np.float32)
    b = a + np.array([3, 1], np.float32).reshape(2, 1, 1, 1, 1)
    assert float(l2(a, b)) == pytest.approx(2)


@pytest.mark.parametrize("loss", [l2, similarity_loss])
def test_slopes_are_finite_where_images_are_equal_or_flat(loss):
    tf = pytest.importorskip("tensorflow")
    flat, other = np.zeros((1, 7, 6, 8, 1), np.float32), images(1)[0]
    variable = keras.Variable(flat)
    with tf.GradientTape() as tape:
        value = loss(variable, flat) + loss(variable, other)
    assert np.isfinite(np.asarray(tape.gradient(value, variable.value))).all()
