# SPDX-License-Identifier: MIT
"""The list of heads: what the networks' channels are, and what a further head costs."""

import json

import h5py
import numpy as np
import pytest
from networks.float64 import truth_and_tolerance
from networks.variants import inputs_for, randomise, run, simplified

from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    load_discriminator,
    load_generator,
    outputs,
    read_generator,
    save_generator,
)
from segsrgan.networks.outputs import Head, optional, output_channels


@pytest.fixture
def brain(monkeypatch):
    """The list with a third kind of head, as somebody would write it who needs a brain mask."""
    head = Head("brain", "sigmoid", optional("brain"), "Brain_image", "charbonnier", "Brain", 1)
    monkeypatch.setattr(outputs, "HEADS", (*outputs.HEADS, head))
    return head


def places(spec):
    return {head.name: (place.start, place.stop) for head, place in output_channels(spec).items()}


def test_channels_are_those_of_the_released_networks():
    assert places(GeneratorSpec()) == {"sr": (0, 1), "cortex": (1, 2)}
    assert places(GeneratorSpec(mask_classes=3)) == {"sr": (0, 1), "cortex": (1, 2), "mask": (2, 5)}
    assert DiscriminatorSpec(conditional=True, mask_classes=3).channels == 6


def test_a_head_is_added_on_the_list_alone(brain, tmp_path):
    spec = GeneratorSpec(2, conditional=True, mask_classes=3, heads=("brain",))
    assert places(spec) == {"sr": (0, 1), "cortex": (1, 2), "mask": (2, 5), "brain": (5, 6)}
    model = randomise(build_generator(spec))
    inputs = inputs_for(spec)
    expected, atol = truth_and_tolerance(model, inputs)
    np.testing.assert_allclose(run(model, inputs), expected, atol=atol)
    np.testing.assert_allclose(run(simplified(model), inputs[0]), expected, atol=atol)
    critic_spec = DiscriminatorSpec(2, True, 3, patch=16, heads=("brain",))
    critic = randomise(build_discriminator(critic_spec))
    patches = np.random.default_rng(0).random((1, 16, 16, 16, 7), dtype="float32")

    save_generator(model, tmp_path / "w", critic)
    assert read_generator(tmp_path / "w")[0] == spec
    np.testing.assert_array_equal(run(load_generator(tmp_path / "w"), inputs), run(model, inputs))
    copy = load_discriminator(tmp_path / "w")
    assert copy.spec == critic_spec
    np.testing.assert_array_equal(run(copy, patches), run(critic, patches))


def test_networks_without_a_further_head_stay_what_they_are(brain, tmp_path):
    spec = GeneratorSpec(2, mask_classes=3)
    assert spec.channels == 5
    save_generator(build_generator(spec), tmp_path / "w")
    with h5py.File(tmp_path / "w") as file:
        assert "heads" not in json.loads(file["generator"].attrs["spec"])
    assert load_generator(tmp_path / "w").spec == spec


def test_a_spec_refuses_heads_that_are_not_on_the_list():
    with pytest.raises(ValueError, match="some of sr, cortex, mask, received brain"):
        GeneratorSpec(heads=("brain",))
