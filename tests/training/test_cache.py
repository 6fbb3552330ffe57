# SPDX-License-Identifier: MIT
"""The folder of decoded volumes that several trainings share."""

import errno
import logging
import os

import numpy as np
import pytest
from training.samples import ball, epoch, same, write_table

from segsrgan.errors import UserError
from segsrgan.networks import GeneratorSpec
from segsrgan.training import cache as module
from segsrgan.training.cache import Cache
from segsrgan.training.cases import read_cases
from segsrgan.training.dataset import Dataset
from segsrgan.training.degradation import Degradation
from segsrgan.training.patches import Cutting
from segsrgan.volumes import write_volume

PARTS = ["image", "label"]
IMAGE = np.arange(6, dtype="float32").reshape(1, 2, 3)


def read():
    """The arrays that the cache is to keep; counts its calls."""
    read.calls += 1
    return {"image": IMAGE, "label": np.array([True])}


@pytest.fixture
def source(tmp_path):
    """A file that arrays are made from."""
    read.calls = 0
    path = tmp_path / "brain.nii.gz"
    path.write_text("voxels")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "new" / "folder"


def entries(folder):
    return {path.name.split(".")[0] for path in folder.glob("*.npy")}


def test_arrays_are_read_once_and_mapped_from_then_on_unless_they_are_damaged(folder, source):
    with Cache(folder) as cache:
        for _ in range(2):
            arrays = cache.load([source], {}, PARTS, read)
            assert read.calls == 1 and list(arrays) == PARTS
            np.testing.assert_array_equal(arrays["image"], IMAGE)
        assert isinstance(arrays["image"], np.memmap) and not arrays["image"].flags.writeable
        assert all(name.startswith("brain-") for name in entries(folder))
        (file,) = folder.glob("*.image.npy")
        whole = file.read_bytes()
        for calls, content in enumerate((b"", whole[:-4], b"voxels", None), 2):
            file.unlink() if content is None else file.write_bytes(content)
            arrays = cache.load([source], {}, PARTS, read)
            np.testing.assert_array_equal(arrays["image"], IMAGE)
            assert read.calls == calls and file.read_bytes() == whole


def test_what_the_arrays_depend_on_makes_another_entry(tmp_path, folder, source):
    other, header, dicom = tmp_path / "other.nii.gz", tmp_path / "brain.hdr", tmp_path / "dicom"
    (dicom / "below").mkdir(parents=True)
    for path in (other, header, header.with_suffix(".img"), dicom / "1"):
        path.write_text("voxels")
    seen = 0
    with Cache(folder) as cache:
        for change, *entry in (
            (lambda: None, [source], {"region": [0, 1]}, PARTS),
            (lambda: None, [source], {"region": [0, 2]}, PARTS),
            (lambda: os.utime(source, (1, 1)), [source], {"region": [0, 1]}, PARTS),
            (lambda: source.write_text("other voxels"), [source], {"region": [0, 1]}, PARTS),
            (lambda: None, [source, other], {"region": [0, 1]}, PARTS),
            (lambda: None, [source], {"region": [0, 1]}, PARTS[:1]),
            (lambda: None, [header], {}, PARTS),
            (lambda: header.with_suffix(".img").write_text("other"), [header], {}, PARTS),
            (lambda: None, [dicom], {}, PARTS),
            (lambda: (dicom / "2").write_text("slice"), [dicom], {}, PARTS),
            (lambda: (dicom / "below" / "2").write_text("slice"), [dicom], {}, PARTS),
        ):
            change()
            seen += 1
            for _ in range(2):
                cache.load(*entry, read)
                assert read.calls == len(entries(folder)) == seen


def test_a_file_that_changes_or_a_run_that_ends_meanwhile_leaves_nothing_behind(folder, source):
    def changing():
        source.write_text("changed meanwhile")
        return read()

    with Cache(folder) as cache:

        def ending():
            cache.__exit__()
            return read()

        for made in (changing, ending, read):
            assert set(cache.load([source], {}, PARTS, made)) == set(PARTS)
            assert list(folder.iterdir()) == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_removes_what_it_has_made_unless_it_is_told_to_keep_it(keep, folder, source):
    with Cache(folder, keep) as first:
        (folder / "notes.txt").write_text("")
        (folder / "my-array.npy").write_text("")
        first.load([source], {}, PARTS, read)
        with Cache(folder) as second:
            arrays = second.load([source], {}, PARTS, read)
            second.load([source], {"only": "second"}, PARTS, read)
            assert read.calls == 2
        assert len(entries(folder)) == 2  # the first one's and the stranger
    assert {path.name for path in folder.glob("[mn]*")} == {"notes.txt", "my-array.npy"}
    assert len(list(folder.iterdir())) == 2 + keep * len(PARTS)
    np.testing.assert_array_equal(arrays["image"], IMAGE)


def test_a_folder_that_cannot_be_used_is_an_error_at_the_start(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UserError, match="cannot write into .*folder"):
        Cache(tmp_path / "folder")


def test_a_full_disk_is_reported_once_and_the_training_goes_on(folder, source, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING), Cache(folder) as cache:
        cache.load([source], {"before": 1}, PARTS, read)
        monkeypatch.setattr(module.np, "save", full)
        for _ in range(3):
            cache.load([source], {}, PARTS, read)
        assert read.calls == 4
        cache.load([source], {"before": 1}, PARTS, read)
        assert read.calls == 4  # what is there is still used
        assert len(entries(folder)) == 1 and not list(folder.glob(".*"))
    assert [record.message.count("No space left") for record in caplog.records] == [1]
    assert list(folder.iterdir()) == []


def test_the_same_batches_come_with_the_cache_and_without(tmp_path, folder):
    table = read_cases(write_table(tmp_path, masks=True), fit_mask=True)

    def batches(cache):
        options = {"spec": GeneratorSpec(mask_classes=3), "cache": cache}
        data = Dataset(table.train, Degradation((1, 1, 3)), Cutting(8, 4), 4, 0, **options)
        return list(epoch(data, 1, 1))

    plain = batches(None)
    with Cache(folder) as cache:
        assert same(plain, batches(cache)) and same(plain, batches(cache))
        assert len(entries(folder)) == 1
        # A changed image is read anew.
        image, _ = ball(radius=7.0)
        write_volume(image.with_array(image.array[::-1]), tmp_path / "image0.nii.gz")
        changed = batches(cache)
        assert not same(plain, changed) and same(changed, batches(None))
