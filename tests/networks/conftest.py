# SPDX-License-Identifier: MIT
"""A file of weights that each test may spoil."""

import pytest
from networks.variants import randomise

from segsrgan.networks import GeneratorSpec, build_generator, save_generator


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    """The bytes of a file of weights."""
    path = tmp_path_factory.mktemp("weights") / "w"
    save_generator(randomise(build_generator(GeneratorSpec(2))), path)
    return path.read_bytes()


@pytest.fixture
def path(content, tmp_path):
    """A file of weights, alone in its folder."""
    (tmp_path / "w").write_bytes(content)
    return tmp_path / "w"
