# SPDX-License-Identifier: MIT
"""What is free, what is needed, what was used."""

import numpy as np
import pytest

from segsrgan import memory
from segsrgan.errors import MemoryShortage, one_line


def test_the_peak_is_that_of_the_time_inside():
    with memory.PeakMemory() as before:
        pass
    with memory.PeakMemory() as inside:
        block = np.ones(200_000_000 // 8)
        block += 1
    del block
    with memory.PeakMemory() as after:
        pass
    assert inside.bytes > before.bytes + 150_000_000
    assert after.bytes < inside.bytes - 100_000_000


def group(folder, limit, used, names=("memory.max", "memory.current", "inactive_file")):
    """A control group, 50 bytes of whose usage the system would give back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 3\n{names[2]} 50\n")


def figures(folder, line):
    (folder / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    return sorted(memory._group_figures(folder / "cgroup", folder / "fs"))


def test_the_limits_of_all_groups_around_the_process_count(tmp_path):
    group(tmp_path / "fs", "max", 900)
    group(tmp_path / "fs/slurm", 1000, 400)
    group(tmp_path / "fs/slurm/job_7", "max", 300)
    group(tmp_path / "fs/slurm/job_7/step", 350, 300)
    group(tmp_path / "fs/slurm/job_8", 10, 10)
    assert figures(tmp_path, "0::/slurm/job_7/step") == [100, 650]
    assert figures(tmp_path, "0::/slurm/job_7/gone/on/another/host") == [650]


def test_limits_that_slow_down_and_those_of_version_1_count(tmp_path):
    group(tmp_path / "fs/a.slice", 1000, 400, ("memory.high", "memory.current", "inactive_file"))
    assert figures(tmp_path, "0::/a.slice/user-1000.slice") == [650]
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(tmp_path / "fs/memory/job", 1000, 400, names)
    assert figures(tmp_path, "4:cpu,memory:/job") == [650]
    assert figures(tmp_path, "4:cpu:/job") == []


def test_where_there_are_no_groups_the_machine_counts(tmp_path):
    assert memory._group_figures(tmp_path / "none") == []
    assert memory.available_memory() > 10**7


@pytest.fixture
def budget(monkeypatch):
    """A budget of 1000 bytes in all, 400 of them taken already, on a machine with 800 free."""
    monkeypatch.setattr(memory, "resident_memory", lambda: 400)
    monkeypatch.setattr(memory, "available_memory", lambda: 800)
    return memory.MemoryBudget(1000)


def test_a_limit_counts_what_the_program_has_already(budget):
    assert budget.free() == 600
    assert memory.MemoryBudget().free() == 800
    assert memory.MemoryBudget(300).free() == 0


def test_what_is_promised_or_held_is_not_free(budget):
    thing, unlimited = np.zeros(1), memory.MemoryBudget()
    for each in (budget, unlimited):
        each.hold(thing, 100)
    assert unlimited.free() == 800  # the machine's own figure has what is resident
    with budget.promised(200):
        assert budget.free() == 300
        with budget.promised(1000):
            assert budget.free() == 0
    assert budget.free() == 500
    del thing
    assert budget.free() == 600


def test_a_batch_is_halved_until_it_fits(budget):
    def largest(*sizes):
        return budget.largest_batch(sizes, lambda size: 150 * size, "it", "ask for less")

    assert largest(1, 16) == (4, 600)
    assert largest(1, 3) == (3, 450)
    with pytest.raises(MemoryShortage, match="^it needs about .* within max_memory; ask for less$"):
        largest(8, 16)


def test_the_estimate_grows_with_everything_it_depends_on():
    base = ((64, 64, 64), 32, 4, 16, 2, 0)
    for index, larger in enumerate(((128, 64, 64), None, 8, 32, 5, 10)):
        more = (*base[:index], larger, *base[index + 1 :])
        assert memory.required_memory(*more) > memory.required_memory(*base)


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
