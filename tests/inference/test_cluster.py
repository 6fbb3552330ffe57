# SPDX-License-Identifier: MIT
"""A job over Dask: as without it, whatever happens to workers; real schedulers on loopback."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import pytest
from inference.stub import StubRecipe, wait_for

from segsrgan.cli.job_model import Recipe
from segsrgan.errors import UserError
from segsrgan.inference import dask_cluster
from segsrgan.inference.dask_cluster import compute_image, divided, run_on_cluster
from segsrgan.inference.jobs import run_job
from segsrgan.inference.settings import PredictorSettings
from segsrgan.volumes.reading import read_volume

pytest.importorskip("distributed")
REPOSITORY = Path(__file__).resolve().parents[2]
# Of processes that import `inference.stub` too.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]),
}


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def scheduler(tmp_path):
    """Return the file of a scheduler, its two workers, and its process."""
    file, started = tmp_path / "scheduler.json", []

    def start(*arguments):
        command = [sys.executable, "-m", *map(str, arguments), "--scheduler-file", str(file)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, env=ENVIRONMENT, **quiet))

    dask, quiet = "distributed.cli.dask_", "--no-dashboard"
    start(f"{dask}scheduler", "--host", "127.0.0.1", "--port", 0, quiet)
    wait_for(file.exists)
    for _ in range(2):
        start(f"{dask}worker", "--no-nanny", "--nthreads", 1, quiet)
    yield file, started[1:], started[0]
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client():
    """Return the client of two local processes."""
    with dask_cluster._connected("local:2", 2) as client:
        yield client


@pytest.fixture
def local(client, monkeypatch):
    """Return what computes the images of a job on the client's processes."""
    monkeypatch.setattr(dask_cluster, "_connected", lambda *where: nullcontext(client))
    return on("local:2")


def on(address):
    """What computes the images of a job; None: this process."""
    return address and partial(run_on_cluster, address=str(address))


def results(outcomes):
    return sorted((o.image.parent.name, o.patch, o.result, o.detail) for o in outcomes)


def files_of(job):
    found = [path for item in job.results for path in item.image.parent.rglob("*")]
    assert not [path for path in found if path.name.startswith(".")]
    return sorted(str(path) for path in found if path.is_file())


def test_a_lost_workers_images_are_done_by_another_and_a_lost_scheduler_is_named(
    job, notes, scheduler
):
    file, workers, process = scheduler
    todo, killed, progress = job(*"abcd"), [], []
    recipe = StubRecipe(str(notes), seconds=0.4)

    def kill_the_third():
        """Kills the worker that begins the third image, in the middle of it."""
        wait_for(lambda: len(list(notes.iterdir())) > 2)
        last = max(notes.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        name, number = last.name.split(".")
        (victim,) = [worker for worker in workers if worker.pid == int(number)]
        victim.kill()
        victim.wait()
        killed.append(name)

    killer = threading.Thread(target=kill_the_third)
    killer.start()
    found = results(run_job(todo, recipe, lambda *call: progress.append(call), on(file)))
    killer.join()
    assert found == [(name, patch, "finished", "") for name in "abcd" for patch in (8, 16)]
    (name,) = killed
    done_by = {path.name.split(".")[1] for path in notes.glob(f"{name}.*")}
    assert done_by == {str(worker.pid) for worker in workers}
    assert len(files_of(todo)) == 4 * (1 + 1 + 2 * 3)
    assert progress == [("images", done, 4) for done in range(5)]

    found = []
    for outcome in run_job(job(*"efg"), recipe, None, on(file)):
        if not found:
            process.kill()
        found.append(outcome)
    assert found[0].result == "finished" and len(found) == 6
    assert {outcome.detail for outcome in found if outcome.result == "failed"} == {
        "the Dask scheduler was lost; the same command goes on from here"
    }


def test_outcomes_messages_and_files_are_those_without_dask(job, notes, caplog, local):
    caplog.set_level(logging.INFO, "segsrgan")
    todo, recipe = job("a", "bad", "c"), StubRecipe(str(notes))
    found = []
    for compute in (None, local):
        for image in (item.image for item in todo.results):
            shutil.rmtree(image.parent / "Result_with_r", ignore_errors=True)
        outcomes = results(run_job(todo, recipe, None, compute))
        ours = [record for record in caplog.records if record.name.startswith("segsrgan")]
        messages = sorted((r.levelname, r.name, r.getMessage()) for r in ours)
        found.append((outcomes, messages, files_of(todo)))
        caplog.clear()
    assert found[0] == found[1]
    outcomes, messages, _ = found[0]
    assert ("bad", 8, "failed", "is no image") in outcomes
    assert ("WARNING", "segsrgan.stub", "reading c") in messages
    assert len(messages) == 8  # three images are read, one fails, four results have a verdict
    pids = {path.name.split(".")[1] for path in notes.iterdir()} - {str(os.getpid())}
    assert 1 <= len(pids) <= 2


def test_a_predictor_that_cannot_be_made_ends_the_job(job, notes, local):
    with pytest.raises(UserError, match="no such engine on this computer"):
        list(run_job(job("a", "b"), StubRecipe(str(notes), broken=True), None, local))


def test_a_local_cluster_takes_orders_from_nobody_else(client):
    import psutil
    from distributed import Client

    address = client.cluster.scheduler_address
    assert address.startswith("tls://127.0.0.1:")
    with pytest.raises((OSError, ValueError)):
        Client(address.replace("tls", "tcp"), timeout=2)
    listening = [
        connection.laddr
        for process in (psutil.Process(), *psutil.Process().children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {place.ip for place in listening} == {"127.0.0.1"}
    for place in listening:
        with suppress(OSError), socket.create_connection(place, timeout=5) as connection:
            connection.sendall(b"GET /info/main/workers.html HTTP/1.0\r\n\r\n")
            # A handshake without a certificate, or an empty server of pages.
            assert connection.recv(100)[8:13] in (b"", b" 404 ")


def test_an_image_that_kills_every_worker_fails_and_the_others_are_done(job, notes):
    import dask

    todo = job("a", "deadly", "b")
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        found = results(run_job(todo, StubRecipe(str(notes)), None, on("local:1")))
    ends = [(name, result) for name, _, result, _ in found]
    assert ends[::2] == [("a", "finished"), ("b", "finished"), ("deadly", "failed")] == ends[1::2]
    assert all("workers that computed it were lost" in detail for *_, detail in found[4:])
    assert len(list(notes.glob("deadly.*"))) == 2
    # What was done is not done again because the worker that did it is gone.
    assert len(list(notes.glob("a.*"))) == 1


def test_missing_dask_and_a_scheduler_that_does_not_answer_are_explained(job, notes, monkeypatch):
    todo, compute = job("a"), on("tcp://127.0.0.1:9")
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers at tcp://127.0.0.1:9.*dask"):
        list(run_job(todo, StubRecipe(str(notes)), None, compute))
    monkeypatch.setattr(dask_cluster, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'SegSRGAN\[dask\]'"):
        list(run_job(todo, StubRecipe(str(notes)), None, compute))
    list(run_job(todo, StubRecipe(str(notes))))
    # Where nothing is to be done no cluster is needed.
    assert {o.result for o in run_job(todo, None, None, compute)} == {"skipped"}


def order(notes, todo, version=dask_cluster.segsrgan.__version__):
    order = todo, StubRecipe(str(notes)), version, logging.DEBUG
    return compute_image(order, *todo.results, todo.pairs)


def test_a_worker_keeps_its_messages_for_the_one_who_asks(job, notes, caplog):
    outcomes, records = order(notes, job("bad"))
    assert [outcome.result for outcome in outcomes] == ["failed"] * 2
    texts = [record.getMessage() for record in records]
    assert texts[:2] == ["reading bad", "reading bad closely"]
    assert "Traceback" in texts[-1]
    assert caplog.records == []


def test_a_worker_of_another_version_is_refused(job, notes):
    with pytest.raises(UserError, match="the job comes from 0.1; install the same version"):
        order(notes, job("a"), "0.1")
    assert list(notes.iterdir()) == []


def test_a_worker_keeps_its_predictor_as_long_as_the_weights_are_the_same(monkeypatch):
    made = []
    monkeypatch.setattr(Recipe, "__call__", lambda recipe: made.append(recipe.sha256))
    dask_cluster._predictor.cache_clear()
    for sha256 in "aabb":
        dask_cluster._predictor(Recipe("weights", sha256, PredictorSettings(threads=1)))
    assert made == ["a", "b"]


def test_local_workers_share_threads_and_memory(monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 7)
    monkeypatch.setattr(dask_cluster, "available_memory", lambda: 12 * 2**30)

    def parts(**given):
        settings = divided(Recipe("w", "", PredictorSettings(**given)), 3).settings
        return settings.threads, settings.max_memory

    assert parts() == (2, 4.0)
    assert parts(threads=5, max_memory=6.0) == (5, 2.0)


def test_the_command_gives_the_same_with_dask(image, table, job_model, capsys):
    path = image()
    csv, shown, arrays = table(path, "missing.nii"), [], []
    for name, flags in (("alone", ()), ("spread", ("--dask", "local:1"))):
        assert job_model(csv, "-rf", name, *flags) == 1
        shown.append([line.split()[1:4] for line in capsys.readouterr().out.splitlines()])
        sr = path.parent / f"Result_with_{name}/patch_16_step_8/SR_patch_16_step_8.nii.gz"
        arrays.append(read_volume(sr).array)
    assert shown[0] == shown[1] and shown[0][2] == ["16", "8", "finished"]
    assert abs(arrays[0] - arrays[1]).max() < 0.02


INTERRUPTED = """
import sys
from functools import partial
from pathlib import Path
from inference.stub import StubRecipe
from segsrgan.inference.dask_cluster import run_on_cluster
from segsrgan.inference.jobs import Job, run_job
from segsrgan.inference.results import choose_folders
results = choose_folders([Path(path) for path in sys.argv[2:]], "r")
job = Job(tuple(results), ((8, 4),))
compute = partial(run_on_cluster, address="local:2")
try:
    list(run_job(job, StubRecipe(sys.argv[1], seconds=600.0), None, compute))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupt_ends_the_workers_and_leaves_nothing_half_written(job, notes):
    todo = job("a", "b", "c")
    images = [str(item.image) for item in todo.results]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            INTERRUPTED,
            str(notes),
            *images,
        ],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        # Tests that run in the background of a shell would hand on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: len(list(notes.iterdir())) == 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    for note in notes.iterdir():
        assert not Path("/proc", note.name.split(".")[1]).exists()
    assert {Path(name).name for name in files_of(todo)} == {"lr.nii", "results.json"}
