# SPDX-License-Identifier: MIT
"""What a job on OpenVINO loads, and that TensorFlow is loaded silently by workers, too."""

import subprocess
import sys

import pytest
from startup import start_up_lines, user_environment

JOB = """
import sys
from segsrgan.cli.job_model import main
status = main(sys.argv[1:])
print(status, sorted({"keras", "tensorflow", "jax", "torch", "pandas"} & set(sys.modules)))
"""
# Whoever looks up a host leaves a file beside the CSV.
WATCHED = """
import socket, sys
from pathlib import Path
def look_up(*arguments, **options):
    Path(sys.argv[2]).with_name("network").touch()
    raise OSError("no network")
socket.getaddrinfo = look_up
"""


def run(code, csv, weights, *flags):
    arguments = ["-p", csv, "-wp", weights, "-pa", "16", "-n", "1", *flags]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=user_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not start_up_lines(done.stderr)
    return done.stdout.splitlines()[-1]


def test_a_job_on_openvino_loads_no_other_library_and_looks_up_no_host(image, table, tiny):
    pytest.importorskip("openvino")
    csv = table(image())
    assert run(WATCHED + JOB, csv, tiny, "--engine", "openvino") == "0 []"
    assert not csv.with_name("network").exists()  # OpenVINO would report its use


@pytest.mark.slow
def test_tensorflow_starts_silently_on_workers(image, table, tiny):
    pytest.importorskip("distributed")
    flags = ("--engine", "tensorflow", "--dask", "local:1")
    assert run(JOB, table(image()), tiny, *flags).startswith("0 [")
