# SPDX-License-Identifier: MIT
"""What the benchmarks share: timed processes, the machine, medians, Markdown.

As a script it is the parent of a timed process, and small, since a process starts with the largest
memory of the one it was forked from: `python -IS common.py FILE COMMAND ...`.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = ("tensorflow", "keras", "openvino", "jax", "torch", "monai", "numpy")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
# The interpreters of others inherit nothing of ours; TensorFlow 2 sets the first in its process.
OWN_VARIABLES = {"TF2_BEHAVIOR", "PYTHONPATH", "KERAS_BACKEND"}


def ours(*arguments):
    """The command of `benchmarks.ours`."""
    return [sys.executable, "-m", "benchmarks.ours", *map(str, arguments)]


def timed(command):
    """Runs a command as a process of its own, in the root of the clone.

    Returns a dict: `seconds` from its start to its end, `memory_gb`, its largest resident memory,
    and what it printed as JSON in its last line; or `failed`, the last line of its messages.
    """
    dropped = {"TF2_BEHAVIOR"} if str(command[0]) == sys.executable else OWN_VARIABLES
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "memory.json"
        parent = [sys.executable, "-IS", __file__, report, *map(str, command)]
        pipes = {"capture_output": True, "encoding": "utf-8"}
        start = time.perf_counter()
        done = subprocess.run(parent, env=environment, cwd=HERE.parent, **pipes)
        seconds = time.perf_counter() - start
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            return {"failed": "killed, perhaps out of memory" if done.returncode < 0 else lines[-1]}
        last = (done.stdout.strip().splitlines() or [""])[-1]
        printed = json.loads(last) if last.startswith("{") else {}
        return {"seconds": seconds, **json.loads(report.read_text()), **printed}


def interleaved(jobs, runs, save):
    """Runs commands in turns, so that what disturbs the machine disturbs all of them.

    Of `{key: command}`, keys being tuples, each runs `runs` times; what failed is not run again.
    `save` is called after each with all results so far, `{key: list of results}`.
    """
    results = {}
    for _ in range(runs):
        for key, command in jobs.items():
            found = results.setdefault(key, [])
            if not any("failed" in result for result in found):
                found.append(timed(command))
                print(*key, json.dumps(found[-1]), file=sys.stderr, flush=True)
                save(results)


def spread(values):
    """Median, smallest and largest of seconds."""
    return {"seconds": statistics.median(values), "min": min(values), "max": max(values)}


def summary(results):
    """Runs, seconds and memory of the results of one job; the reason where one failed."""
    good = [result for result in results if "failed" not in result]
    row = {"runs": len(good)}
    if len(good) < len(results):
        row["failed"] = results[-1].get("failed", "in an earlier run")
    if good:
        row |= spread([result["seconds"] for result in good])
        row["memory_gb"] = max(result["memory_gb"] for result in good)
    return row


def cost_cells(row, digits=2):
    """Seconds and memory of a `summary` as two texts, or why there are none."""
    if "seconds" not in row:
        return [f"failed: {row['failed']}", ""]
    seconds = "{seconds:.{d}f} ({min:.{d}f} to {max:.{d}f})".format(**row, d=digits)
    return [seconds, f"{row['memory_gb']:.2f}" if "memory_gb" in row else ""]


def mean_and_deviation(values):
    """Mean and standard deviation, 0 of a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def markdown(heads, rows):
    """A table; `heads` a list of str, `rows` lists of cells."""
    first, *rest = (f"| {' | '.join(map(str, line))} |" for line in [heads, *rows])
    return "\n".join([first, f"|{'---|' * len(heads)}", *rest])


def machine():
    """What the figures depend on: processor, cores, memory, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    flags = " ".join(line for line in lines if line.startswith("flags")).split()
    versions = {item.name: item.version for item in distributions() if item.name in LIBRARIES}
    return {
        "processor": names[0] if names else platform.processor(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "python": platform.python_version(),
        **versions,
    }


def _measure(path, *command):
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    Path(path).write_text(json.dumps({"memory_gb": usage.ru_maxrss * 1024 / 1e9}))
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


if __name__ == "__main__":
    sys.exit(_measure(*sys.argv[1:]))
