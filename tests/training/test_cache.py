# SPDX-License-Identifier: MIT
"""The folder of decoded volumes that several trainings share."""

import errno
import logging
import os

import numpy as np
import pytest
from training.samples import ball, write_table

from segsrgan.errors import UserError
from segsrgan.networks import GeneratorSpec
from segsrgan.training import cache as module
from segsrgan.training.cache import Cache
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.patches import Cutting
from segsrgan.training.simulation import Simulation
from segsrgan.volumes import write_volume

PARTS = ["image", "label"]


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


def entries(folder):
    return {path.name.split(".")[0] for path in folder.glob("*.npy")}


def test_arrays_are_read_once_and_mapped_from_then_on(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "new" / "folder") as cache:
        for _ in range(2):
            arrays = cache.load([path], {}, PARTS, read)
            assert read.calls == 1 and list(arrays) == PARTS
            np.testing.assert_array_equal(arrays["image"], np.arange(6).reshape(1, 2, 3))
        assert isinstance(arrays["image"], np.memmap) and not arrays["image"].flags.writeable
        assert all(name.startswith("brain-") for name in entries(cache.folder))
    assert list(cache.folder.iterdir()) == []


def test_what_the_arrays_depend_on_makes_another_entry(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {"region": [0, 1]}, PARTS, read)
        cache.load([path], {"region": [0, 2]}, PARTS, read)
        assert read.calls == 2
        os.utime(path, (1, 1))
        cache.load([path], {"region": [0, 1]}, PARTS, read)
        path.write_text("other voxels")
        cache.load([path], {"region": [0, 1]}, PARTS, read)
        other = tmp_path / "other.nii.gz"
        other.write_text("voxels")
        cache.load([path, other], {"region": [0, 1]}, PARTS, read)
        cache.load([path], {"region": [0, 1]}, PARTS[:1], read)
        assert read.calls == 6 and len(entries(cache.folder)) == 6


@pytest.mark.parametrize("part", ["2", "below/2"])
def test_a_slice_added_to_a_folder_makes_another_entry(part, tmp_path, source):
    _, read = source
    dicom = tmp_path / "dicom"
    (dicom / "below").mkdir(parents=True)
    (dicom / "1").write_text("slice")
    with Cache(tmp_path / "folder") as cache:
        cache.load([dicom], {}, PARTS, read)
        cache.load([dicom], {}, PARTS, read)
        assert read.calls == 1
        (dicom / part).write_text("slice")
        cache.load([dicom], {}, PARTS, read)
        assert read.calls == 2


def test_voxels_beside_their_header_count(tmp_path, source):
    _, read = source
    header = tmp_path / "brain.hdr"
    header.write_text("header")
    header.with_suffix(".img").write_text("voxels")
    with Cache(tmp_path / "folder") as cache:
        cache.load([header], {}, PARTS, read)
        header.with_suffix(".img").write_text("other voxels")
        cache.load([header], {}, PARTS, read)
        assert read.calls == 2


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, source):
    path, read = source

    def changing():
        path.write_text("changed meanwhile")
        return read()

    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, PARTS, changing)
        assert not entries(cache.folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "lost", "text"])
def test_a_damaged_entry_is_made_anew(damage, tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, PARTS, read)
        (file,) = cache.folder.glob("*.image.npy")
        whole = file.read_bytes()
        if damage == "lost":
            file.unlink()
        else:
            file.write_bytes({"empty": b"", "cut": whole[:-4], "text": b"voxels"}[damage])
        arrays = cache.load([path], {}, PARTS, read)
        np.testing.assert_array_equal(arrays["image"], np.arange(6).reshape(1, 2, 3))
        assert read.calls == 2 and file.read_bytes() == whole


def test_a_run_removes_what_it_has_made_and_nothing_else(tmp_path, source):
    path, read = source
    first, second = Cache(tmp_path / "folder"), Cache(tmp_path / "folder")
    (first.folder / "notes.txt").write_text("")
    (first.folder / "my-array.npy").write_text("")
    first.load([path], {}, PARTS, read)
    arrays = second.load([path], {}, PARTS, read)
    second.load([path], {"only": "second"}, PARTS, read)
    assert read.calls == 2
    second.close()
    assert len(entries(first.folder)) == 2  # the first one's and the stranger
    first.close()
    assert {path.name for path in first.folder.iterdir()} == {"notes.txt", "my-array.npy"}
    np.testing.assert_array_equal(arrays["image"], np.arange(6).reshape(1, 2, 3))
    first.close()  # once more does nothing


def test_what_a_run_is_told_to_keep_outlives_later_runs(tmp_path, source):
    path, read = source
    with Cache(tmp_path / "folder", keep=True) as cache:
        cache.load([path], {}, PARTS, read)
    with Cache(tmp_path / "folder") as cache:
        cache.load([path], {}, PARTS, read)
        assert read.calls == 1
        cache.load([path], {"mine": 1}, PARTS, read)
    assert len(entries(tmp_path / "folder")) == 1


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UserError, match="cannot write into .*folder"):
        Cache(tmp_path / "folder")


def test_a_full_disk_is_reported_once_and_the_training_goes_on(
    tmp_path, source, monkeypatch, caplog
):
    path, read = source

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING), Cache(tmp_path / "folder") as cache:
        cache.load([path], {"before": 1}, PARTS, read)
        monkeypatch.setattr(module.np, "save", full)
        for _ in range(3):
            cache.load([path], {}, PARTS, read)
        assert read.calls == 4
        cache.load([path], {"before": 1}, PARTS, read)
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

    assert set(cache.load([path], {}, PARTS, late)) == {"image", "label"}
    assert set(cache.load([path], {}, PARTS, read)) == {"image", "label"}
    assert list((tmp_path / "folder").iterdir()) == []


def test_the_same_batches_come_with_the_cache_and_without(tmp_path):
    table = read_cases(write_table(tmp_path, masks=True), fit_mask=True)
    simulation, spec = Simulation((1, 1, 3)), GeneratorSpec(mask_classes=3)

    def batches(cache):
        data = Dataset(table.train, simulation, Cutting(8, 4), 4, 0, spec=spec, cache=cache)
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
    table = read_cases(write_table(tmp_path, masks=True), fit_mask=True)
    with Cache(tmp_path / "folder") as cache:
        for classes in (0, 3, 0):
            spec = GeneratorSpec(mask_classes=classes)
            data = Dataset(
                table.train, Simulation((1, 1, 3)), Cutting(8), 4, 0, spec=spec, cache=cache
            )
            assert next(data.epoch(1, 0)).target.shape[-1] == spec.channels
        assert len(entries(cache.folder)) == 2
        assert len(list(cache.folder.glob("*.Mask_image.npy"))) == 1
