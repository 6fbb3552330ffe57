# SPDX-License-Identifier: MIT
"""New results take the place of old ones whole, whoever else writes and whenever a run is killed.

The processes here only write small texts, so that every moment can be tried.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segsrgan import files
from segsrgan.errors import UserError
from segsrgan.files import locked
from segsrgan.inference.results import ImageResults, choose_folders

REPOSITORY = Path(__file__).resolve().parents[2]
PAIR = (64, 32)
KINDS = ("Cortex", "Cortex_mask", "SR")
NAME = "patch_64_step_32"
START = """
import os, signal, sys
from pathlib import Path
from segsrgan.inference.results import choose_folders

def write(results, text):
    with results.replacing((64, 32), {"settings": {"text": text}}) as path_of:
        for prefix in ("Cortex", "Cortex_mask", "SR"):
            path_of(prefix).write_text(text)

def results_of(image):
    return choose_folders([Path(image)], "w")[0]
"""
KILLED = """
left = int(sys.argv[2])
def replace(source, target, real=os.replace):
    global left
    left -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else real(source, target)
os.replace = replace
write(results_of(sys.argv[1]), "new")
"""
OFTEN = """
import time
def slowly(source, target, real=os.replace):
    time.sleep(0.003)
    real(source, target)
os.replace = slowly
results = results_of(sys.argv[1])
for number in range(20):
    write(results.claim(), sys.argv[2])
"""
CLAIM = """
results = results_of(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
results = results.claim()
write(results, results.image.name)
print(results.folder)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def write(results, text):
    with results.replacing(PAIR, {"settings": {"text": text}}) as path_of:
        for prefix in KINDS:
            path_of(prefix).write_text(text)


def texts(results):
    """File prefix -> content of the results that are there."""
    folder = results.folder / NAME
    paths = {prefix: folder / results.file_name(prefix, PAIR) for prefix in KINDS}
    return {prefix: path.read_text() for prefix, path in paths.items() if path.exists()}


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.exists()]


def whole(text):
    return dict.fromkeys(KINDS, text)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "lr.nii").touch()
    return choose_folders([tmp_path / "lr.nii"], "w")[0].claim()


# os.replace is called for: the note "not whole", the mask, the image, the probability, the note.
@pytest.mark.parametrize(
    ("calls", "old"), [*((calls, True) for calls in range(5)), (0, False), (3, False)]
)
def test_results_of_a_run_killed_in_the_exchange_are_not_taken_for_whole(results, calls, old):
    if old:
        write(results, "old")
    process = start(KILLED, results.image, calls)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert hidden(results.folder)
    assert results.is_finished(PAIR) == (old and calls == 0)
    if calls == 0:
        assert texts(results) == (whole("old") if old else {})
    write(results, "newer")
    assert results.is_finished(PAIR)
    assert texts(results) == whole("newer")
    assert hidden(results.folder) == []


def test_a_failure_removes_nothing_of_another_process(results):
    write(results, "old")
    theirs = results.folder / f".{NAME}.elsewhere.1.0123456789ab.segsrgan-partial"
    theirs.mkdir()
    (theirs / "SR").touch()
    with pytest.raises(OSError), results.replacing(PAIR, {}):
        write(results, "of another run")
        raise OSError
    assert texts(results) == whole("of another run")
    assert hidden(results.folder) == [theirs]


def test_only_what_dead_runs_left_is_removed(results):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, old = platform.node().replace(".", "-"), time.time() - 3600
    kept, removed = [], []
    for owner, when, names in (
        (f"{host}.{dead.pid}", None, removed),
        (f"{host}.{os.getpid()}", old, kept),
        ("elsewhere.1", old, removed),
        ("elsewhere.1", None, kept),
    ):
        for make in (Path.touch, Path.mkdir):
            path = results.folder / f".{NAME}.{owner}.{len(kept + removed):012x}.segsrgan-partial"
            make(path)
            if when:
                os.utime(path, (when, when))
            names.append(path)
    busy = results.folder / f".{NAME}.elsewhere.1.{0:012x}.segsrgan-partial"
    busy.mkdir()
    (busy / "SR").touch()  # just written to, whatever the folder's time says
    os.utime(busy, (old, old))
    write(results, "new")
    assert set(hidden(results.folder)) == {*kept, busy}


def test_runs_of_the_same_job_leave_the_results_of_one_of_them(results):
    processes = [start(OFTEN, results.image, text) for text in "abc"]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    (text,) = set(texts(results).values())
    assert texts(results) == whole(text)
    assert results.entry(PAIR)["settings"] == {"text": text}
    assert hidden(results.folder) == []


def test_an_exchange_waits_for_that_of_another_run(results):
    write(results, "old")
    with locked(results.folder):
        process = start("write(results_of(sys.argv[1]), 'new')", results.image)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert texts(results) == whole("old")
    process.communicate(timeout=60)
    assert texts(results) == whole("new")


def test_images_of_one_folder_taken_by_several_runs_do_not_mix(tmp_path):
    names = [f"{letter}.nii" for letter in "abc"]
    processes = []
    for name in names:
        (tmp_path / name).touch()
        processes.append(start(CLAIM, tmp_path / name))
    for process in processes:
        assert process.stdout.readline() == "ready\n"  # all have chosen the same folder
    folders = []
    for process in processes:
        output, _ = process.communicate("\n", timeout=60)
        assert process.returncode == 0
        folders.append(Path(output.strip()))
    assert len(set(folders)) == 3
    for name, folder in zip(names, folders, strict=True):
        image = tmp_path / name
        assert texts(ImageResults(image, folder)) == whole(name)
        assert choose_folders([image], "w") == [ImageResults(image, folder)]


def test_a_claim_that_comes_a_moment_late_is_lost(tmp_path, monkeypatch):
    def create(path, text, real=files.create_text):
        real(path, text.replace("x.nii", "y.nii"))  # another process, where locks do nothing
        real(path, text)

    monkeypatch.setattr(files, "create_text", create)
    results = ImageResults(tmp_path / "x.nii", tmp_path / "Result_with_w")
    assert not files.ResultsFolder(results.folder, "x.nii").claim()
    assert files.ResultsFolder(results.folder, "y.nii").claim()
    with pytest.raises(UserError, match="belong to other images"):
        results.claim()  # the same happens in the folders further down
