# SPDX-License-Identifier: MIT
"""Writing: complete or not at all."""

import errno
import io
import os
import zlib

import nibabel
import numpy as np
import pytest
from volumes.samples import noise

from segsrgan.errors import VolumeError
from segsrgan.files import temporary_beside
from segsrgan.volumes import Volume, read_volume, write_volume
from segsrgan.volumes.nifti import write_gzip

VOLUME = Volume(noise((5, 6, 70)), (1, 1, 3))


def test_a_volume_comes_back_by_a_name_in_capitals_and_nothing_else_is_left(tmp_path):
    write_volume(VOLUME, tmp_path / "A.NII.GZ")
    assert np.array_equal(read_volume(tmp_path / "A.NII.GZ").array, VOLUME.array)
    assert [path.name for path in tmp_path.iterdir()] == ["A.NII.GZ"]


@pytest.mark.parametrize(
    ("given", "stored"),
    [("u1", "u1"), ("?", "u1"), ("i2", "<i2"), ("f4", "<f4"), ("f2", "<f4"), (">f8", "<f8")],
)
def test_the_dtype_is_kept(tmp_path, given, stored):
    array = (noise((4, 5, 6)) > 0.5).astype(given)
    write_volume(Volume(array, (1, 1, 1)), tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == np.dtype(stored)
    assert np.array_equal(image.get_fdata(), array)


def test_any_memory_layout_is_written_alike(tmp_path):
    contents = set()
    strided = VOLUME.array.repeat(2, axis=0)[::2]
    for array in (VOLUME.array, np.asfortranarray(VOLUME.array), strided):
        write_volume(VOLUME.with_array(array), tmp_path / "a.nii.gz")
        contents.add((tmp_path / "a.nii.gz").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("sizes", [[], [0], [1], [352, 5_000_000, 70_000, 5_000_000, 3]])
def test_the_gzip_stream_is_one_ordinary_member(sizes):
    rng = np.random.default_rng(0)
    pieces = [
        rng.bytes(size) if k % 2 else bytes(range(256)) * (size // 256) + bytes(size % 256)
        for k, size in enumerate(sizes)
    ]
    file = io.BytesIO()
    write_gzip(file, pieces)
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)  # checks the checksum and size, too
    assert stream.decompress(file.getvalue()) == b"".join(pieces)
    assert stream.eof and not stream.unused_data
    random, regular = sum(sizes[1::2]), sum(sizes[::2])
    assert len(file.getvalue()) < 1.01 * random + 0.02 * regular + 200 * (len(sizes) + 1)


@pytest.mark.parametrize(
    ("stop", "error", "match"),
    [
        (OSError(errno.ENOSPC, "No space left"), VolumeError, r"a\.nii: cannot be written \(No sp"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_an_interrupted_writing_leaves_what_was_there(tmp_path, monkeypatch, stop, error, match):
    (tmp_path / "a.nii").write_bytes(b"older")

    def fail(descriptor):
        raise stop

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=match):
        write_volume(VOLUME, tmp_path / "a.nii")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    used = temporary_beside(tmp_path / "a.nii.gz")
    for name in (used.name, used.name.replace(f".{os.getpid()}.", ".999999999.")):
        (tmp_path / name).write_bytes(b"half")
    write_volume(VOLUME, tmp_path / "a.nii.gz")
    assert {file.name for file in tmp_path.iterdir()} == {"a.nii.gz", used.name}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        *((name, r"end the name with \.nii\.gz") for name in ("a.mha", "a.nii.bz2", "a", "a.gz")),
        ("missing/a.nii.gz", "existing folder"),
        ("file/a.nii.gz", "existing folder"),
        ("folder.nii.gz", "cannot be written"),
    ],
)
def test_impossible_places_are_refused_and_nothing_is_left(tmp_path, name, match):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(VolumeError, match=match):
        write_volume(VOLUME, tmp_path / name)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder.nii.gz"}


@pytest.mark.parametrize("array", [np.zeros((2, 2, 2), complex), np.zeros((33000, 1, 1), "u1")])
def test_what_nifti_cannot_hold_is_refused(tmp_path, array):
    with pytest.raises(VolumeError, match="NIfTI"):
        write_volume(Volume(array, (1, 1, 1)), tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())
