# SPDX-License-Identifier: MIT
"""The generator in every variant, and the discriminator."""

import itertools
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance
from networks.variants import (
    RELEASED_VARIANTS,
    VARIANTS,
    inputs_for,
    name_of,
    randomise,
    run,
    simplified,
)

from segsrgan.errors import UserError
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    generator_shapes,
)
from segsrgan.networks.architecture import discriminator_shapes
from segsrgan.networks.models import named_weights

every_variant = pytest.mark.parametrize("spec", VARIANTS, ids=name_of)


def count(shapes):
    return sum(map(math.prod, shapes.values()))


@pytest.mark.parametrize(
    ("shapes", "weights"),
    [
        (generator_shapes(GeneratorSpec(16)), 1483664),
        (generator_shapes(GeneratorSpec(8)), 375496),
        (generator_shapes(GeneratorSpec(4, False, True)), 97536),
        (discriminator_shapes(DiscriminatorSpec()), 11150304),
    ],
)
def test_networks_have_as_many_weights_as_the_papers(shapes, weights):
    assert count(shapes) == weights


@every_variant
def test_every_formulation_computes_what_the_layers_say(spec):
    model = randomise(build_generator(spec))
    plain = build_generator(spec, formulation="plain")
    plain.set_weights(model.get_weights())
    inputs = inputs_for(spec)
    expected, atol = truth_and_tolerance(plain, inputs)
    assert expected.shape == (2, 8, 12, 16, 2 + spec.mask_classes)
    for network in (plain, model):
        np.testing.assert_allclose(run(network, inputs), expected, atol=atol)
    alone = simplified(model, (8, 12, 16))
    assert len(alone.inputs) == 1
    image = inputs[0] if spec.conditional else inputs
    np.testing.assert_allclose(run(alone, image), expected, atol=atol)


def test_one_model_serves_patches_of_any_size():
    model = randomise(build_generator(GeneratorSpec(2, unet=True)))
    for shape in ((1, 20, 8, 12), (2, 8, 12, 16)):
        image = inputs_for(model.spec, shape)
        expected, atol = truth_and_tolerance(model, image)
        np.testing.assert_allclose(run(model, image), expected, atol=atol)


@pytest.mark.parametrize(
    "spec", [RELEASED_VARIANTS[4], RELEASED_VARIANTS[3], VARIANTS[-4], VARIANTS[-2]], ids=name_of
)
def test_keras_saves_and_loads_the_model(spec, tmp_path):
    model = randomise(build_generator(spec))
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    inputs = inputs_for(spec)
    np.testing.assert_array_equal(run(copy, inputs), run(model, inputs))


def test_residual_uses_the_image_alone():
    spec = GeneratorSpec(2, conditional=True, blocks=1)
    model = build_generator(spec, head_initializer="zeros")
    inputs = inputs_for(spec)
    np.testing.assert_array_equal(run(model, inputs)[..., 0], inputs[0][..., 0])


def test_every_field_of_the_spec_changes_the_function():
    spec = GeneratorSpec(2, blocks=1)
    image = inputs_for(spec)
    reference = randomise(build_generator(spec))
    direct = build_generator(replace(spec, residual=False))
    scaled = build_generator(replace(spec, scaled=True))
    for other in (direct, scaled):
        other.set_weights(reference.get_weights())
    expected, atol = run(reference, image), truth_and_tolerance(reference, image)[1]
    y0, deviation = run(direct, image)[..., 0], image[..., 0].std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(expected[..., 0], image[..., 0] - y0, atol=atol)
    np.testing.assert_allclose(
        run(scaled, image)[..., 0], image[..., 0] - y0 * deviation / 10, atol=atol
    )
    fields = itertools.product((False, True), (False, True), (True,), (0, 3))
    counts = {count(generator_shapes(GeneratorSpec(2, *values))) for values in fields}
    assert len(counts) == 8  # unet, conditional, classes; residual has no weights
    small = count(generator_shapes(replace(spec, head=3)))
    assert reference.count_params() - small == 2 * 2 * (7**3 - 3**3)


def test_a_scaled_generator_follows_any_linear_change_of_intensities():
    model = randomise(build_generator(GeneratorSpec(2, scaled=True, blocks=1)))
    x = inputs_for(model.spec)
    changed = 0.1 * x + 0.3
    y, z = run(model, x), run(model, changed)
    atol = truth_and_tolerance(model, x)[1] + truth_and_tolerance(model, changed)[1]
    np.testing.assert_allclose(z[..., 0], 0.1 * y[..., 0] + 0.3, atol=atol)
    np.testing.assert_allclose(z[..., 1], y[..., 1], atol=atol)


def test_without_the_map_it_is_nearer_to_the_truth():
    model = randomise(build_generator(GeneratorSpec(2, unet=True, conditional=True)))
    inputs = inputs_for(model.spec)
    inputs[1][:] = 30.0
    expected, _ = truth_and_tolerance(model, inputs)
    plain, rewritten = run(model, inputs), run(simplified(model), inputs[0])
    assert np.abs(rewritten - expected).max() < np.abs(plain - expected).max() / 5


@pytest.mark.parametrize("unet", [False, True])
def test_blocks_and_growth_change_the_channels_and_depth(unet):
    usual = generator_shapes(GeneratorSpec(2, unet))
    assert usual == generator_shapes(GeneratorSpec(2, unet, blocks=1 if unet else 6, growth=2))
    deeper = count(generator_shapes(GeneratorSpec(2, unet, blocks=7)))
    block = 2 * (27 * 8 * 8 + 2 * 8)  # two convolutions and norms of 8 channels
    assert deeper == count(usual) + (6 if unet else 1) * block
    assert generator_shapes(GeneratorSpec(2, unet, growth=3))["gen_conv3/kernel"][-1] == 18


def test_a_folded_unet_has_the_channels_of_its_levels():
    spec = GeneratorSpec(levels=(4, 6, 8, 10), blocks=3)
    shapes = generator_shapes(spec)
    assert shapes["gen_conv1/kernel"] == (3, 3, 3, 16, 4)
    assert [shapes[f"gen_conv{n}/kernel"][-2:] for n in (2, 3, 4)] == [(4, 6), (6, 8), (8, 10)]
    blocks = {name.split("_conv_")[0] for name in shapes if "_conv_" in name}
    levels = sorted(name.removeprefix("gen_block").split("_")[0] for name in blocks)
    assert levels == ["1", *"222", *"333", *"444"]
    assert shapes["gen_1conv/kernel"] == (3, 3, 3, 4, 32)
    assert (spec.multiple, GeneratorSpec().multiple) == (16, 4)
    usual = generator_shapes(replace(spec, blocks=None))
    assert usual == generator_shapes(replace(spec, blocks=2))
    # At the lowest of its levels two of the smallest patch's voxels are left along each axis.
    model = build_generator(replace(spec, scaled=True), head_initializer="zeros")
    image = inputs_for(spec, (1, 32, 48, 32))
    np.testing.assert_array_equal(run(model, image)[..., 0], image[..., 0])
    with pytest.raises(UserError, match=r"divisible by 16, received \(32, 24, 32\)"):
        build_generator(spec, (32, 24, 32))


@pytest.mark.parametrize(
    ("field", "wrong", "rule"),
    [
        ("blocks", 0, "a whole number from 1 to 64"),
        ("growth", 0, "a whole number from 1 to 8"),
        ("head", -1, "a whole number from 1 to 15"),
        ("head", 2, "odd"),
        ("mask_classes", -1, "a whole number from 0 to 256"),
        ("kernel", 2.5, "a whole number from 1 to 512"),
        ("slice_voxels", 3, "0, 2 or 4"),
    ],
)
def test_a_spec_refuses_numbers_out_of_range(field, wrong, rule):
    wrong_levels = [((8,), "2 to 6 numbers, received 1"), ((8, 0), "whole numbers from 1 to 2048")]
    for levels, words in wrong_levels:
        with pytest.raises(ValueError, match=f"levels must be {words}"):
            GeneratorSpec(levels=levels)
    with pytest.raises(ValueError, match=f"{field} must be {rule}, received {wrong}"):
        GeneratorSpec(**{field: wrong})


@every_variant
def test_shapes_without_keras_are_those_of_the_models(spec):
    assert generator_shapes(spec) == shapes_of(build_generator(spec))
    critic = DiscriminatorSpec(2, spec.conditional, spec.mask_classes, patch=32)
    assert discriminator_shapes(critic) == shapes_of(build_discriminator(critic))


def shapes_of(model):
    return {name: tuple(v.shape) for name, v in named_weights(model).items()}


def test_patch_sizes_must_be_divisible_by_4():
    with pytest.raises(ValueError, match=r"divisible by 4, received \(16, 18, 16\)"):
        build_generator(patch=(16, 18, 16))


@pytest.mark.parametrize(("patch", "conditional"), [(16, False), (32, True)])
def test_discriminator_adapts_its_depth_to_the_patch(patch, conditional):
    spec = DiscriminatorSpec(2, conditional, mask_classes=1, patch=patch)
    model = build_discriminator(spec)
    x = np.random.default_rng(0).random((2, *(patch,) * 3, 3 + conditional), dtype="float32")
    assert run(model, x).shape == (2, 1)
    assert spec.depth == {16: 3, 32: 4}[patch]


def test_discriminator_by_hand_without_padding_effects():
    # All kernels zero but the biases: only the last bias and the decision's kernel count.
    model = build_discriminator(DiscriminatorSpec(1, patch=16))
    for variable in model.weights:
        variable.assign(np.zeros(variable.shape, "float32"))
    model.get_layer("conv_dis_3").bias.assign(np.array([1, -1, 0, 0], "float32"))
    decision = np.zeros((2, 2, 2, 4, 1), "float32")
    decision[..., 0, 0], decision[..., 1, 0] = 2.0, 3.0
    model.get_layer("dis_decision").kernel.assign(decision)
    # 8 voxels of 2 * 1 + 3 * leaky(-1) = 2 - 0.03
    x = np.ones((1, 16, 16, 16, 2), "float32")
    np.testing.assert_allclose(run(model, x), [[8 * 1.97]], rtol=1e-6)


@pytest.mark.parametrize("patch", [8, 20, 48])
def test_discriminator_refuses_sizes_that_do_not_end_in_one_number(patch):
    with pytest.raises(ValueError, match=f"power of two from 16 up, received {patch}"):
        DiscriminatorSpec(patch=patch)
