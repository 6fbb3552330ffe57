# SPDX-License-Identifier: MIT
"""The benchmarks' runner, what they time and how they tell it."""

import json
import sys

import pytest

from benchmarks import common
from benchmarks.__main__ import BENCHMARKS, main


def test_the_runner_lists_the_benchmarks_and_each_explains_itself(capsys):
    assert main([]) == 0 and main(["no_such_thing"]) == 2
    listed = capsys.readouterr().out
    for name in BENCHMARKS:
        with pytest.raises(SystemExit, match="^0$"):
            main([name, "--help"])
        assert name in listed and f"python -m benchmarks {name}" in capsys.readouterr().out


def test_a_process_is_timed_with_its_memory_and_what_it_prints():
    code = "import time, json; x = b'x' * 10**8; time.sleep(0.2); print(json.dumps({'a': len(x)}))"
    found = common.timed([sys.executable, "-IS", "-c", code])
    assert found["a"] == 10**8
    assert 0.2 < found["seconds"] < 60
    assert 0.1 < found["memory_gb"] < 0.3
    assert common.timed([sys.executable, "-c", "raise SystemExit('no')"]) == {"failed": "no"}


def test_runs_are_interleaved_and_failures_not_repeated(monkeypatch):
    calls = []

    def timed(command):
        calls.append(command)
        return {"failed": "x"} if command == "bad" else {"seconds": len(calls), "memory_gb": 1.0}

    monkeypatch.setattr(common, "timed", timed)
    jobs, saved = {("a", 1): "a", ("bad", 1): "bad"}, []
    common.interleaved(jobs, 3, saved.append)
    assert calls == ["a", "bad", "a", "a"]
    assert len(saved) == 4
    results = saved[-1]
    expected = {"runs": 3, "seconds": 3, "min": 1, "max": 4, "memory_gb": 1.0}
    assert common.summary(results["a", 1]) == expected
    assert common.summary(results["bad", 1]) == {"runs": 0, "failed": "x"}


def test_a_benchmark_runs_and_writes_its_command_and_machine(tmp_path, capsys):
    """The smallest one: supermask-predict on tiny stacks."""
    output = tmp_path / "speed.json"
    assert main(["supermask_speed", "--shrink", "16", "--output", str(output)]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["command"].startswith("python -m benchmarks supermask_speed --shrink 16")
    assert report["machine"]["cores"] > 0
    assert all(row["seconds"] > 0 for row in report["results"].values())
    written = output.with_suffix(".md").read_text(encoding="utf-8")
    assert written.strip() == capsys.readouterr().out.strip()
