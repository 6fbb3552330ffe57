# SPDX-License-Identifier: MIT
"""The folder of decoded volumes that several trainings share."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training.samples import ball, write_table

from segsrgan.training import cache as module
from segsrgan.training.cache import Cache
from segsrgan.training.dataset import Cutting, Dataset, Simulation
from segsrgan.training.table import read_table
from segsrgan.volumes import write_volume


@pytest.fixture
def source(tmp_path):
    """A file that arrays are made from, and a function that makes them and counts its calls."""
    path = tmp_path / "brain.nii.gz"
    path.write_text("voxels")

    def read():
        read.calls += 1
        return {"image": np.arange(6, dtype="float32").reshape(1, 2, 3), "label": np.array([True])}

    read.calls = 0
    return path, read


def markers(folder):
    return sorted(path.name for path in folder.glob("run-*.json"))


def entries(folder):
    return {path.name.split(".")[0] for path in folder.glob("*.npy")}


def test_arrays_are_read_once_and_mapped_from_then_on(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder") as cache:
        for calls in (1, 1):
            arrays = cache.load([path], {}, read)
            assert read.calls == calls
            assert set(arrays) == {"image", "label"}
            np.testing.assert_array_equal(arrays["image"], np.arange(6).reshape(1, 2, 3))
        assert isinstance(arrays["image"], np.memmap) and not arrays["image"].flags.writeable
        assert all(name.startswith("brain-") for name in entries(cache.folder))
    assert list((tmp_path / "folder").iterdir()) == []


def test_what_the_arrays_depend_on_makes_another_entry(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {"region": [0, 1]}, read)
        cache.load([path], {"region": [0, 2]}, read)
        assert read.calls == 2
        os.utime(path, (1, 1))
        cache.load([path], {"region": [0, 1]}, read)
        path.write_text("other voxels")
        cache.load([path], {"region": [0, 1]}, read)
        other = tmp_path / "other.nii.gz"
        other.write_text("voxels")
        cache.load([path, other], {"region": [0, 1]}, read)
        assert read.calls == 5 and len(entries(cache.folder)) == 5
        (tmp_path / "dicom").mkdir()
        (tmp_path / "dicom" / "1").write_text("slice")
        cache.load([tmp_path / "dicom"], {}, read)
        (tmp_path / "dicom" / "2").write_text("slice")
        cache.load([tmp_path / "dicom"], {}, read)
        assert read.calls == 7


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, source):
    path, read = source

    def changing():
        path.write_text("changed meanwhile")
        return read()

    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, changing)
        assert not entries(cache.folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "lost", "swapped"])
def test_a_damaged_entry_is_made_anew(damage, tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, read)
        (file,) = cache.folder.glob("*.image.npy")
        if damage == "lost":
            file.unlink()
        elif damage == "swapped":
            np.save(file, np.zeros(3))
        else:
            file.write_bytes(file.read_bytes()[: -4 if damage == "cut" else 0])
        arrays = cache.load([path], {}, read)
        np.testing.assert_array_equal(arrays["image"], np.arange(6).reshape(1, 2, 3))
        assert read.calls == 2


def test_two_runs_share_entries_and_the_last_one_removes_them(tmp_path, source):
    path, read = source
    first, second = Cache(tmp_path / "folder"), Cache(tmp_path / "folder")
    assert len(markers(first.folder)) == 2
    first.load([path], {}, read)
    first.load([path], {"only": "first"}, read)
    arrays = second.load([path], {}, read)
    assert read.calls == 2
    first.close()
    assert len(entries(first.folder)) == 1 and len(markers(first.folder)) == 1
    np.testing.assert_array_equal(arrays["image"], second.load([path], {}, read)["image"])
    assert read.calls == 2
    second.close()
    assert list(first.folder.iterdir()) == []
    first.close()  # once more does nothing


def test_what_a_run_is_told_to_keep_outlives_later_runs(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder", keep=True) as cache:
        cache.load([path], {}, read)
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, read)
        assert read.calls == 1
        cache.load([path], {"mine": 1}, read)
    assert len(entries(tmp_path / "folder")) == 1 and not markers(tmp_path / "folder")


KILLED = """
import sys, time
import numpy as np
from segsrgan.training.cache import Cache
cache = Cache(sys.argv[1])
cache.load([sys.argv[2]], {}, lambda: {"image": np.zeros(3)})
print("ready", flush=True)
time.sleep(60)
"""


def test_a_killed_run_leaves_entries_that_the_next_one_uses_and_removes(tmp_path, source):
    path, read = source
    folder = tmp_path / "folder"
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(path)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert run.stdout.readline() == "ready\n"
        with Cache(folder) as cache:
            cache.load([path], {"mine": 1}, read)
            assert len(markers(folder)) == 2
        # It lives: its entry stays.
        assert len(markers(folder)) == 1 and len(entries(folder)) == 1
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
    assert len(markers(folder)) == 1
    with Cache(folder) as cache:
        assert markers(folder) == [cache._marker.name]
        cache.load([path], {}, read)
        assert read.calls == 1  # only the one above: the killed run's entry is used
    assert list(folder.iterdir()) == []


def test_a_later_process_of_the_same_number_is_not_taken_for_the_run(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    marker = folder / f"run-{module._host()}-{os.getpid()}-0123abcd.json"
    marker.write_text(json.dumps({"birth": "not mine", "entries": []}))
    with Cache(folder):
        assert not marker.exists()


def test_a_run_of_another_computer_counts_as_living_for_a_day(tmp_path, source):
    path, read = source
    folder = tmp_path / "folder"
    with Cache(folder, keep=False) as cache:
        cache.load([path], {}, read)
        (entry,) = entries(folder)
        marker = folder / "run-another-host-1-0123abcd.json"
        marker.write_text(json.dumps({"birth": "1", "entries": [entry]}))
    assert entries(folder) == {entry}
    old = time.time() - 25 * 3600
    os.utime(marker, (old, old))
    Cache(folder).close()
    assert list(folder.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path, source):
    path, read = source
    folder = tmp_path / "folder"
    folder.mkdir()
    names = ("notes.txt", "my-array.npy", "run-away.json", "run-a-1-01234567.json")
    for name in names:
        (folder / name).write_text("{}")
    with Cache(folder) as cache:
        cache.load([path], {}, read)
    assert {path.name for path in folder.iterdir()} == set(names)


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match="folder.*cannot be used.*--folder_training_data"):
        Cache(tmp_path / "folder")


def test_a_full_disk_is_reported_once_and_the_training_goes_on(
    tmp_path, source, monkeypatch, caplog
):
    path, read = source

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING), Cache(tmp_path / "folder") as cache:
        cache.load([path], {"before": 1}, read)
        monkeypatch.setattr(module.np, "save", full)
        for _ in range(3):
            cache.load([path], {}, read)
        assert read.calls == 4
        cache.load([path], {"before": 1}, read)
        assert read.calls == 4  # what is there is still used
        assert len(entries(cache.folder)) == 1 and not list(cache.folder.glob(".*"))
    assert [record.message.count("No space left") for record in caplog.records] == [1]
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_thread_that_outlives_the_run_leaves_nothing_behind(tmp_path, source):
    path, read = source
    cache = Cache(tmp_path / "folder")

    def late():
        cache.close()
        return read()

    assert set(cache.load([path], {}, late)) == {"image", "label"}
    assert set(cache.load([path], {}, read)) == {"image", "label"}
    assert list((tmp_path / "folder").iterdir()) == []


def test_the_same_batches_come_with_the_cache_and_without(tmp_path):
    table = read_table(write_table(tmp_path, masks=True), fit_mask=True)
    simulation = Simulation((1, 1, 3))

    def batches(cache):
        data = Dataset(table.train, simulation, Cutting(8, 4), 4, 0, 3, cache=cache)
        return [array for batch in data.epoch(1, 1) for array in batch]

    plain = batches(None)
    with Cache(tmp_path / "folder") as cache:
        for _ in range(2):
            for a, b in zip(plain, batches(cache), strict=True):
                np.testing.assert_array_equal(a, b)
        assert len(entries(cache.folder)) == 1
        # A changed image is read anew.
        image, _ = ball(radius=7.0)
        write_volume(image.with_array(image.array[::-1]), tmp_path / "image0.nii.gz")
        changed = batches(cache)
        assert any((a != b).any() for a, b in zip(plain, changed, strict=True))
        for a, b in zip(batches(None), changed, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_dataset_without_masks_does_not_take_an_entry_for_one_with_them(tmp_path):
    table = read_table(write_table(tmp_path, masks=True), fit_mask=True)
    with Cache(tmp_path / "folder") as cache:
        for classes in (0, 3, 0):
            data = Dataset(
                table.train, Simulation((1, 1, 3)), Cutting(8), 4, 0, classes, cache=cache
            )
            assert next(data.epoch(1, 0)).target.shape[-1] == 2 + classes
            if not classes:
                continue
            assert len(entries(cache.folder)) == 2
            assert len(list(cache.folder.glob("*.mask.npy"))) == 1
