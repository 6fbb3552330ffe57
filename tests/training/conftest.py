# SPDX-License-Identifier: MIT
"""What a test of the training changes for all: the precision, the list of heads."""

import keras
import pytest
from training.command import Command

from segsrgan.networks import GeneratorSpec, outputs


@pytest.fixture(autouse=True)
def float32():
    """Whatever precision a test sets is that test's alone."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def train(tmp_path):
    return Command(tmp_path)


@pytest.fixture
def brain(monkeypatch):
    """The spec of a generator with a further head, a brain mask."""
    width = outputs.optional("brain")
    head = outputs.Head("brain", "sigmoid", width, "Brain_image", "dice", "Brain", 1)
    monkeypatch.setattr(outputs, "HEADS", (*outputs.HEADS, head))
    return GeneratorSpec(2, blocks=1, heads=("brain",))
