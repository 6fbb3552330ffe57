# SPDX-License-Identifier: MIT
"""What reading a damaged file may do: give the right image, or one line that names the file."""

import resource

import pytest
from hypothesis import HealthCheck, given, settings

from segsrgan import read_volume
from segsrgan.errors import VolumeError

EXAMPLES = pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.slow)])


def for_all(strategy, examples):
    """A decorator that calls a function at once with examples, at most ten seconds each."""

    def run(function):
        options = {"deadline": 10000, "derandomize": True, "database": None}
        options["suppress_health_check"] = list(HealthCheck)
        settings(max_examples=examples, **options)(given(strategy)(function))()

    return run


def read_or_refused(path):
    """The volume of a file; None where it is refused, in one line, by its name.

    Either takes less than 1 GiB.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        return read_volume(path)
    except VolumeError as error:
        message = str(error)
        assert "\n" not in message and path.name.split(".")[0] in message
        assert "too large" not in message and "memory" not in message
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    return None
