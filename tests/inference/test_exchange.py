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

from segsrgan.errors import UserError
from segsrgan.files import locked, stamp
from segsrgan.inference import records
from segsrgan.inference.places import Place, choose_places

REPOSITORY = Path(__file__).resolve().parents[2]
PAIR = (64, 32)
NAME = "patch_64_step_32"
START = """
import os, signal, sys
from pathlib import Path
from segsrgan.inference import places

def write(place, text, settings=None, mask=False):
    with place.replacing((64, 32), settings or {"text": text}, mask) as files:
        for path in files.values():
            path.write_text(text)

def place_of(image):
    return places.choose_places([Path(image)], "w")[0]
"""
KILLED = """
left = int(sys.argv[2])
def replace(source, target, real=os.replace):
    global left
    left -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else real(source, target)
os.replace = replace
write(place_of(sys.argv[1]), "new")
"""
OFTEN = """
import time
def slowly(source, target, real=os.replace):
    time.sleep(0.003)
    real(source, target)
os.replace = slowly
place = place_of(sys.argv[1])
for number in range(20):
    write(place.claim(), sys.argv[2])
"""
CLAIM = """
place = place_of(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
place = place.claim()
write(place, place.image.name)
print(place.folder)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", START + code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def write(place, text, mask=False):
    with place.replacing(PAIR, {"text": text}, mask) as files:
        for path in files.values():
            path.write_text(text)


def texts(place):
    """Kind -> content of the results that are there."""
    files = place.files(PAIR, mask=True)
    return {kind: path.read_text() for kind, path in files.items() if path.exists()}


def hidden(folder):
    return [path for path in folder.rglob(".*") if path.exists()]


def whole(text, *more):
    return dict.fromkeys((*more, "Cortex_mask", "SR", "Cortex"), text)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "lr.nii").touch()
    return choose_places([tmp_path / "lr.nii"], "w")[0].claim()


# os.replace is called for: the note "not whole", the mask, the image, the probability, the note.
@pytest.mark.parametrize("calls", range(5))
@pytest.mark.parametrize("old", [True, False])
def test_results_of_a_run_killed_in_the_exchange_are_not_taken_for_whole(place, calls, old):
    if old:
        write(place, "old")
    process = start(KILLED, place.image, calls)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert hidden(place.folder)
    assert place.is_finished(PAIR) == (old and calls == 0)
    if calls == 0:
        assert texts(place) == (whole("old") if old else {})
    write(place, "newer")
    assert place.is_finished(PAIR)
    assert texts(place) == whole("newer")
    assert hidden(place.folder) == []


def test_old_results_stay_until_all_new_ones_are_written(place):
    write(place, "old", mask=True)
    with pytest.raises(OSError, match="full"), place.replacing(PAIR, {}) as files:
        files["Cortex_mask"].write_text("new")
        assert texts(place) == whole("old", "Mask")
        raise OSError("full")
    assert texts(place) == whole("old", "Mask")
    assert place.settings(PAIR) == {"text": "old"}
    assert hidden(place.folder) == []


def test_a_mask_that_the_new_results_do_not_have_goes(place):
    write(place, "old", mask=True)
    write(place, "new")
    assert texts(place) == whole("new")


def test_a_failure_removes_nothing_of_another_process(place):
    write(place, "old")
    theirs = place.folder / f".{NAME}.elsewhere.1.0123456789ab.segsrgan-partial"
    theirs.mkdir()
    (theirs / "SR").touch()
    with pytest.raises(OSError), place.replacing(PAIR, {}):
        write(place, "of another run")
        raise OSError
    assert texts(place) == whole("of another run")
    assert hidden(place.folder) == [theirs]


def test_only_what_dead_runs_left_is_removed(place):
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
            path = place.folder / f".{NAME}.{owner}.{len(kept + removed):012x}.segsrgan-partial"
            make(path)
            if when:
                os.utime(path, (when, when))
            names.append(path)
    busy = place.folder / f".{NAME}.elsewhere.1.{0:012x}.segsrgan-partial"
    busy.mkdir()
    (busy / "SR").touch()  # just written to, whatever the folder's time says
    os.utime(busy, (old, old))
    foreign = place.folder / ".other.partial"
    foreign.touch()
    write(place, "new")
    assert set(hidden(place.folder)) == {*kept, busy, foreign}


def test_runs_of_the_same_job_leave_the_results_of_one_of_them(place):
    processes = [start(OFTEN, place.image, text) for text in "abc"]
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
    assert [process.wait() for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    (text,) = set(texts(place).values())
    assert texts(place) == whole(text)
    assert place.settings(PAIR) == {"text": text}
    assert hidden(place.folder) == []


def test_an_exchange_waits_for_that_of_another_run(place):
    write(place, "old")
    with locked(place.folder):
        process = start("write(place_of(sys.argv[1]), 'new')", place.image)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert texts(place) == whole("old")
    process.communicate(timeout=60)
    assert texts(place) == whole("new")


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
        assert texts(Place(image, folder)) == whole(name)
        assert choose_places([image], "w") == [Place(image, folder)]


def test_a_folder_claimed_by_another_image_is_not_taken(tmp_path):
    for name in ("x.nii", "y.nii"):
        (tmp_path / name).touch()
    (x,), (y,) = (choose_places([tmp_path / name], "w") for name in ("x.nii", "y.nii"))
    assert x.folder == y.folder
    assert x.claim() == x
    assert y.claim().folder == x.folder / "y"
    assert y.claim().folder == x.folder / "y"
    assert x.claim() == x


def test_a_claim_that_comes_a_moment_late_is_lost(tmp_path, monkeypatch):
    def create(path, text, real=records.create_text):
        real(path, text.replace("x.nii", "y.nii"))  # another process, where locks do nothing
        real(path, text)

    monkeypatch.setattr(records, "create_text", create)
    place = Place(tmp_path / "x.nii", tmp_path / "Result_with_w")
    assert not records.claim(place.folder, "x.nii")
    assert records.claim(place.folder, "y.nii")
    with pytest.raises(UserError, match="belong to other images"):
        place.claim()  # the same happens in the folders further down


def test_a_claim_works_on_a_file_system_without_links(tmp_path, monkeypatch):
    def link(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    place = Place(tmp_path / "x.nii", tmp_path / "Result_with_w")
    assert place.claim() == place
    other = Place(tmp_path / "y.nii", place.folder)
    assert other.claim().folder == place.folder / "y"


def test_a_stamp_sees_the_voxels_beside_a_header(tmp_path):
    header, voxels = tmp_path / "t2.hdr", tmp_path / "t2.img"
    for path in (header, voxels, tmp_path / "t2.txt"):
        path.write_bytes(b"1234")
    before = stamp(header)
    assert before[0] == 8 and before == stamp(voxels)
    voxels.write_bytes(b"123456")
    assert stamp(header)[0] == 10 and stamp(tmp_path / "t2.txt")[0] == 4
    assert stamp(tmp_path / "none.hdr") is None
