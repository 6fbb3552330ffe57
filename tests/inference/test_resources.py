# SPDX-License-Identifier: MIT
"""What is free, what is needed, what was used."""

import numpy as np
import pytest

from segsrgan.inference import resources
from segsrgan.inference.errors import one_line


def test_the_peak_is_that_of_the_time_inside():
    with resources.PeakMemory() as before:
        pass
    with resources.PeakMemory() as inside:
        block = np.ones(200_000_000 // 8)
        block += 1
    del block
    with resources.PeakMemory() as after:
        pass
    assert inside.bytes > before.bytes + 150_000_000
    assert after.bytes < inside.bytes - 100_000_000


def test_some_memory_is_free():
    assert resources.available_memory() > 10**7


@pytest.mark.parametrize(
    "files",
    [
        {
            "memory.max": "1000",
            "memory.current": "400",
            "memory.stat": "anon 3\ninactive_file 50\n",
        },
        {
            "memory/memory.limit_in_bytes": "1000",
            "memory/memory.usage_in_bytes": "400",
            "memory/memory.stat": "cache 9\ntotal_inactive_file 50\n",
        },
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert resources._cgroup_free(tmp_path) == 650


def test_a_container_without_a_limit_does_not_count(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("400")
    assert resources._cgroup_free(tmp_path) is None


@pytest.fixture
def budget(monkeypatch):
    """A budget of 1000 bytes in all, 400 of them taken already, on a machine with 800 free."""
    monkeypatch.setattr(resources, "resident_memory", lambda: 400)
    monkeypatch.setattr(resources, "available_memory", lambda: 800)
    return resources.MemoryBudget(1000)


def test_a_limit_counts_what_the_program_has_already(budget):
    assert budget.free() == 600
    assert resources.MemoryBudget().free() == 800
    assert resources.MemoryBudget(300).free() == 0


def test_what_is_promised_or_held_is_not_free(budget):
    class Thing:
        pass

    thing = Thing()
    budget.hold(thing, 100)
    with budget.promised(200):
        assert budget.free() == 300
        with budget.promised(1000):
            assert budget.free() == 0
    assert budget.free() == 500
    del thing
    assert budget.free() == 600


def test_what_is_held_is_no_longer_free_on_the_machine_either(monkeypatch):
    # It is resident, so the machine's own figure has it.
    monkeypatch.setattr(resources, "available_memory", lambda: 800)
    budget = resources.MemoryBudget()
    budget.hold(budget, 300)
    assert budget.free() == 800
    monkeypatch.setattr(resources, "available_memory", lambda: None)
    assert budget.free() is None


def test_the_estimate_grows_with_everything_it_depends_on():
    base = resources.required_memory((64, 64, 64), 32, 4, 16, 2)
    assert resources.required_memory((128, 64, 64), 32, 4, 16, 2) > base
    assert resources.required_memory((64, 64, 64), 32, 8, 16, 2) > base
    assert resources.required_memory((64, 64, 64), 32, 4, 32, 2) > base
    assert resources.required_memory((64, 64, 64), 32, 4, 16, 5) > base
    assert resources.required_memory((64, 64, 64), None, 1, 16, 2) > base


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b"), "a b"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (MemoryError(), "out of memory; take a smaller patch or a coarser resolution"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError"),
        (ValueError(), "ValueError"),
        (RuntimeError("x" * 5000), "RuntimeError: " + "x" * 300),
    ],
)
def test_errors_fit_one_line(error, text):
    assert one_line(error) == text
