# SPDX-License-Identifier: MIT
"""The command in processes of its own: what it loads, and how it ends in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from inference.stub import wait_for
from startup import start_up_lines, user_environment

from segsrgan.volumes.reading import read_volume

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "import sys; from segsrgan.job_model import main; sys.exit(main(sys.argv[1:]))"
# Kills itself when the given number of files has been written: first the claim, then results.
SUICIDE = (
    "import os, signal; from segsrgan.volumes import nifti\n"
    "left = int(os.environ['FILES'])\n"
    "def fsync(number, real=os.fsync):\n"
    "    global left\n"
    "    left -= 1\n"
    "    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else real(number)\n"
    "nifti.os.fsync = fsync\n"
) + RUN
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
    def run(images, *options, code=RUN, **environment):
        csv = table(*images)
        flags = ["-pa", "16", "-n", "1", "--batch_size", "1", *options]
        command = [sys.executable, "-c", code, "-p", str(csv), "-wp", str(tiny), *flags]
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=user_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            # Tests that run in the background of a shell would hand on that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


def written(images):
    """Every result -> its time of writing."""
    names = [path for path in _files(images) if path.name.endswith("_patch_16_step_8.nii.gz")]
    return {path: path.stat().st_mtime_ns for path in names if not path.parent.name.startswith(".")}


def leftovers(images):
    return [path for path in _files(images) if "/." in str(path)]


def _files(images):
    # os.walk, unlike rglob, puts up with folders that vanish meanwhile.
    for parent in {image.parent for image in images}:
        for folder, _, names in os.walk(parent):
            yield from (Path(folder, name) for name in names)


def assert_whole(images):
    files = written(images)
    assert len(files) == 3 * len(images)
    for path in files:
        read_volume(path)
    assert leftovers(images) == []


@pytest.mark.parametrize(
    ("sign", "status", "engine"),
    [(signal.SIGINT, 130, "tensorflow"), (signal.SIGKILL, -signal.SIGKILL, "auto")],
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
    if sign == signal.SIGINT:
        assert errors.splitlines()[-1] == (
            "job_model.py: interrupted; the same command goes on from here"
        )
    before = written(images)
    assert len(before) == 3
    assert all(path.is_relative_to(images[0].parent) for path in before)
    assert job_model(table(*images)) == 0
    assert_whole(images)
    after = written(images)
    assert {path: after[path] for path in before} == before
    output = capsys.readouterr().out
    assert "skipped" in output and "finished" in output


def test_a_kill_during_the_writing_leaves_no_half_file(image, start, job_model, table):
    images = [image()]
    process = start(images, code=SUICIDE, FILES="2")
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert written(images) == {}
    assert len(leftovers(images)) == 2
    assert job_model(table(*images)) == 0
    assert_whole(images)


def test_two_runs_of_the_same_job_at_once_both_succeed(image, start):
    images = [image("0/a.nii.gz"), image("0/b.nii.gz", seed=1), image("1/lr.nii.gz")]
    processes = [start(images) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    assert_whole(images)


MOMENTS = ("read_volume", "resample", "read_generator", "predict_tiled", "write_volume")


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_at_any_moment_is_status_130_and_keeps_old_results(
    image, table, job_model, monkeypatch, capsys, moment
):
    from segsrgan.inference import predictor
    from segsrgan.volumes import nifti

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


def test_the_process_ends_with_the_status():
    command = [sys.executable, "-m", "segsrgan.job_model", "-p", "none.csv"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


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
