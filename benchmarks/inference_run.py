# SPDX-License-Identifier: MIT
"""Runs the processes of `inference.py`, and measures them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(command):
    """Runs a job.

    Args:
        command: argument list.

    Returns:
        dict: `seconds`, from the start of the process to its end, and `memory_gb`, its largest
        resident memory; or `failed`, the last line that it wrote.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        report = Path(folder) / "memory.json"
        start = time.perf_counter()
        process = subprocess.run(
            [sys.executable, "-IS", HERE / "measured.py", report, *map(str, command)],
            env=_environment(command),
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or [f"status {process.returncode}"]
            return {"failed": lines[-1]}
        return {"seconds": seconds, **json.loads(report.read_text())}


def run_child(name, *arguments):
    """Runs a script of this folder in a process of its own; returns the JSON it prints last."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _environment(command):
    """TensorFlow 2 sets the first in its own process; TensorFlow 1 must inherit none of them."""
    dropped = {"TF2_BEHAVIOR"}
    if "inference_original.py" in str(command[1]):
        dropped |= {"PYTHONPATH", "KERAS_BACKEND"}
    return {key: value for key, value in os.environ.items() if key not in dropped}
