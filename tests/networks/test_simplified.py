# SPDX-License-Identifier: MIT
"""The generator rewritten for inference computes what the plain one computes."""

import numpy as np
import pytest
from networks.float64 import truth, truth_and_tolerance
from networks.variants import ALL_VARIANTS, inputs_for, name_of, randomise, run

from segsrgan.networks import GeneratorSpec, build_generator, simplified

every_variant = pytest.mark.parametrize("spec", ALL_VARIANTS, ids=name_of)


def image_of(inputs):
    return inputs[0] if isinstance(inputs, list) else inputs


@every_variant
def test_it_needs_the_image_alone_and_agrees_with_the_truth(spec):
    model = randomise(build_generator(spec))
    shape = (2, *np.random.default_rng(ALL_VARIANTS.index(spec)).choice([8, 12, 16, 20], 3))
    inputs = inputs_for(spec, shape)
    inference = simplified(model)
    assert len(inference.inputs) == 1
    assert inference.spec.channels == spec.channels
    expected, atol = truth_and_tolerance(model, inputs)
    np.testing.assert_allclose(run(inference, image_of(inputs)), expected, atol=atol)


@every_variant
@pytest.mark.parametrize("size", [8, 20])
def test_it_equals_the_plain_network(spec, size):
    model = randomise(build_generator(spec, formulation="plain"))
    inputs = inputs_for(spec, (1, size, 12, 16))
    result, expected = run(simplified(model, (size, 12, 16)), image_of(inputs)), run(model, inputs)
    _, atol = truth_and_tolerance(model, inputs)
    np.testing.assert_allclose(result, expected, atol=2 * atol)


def test_without_the_map_it_is_nearer_to_the_truth():
    model = randomise(build_generator(GeneratorSpec(2, unet=True, conditional=True)))
    inputs = inputs_for(model.spec)
    inputs[1][:] = 30.0
    expected = truth(model, inputs)
    plain, rewritten = run(model, inputs), run(simplified(model), inputs[0])
    assert np.abs(rewritten - expected).max() < np.abs(plain - expected).max() / 5
