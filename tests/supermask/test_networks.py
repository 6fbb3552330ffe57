# SPDX-License-Identifier: MIT
"""The segmentor, AlignNet, and the file that holds both."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from scipy import optimize

import supermask.networks
from segsrgan.errors import WeightsError
from segsrgan.networks import describe
from segsrgan.volumes import Grid
from supermask.geometry import Rigid
from supermask.networks import (
    AlignNetSpec,
    SegmentorSpec,
    build_alignnet,
    build_segmentor,
    load_networks,
    motion_matrices,
    motion_of,
    save_networks,
)

SMALL = AlignNetSpec(size=32, spacing=2.0, kernels=(2, 3), hidden=4)


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(0, 0.4, weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.name else values)
    return model


def pair(seed=0):
    return list(np.random.default_rng(seed).random((2, 1, 32, 32, 32, 1), dtype=np.float32))


def test_both_networks_have_the_layers_of_the_papers_code():
    model = build_segmentor()
    names = [f"down_{level}_{part}" for level in range(3) for part in "ab"]
    channels = [model.get_layer(name).filters for name in names]
    assert channels == [32, 64, 64, 128, 128, 256]
    assert model.get_layer("head").kernel_size == (1, 1, 1)
    model = build_alignnet(AlignNetSpec(antisymmetric=False))
    assert [model.get_layer(f"conv_{k}").filters for k in (1, 2, 3)] == [16, 32, 64]
    assert model.get_layer("flat").output.shape[-1] == 4**3 * 64
    assert model.get_layer("hidden").units == 32


def test_the_segmentor_gives_probabilities_of_any_size_with_moving_statistics():
    model = randomised(build_segmentor(SegmentorSpec(kernel=2, levels=2)))
    image = np.random.default_rng(0).random((2, 8, 6, 4, 1), dtype=np.float32)
    found = np.asarray(model(image, training=False))
    assert found.shape == image.shape and 0 <= found.min() < found.max() <= 1
    alone = np.asarray(model(image[:1], training=False))
    np.testing.assert_allclose(found[:1], alone, atol=1e-5)


def test_a_new_alignnet_is_the_identity_and_equal_images_never_move_an_antisymmetric_one():
    (a, b), specs = pair(), (SMALL, replace(SMALL, antisymmetric=False))
    models = [build_alignnet(spec) for spec in specs]
    assert not any(np.asarray(model([a, b])).any() for model in models)
    model, original = map(randomised, models)
    assert np.abs(np.asarray(model([a, b]))).min() > 1e-4
    np.testing.assert_array_equal(np.asarray(model([a, a])), 0)
    np.testing.assert_allclose(np.asarray(model([a, b])), -np.asarray(model([b, a])), atol=1e-6)
    assert np.abs(np.asarray(original([a, a]))).max() > 1e-3


def test_answers_are_in_radians_and_mm_within_their_bounds():
    model = randomised(build_alignnet(SMALL))
    for name in ("angles", "shifts"):
        head = model.get_layer(name)
        head.kernel.assign(np.full(head.kernel.shape, 1e6))
    found = np.abs(np.asarray(model(pair()))[0])
    np.testing.assert_allclose(found[:3], np.pi / 4, rtol=1e-5)
    np.testing.assert_allclose(found[3:], 0.5 * 32 * 2.0 / 2, rtol=1e-5)  # half of half the edge


@pytest.mark.parametrize("antisymmetric", [True, False])
def test_training_and_inference_mean_the_same_motion(antisymmetric):
    spec = replace(SMALL, antisymmetric=antisymmetric)
    parameters = np.array([[0.6, -0.7, 0.5, 13, -24, 5], [0, 0, 0, 3, 2, 1]], np.float32)
    grid = Grid((32, 32, 32), (2.0, 2.0, 2.0), (5, 6, 7), Rigid((0.1, 0.2, 0.3)).rotation)
    found = np.asarray(motion_matrices(parameters, spec))
    for one, row in zip(found, parameters, strict=True):
        np.testing.assert_allclose(one, motion_of(row, grid, spec).voxel_matrix(grid), atol=1e-5)


def test_exchanged_images_give_the_inverse_motion_however_large():
    model = randomised(build_alignnet(SMALL))
    for name in ("angles", "shifts"):
        head = model.get_layer(name)
        head.kernel.assign(20 * head.kernel)
    there, back = (
        np.vstack([motion_matrices(model(images), SMALL)[0], (0, 0, 0, 1)])
        for images in (pair(), pair()[::-1])
    )
    assert np.abs(there - np.eye(4)).max() > 0.5
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-5)


def test_a_motion_has_parameters_and_small_ones_are_those_of_the_paper():
    spec = AlignNetSpec()
    grid = Grid((32, 32, 32), (2.0, 2.0, 2.0), (5, 6, 7))
    small = np.array([0.02, -0.01, 0.015, 1, -2, 0.5])
    exact, near = Rigid.in_grid(small, grid), motion_of(small, grid, spec)
    assert np.rad2deg(0.02) > 1 and (exact.inverse() @ near).angle() < 0.02
    np.testing.assert_allclose(near.apply((0, 0, 0)), exact.apply((0, 0, 0)), atol=0.03)
    large = Rigid.in_grid([0.7, -0.7, 0.6, 20, -25, 10], grid)
    found = optimize.least_squares(
        lambda p: (motion_of(p, grid, spec).matrix - large.matrix).ravel(), np.zeros(6)
    )
    assert found.cost < 1e-12 and np.abs(found.x[:3]).max() < np.deg2rad(60)


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (SegmentorSpec, {"kernel": 0}, "kernel must be a whole number from 1 to 512"),
        (AlignNetSpec, {"size": 8}, "size must leave a voxel"),
        (AlignNetSpec, {"kernels": ()}, "kernels must be whole numbers"),
        (AlignNetSpec, {"largest_angle": 2.0}, "must be a number above 0 and up to 1.57"),
    ],
)
def test_a_spec_is_checked(spec, change, message):
    with pytest.raises(ValueError, match=message):
        spec(**change)


def test_a_file_gives_both_networks_back(tmp_path):
    segmentor = randomised(build_segmentor(SegmentorSpec(2, 2, 1.5, "linear")))
    alignnet = randomised(build_alignnet(SMALL))
    path = tmp_path / "w"
    save_networks(path, segmentor, alignnet, license="CC0")
    found = load_networks(path)
    assert found.segmentor.spec == segmentor.spec and found.alignnet.spec == alignnet.spec
    images = pair()
    np.testing.assert_array_equal(found.alignnet(images), alignnet(images))
    np.testing.assert_array_equal(found.segmentor(images[0]), segmentor(images[0]))
    shown = describe(path)  # segsrgan weights show
    assert shown["layout"] == "supermask" and shown["segmentor"]["spacing"] == 1.5
    assert shown["alignnet"]["kernels"] == [2, 3] and shown["metadata"] == {"license": "CC0"}
    assert [item.name for item in tmp_path.iterdir()] == ["w"]


def test_either_network_may_be_missing(tmp_path):
    save_networks(tmp_path / "w", alignnet=build_alignnet(SMALL))
    found = load_networks(tmp_path / "w")
    assert found.segmentor is None and found.alignnet.spec == SMALL


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("segmentor", {"kernel": 10**9}, "kernel must be a whole number from 1 to 512"),
        ("segmentor", {"kernel": 512, "levels": 8}, "misshapen down_7_b/kernel"),
        ("alignnet", {"hidden": 10**9}, "misshapen hidden/kernel"),
        ("alignnet", {"kernels": [2, 10**6]}, "misshapen conv_2/kernel"),
    ],
)
def test_no_network_is_built_that_the_file_cannot_fill(
    tmp_path, monkeypatch, name, change, message
):
    save_networks(tmp_path / "w", build_segmentor(SegmentorSpec(2, 2)), build_alignnet(SMALL))
    with h5py.File(tmp_path / "w", "r+") as file:
        spec = json.loads(file[name].attrs["spec"])
        file[name].attrs["spec"] = json.dumps({**spec, **change})
    built = supermask.networks._KINDS[name][0], lambda spec: pytest.fail("was built")
    monkeypatch.setitem(supermask.networks._KINDS, name, built)
    with pytest.raises(WeightsError, match=message):
        load_networks(tmp_path / "w")


def test_files_that_are_no_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights"):
        load_networks(tmp_path / "nothing")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(WeightsError, match="text: not readable as weights of SuperMask"):
        load_networks(tmp_path / "text")
    save_networks(tmp_path / "w", build_segmentor(SegmentorSpec(2, 1)))
    for change, message in (
        (lambda file: file.pop("segmentor/head/bias"), "missing head/bias"),
        (lambda file: file.attrs.update(format_version=99), "has version 99, this .* up to 1"),
        (lambda file: file.attrs.update(format="segsrgan"), "its format is 'segsrgan'"),
    ):
        with h5py.File(tmp_path / "w", "r+") as file:
            change(file)
        with pytest.raises(WeightsError, match=message):
            load_networks(tmp_path / "w")
