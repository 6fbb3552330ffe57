# SPDX-License-Identifier: MIT
"""The command in processes of its own: what it loads, and how it ends in the middle."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from inference.stub import wait_for
from startup import start_up_lines, user_environment

from segsrgan.inference import predictor
from segsrgan.volumes import nifti
from segsrgan.volumes.reading import read_volume

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "import sys; from segsrgan.job_model import main; sys.exit(main(sys.argv[1:]))"
# Whoever looks up a host leaves a file beside the CSV.
LOADED = """
import socket, sys
from pathlib import Path
def look_up(*arguments, **options):
    Path(sys.argv[2]).with_name("network").touch()
    raise OSError("no network")
socket.getaddrinfo = look_up
from segsrgan.job_model import main
status = main(sys.argv[1:])
print(sorted({"keras", "tensorflow", "jax", "torch", "pandas"} & set(sys.modules)))
sys.exit(status)
"""


@pytest.fixture
def start(table, tiny):
    def run(images, *options, code=RUN):
        csv = table(*images)
        flags = ["-pa", "16", "-n", "1", "--batch_size", "1", *options]
        command = [sys.executable, "-c", code, "-p", str(csv), "-wp", str(tiny), *flags]
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=user_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Tests that run in the background of a shell would hand on that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


def written(images):
    """Every result -> its time of writing."""
    found = [path for image in images for path in image.parent.glob("Result_*/patch_*/*.nii.gz")]
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.parametrize(
    ("sign", "status", "engine"),
    [
        (signal.SIGINT, 130, "tensorflow"),
        (signal.SIGTERM, 130, "auto"),
        (signal.SIGKILL, -signal.SIGKILL, "auto"),
    ],
)
def test_a_signal_leaves_whole_results_and_the_next_run_goes_on(
    image, start, job_model, table, capsys, sign, status, engine
):
    images = [image("0/lr.nii.gz"), image("1/lr.nii.gz", shape=(64, 64, 22))]
    process = start(images, "--engine", engine)
    record = images[0].parent / "Result_with_tiny" / "results.json"
    # Results count as finished when the record says how they were made, after they appear.
    wait_for(lambda: record.exists() and '"patch_16_step_8": {' in record.read_text(), process)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == status
    # TensorFlow starts silently.
    assert "Traceback" not in errors and not start_up_lines(errors)
    if status == 130:
        assert not [path for image in images for path in image.parent.rglob(".*")]
        assert errors.splitlines()[-1] == (
            "job_model.py: interrupted; the same command goes on from here"
        )
    before = written(images)
    assert len(before) == 3
    assert all(path.is_relative_to(images[0].parent) for path in before)
    assert job_model(table(*images)) == 0
    after = written(images)
    assert len(after) == 6 and {path: after[path] for path in before} == before
    for path in after:
        read_volume(path)
    assert not [path for image in images for path in image.parent.rglob(".*")]
    output = capsys.readouterr().out
    assert "skipped" in output and "finished" in output


@pytest.mark.parametrize(
    "moment", ["read_with_source", "resample", "read_generator", "predict_tiled", "write_volume"]
)
def test_an_interrupt_at_any_moment_is_status_130_and_keeps_old_results(
    image, table, job_model, monkeypatch, capsys, moment
):
    def interrupted(*flags):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            module = nifti if moment == "write_volume" else predictor
            patched.setattr(module, moment, interrupt)
            assert job_model(csv, *flags) == 130
        assert "interrupted" in capsys.readouterr().err

    path = image()
    csv = table(path)
    interrupted()
    # From the beginning of the computation the folder is claimed.
    claimed = moment in ("predict_tiled", "write_volume")
    left = ["Result_with_tiny", "results.json"] if claimed else []
    assert sorted(item.name for item in path.parent.rglob("*") if item != path) == left
    assert job_model(csv) == 0
    before = written([path])
    interrupted("--overwrite")
    assert written([path]) == before


def test_no_arguments_end_the_process_with_the_status_and_one_line():
    command = [sys.executable, "-m", "segsrgan.job_model"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and b"--path" in line


def test_a_job_on_openvino_loads_no_other_library_and_looks_up_no_host(image, start):
    pytest.importorskip("openvino")
    path = image()
    process = start([path], "--engine", "openvino", code=LOADED)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "[]"
    assert not (path.parent.parent / "network").exists()  # OpenVINO would report its use


@pytest.mark.slow
def test_tensorflow_starts_silently_on_workers(image, start):
    pytest.importorskip("distributed")
    process = start([image()], "--engine", "tensorflow", "--dask", "local:1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert not start_up_lines(errors)
