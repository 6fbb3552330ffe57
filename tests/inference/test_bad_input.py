# SPDX-License-Identifier: MIT
"""Every bad input: one line that says what to do, a status that is not 0, the good image done."""

import gzip
import os
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.volume import Volume

# Offsets of the NIfTI header.
PIXDIM, QFORM_CODE = 76, 252


def noise(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def write_array(path, *shape):
    sitk.WriteImage(sitk.GetImageFromArray(noise(*shape)), str(path))


def with_spacing(path, spacing):
    write_volume(Volume(noise(8, 8, 4), (1, 1, 3)), path)
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<hh", data, QFORM_CODE, 1, 0)  # no sform: pixdim counts
    struct.pack_into("<f", data, PIXDIM + 4, spacing)
    path.write_bytes(gzip.compress(bytes(data)))


def truncate(path):
    write_volume(Volume(noise(16, 16, 16), (1, 1, 1)), path)
    path.write_bytes(path.read_bytes()[:-4000])


def write_values(path, value, everywhere=False):
    array = noise(8, 8, 4)
    array[... if everywhere else (2, 2, 2)] = value
    write_volume(Volume(array, (1, 1, 3)), path)


BAD_IMAGES = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("this is no image\n" * 100),
    "truncated": truncate,
    "two axes": lambda path: write_array(path, 8, 8),
    "four axes": lambda path: write_array(path, 3, 4, 8, 8),
    "nan": lambda path: write_values(path, np.nan),
    "infinite": lambda path: write_values(path, np.inf),
    "constant": lambda path: write_values(path, 7, everywhere=True),
    "zero everywhere": lambda path: write_values(path, 0, everywhere=True),
    "zero spacing": lambda path: with_spacing(path, 0.0),
    "negative spacing": lambda path: with_spacing(path, -1.0),
    "spacing that is no number": lambda path: with_spacing(path, np.nan),
    "an empty folder": lambda path: path.mkdir(),
}
BAD_CELLS = {
    "x" * 300 + ".nii": "File name too long",
    "~no such user/lr.nii": "no such file",
    "a\0b.nii": "is not a path",
    "scan/lr.nii.gz/lr.nii": "no such file",
}


def lines_of(text):
    """The messages among progress bars."""
    return [line for line in text.splitlines() if line.startswith("job_model.py: error")]


def assert_done(path, name="tiny"):
    found = sorted(item.name for item in (path.parent / f"Result_with_{name}").rglob("*.nii.gz"))
    assert found == [f"{kind}_patch_16_step_8.nii.gz" for kind in ("Cortex_mask", "Cortex", "SR")]


def left_beside(path):
    return sorted(item.name for item in path.parent.rglob("*") if item != path)


def test_bad_images_are_named_and_the_good_one_is_done(tmp_path, image, job_model, capsys):
    bad = [tmp_path / kind / "image.nii.gz" for kind in BAD_IMAGES]
    for path in bad:
        path.parent.mkdir()
        BAD_IMAGES[path.parent.name](path)
    good, csv_path = image(), tmp_path / "data.csv"
    inside = [sorted(path.parent.rglob("*")) for path in bad]
    cells = "\n".join(map(str, [*bad[:9], good, *bad[9:], *BAD_CELLS]))
    csv_path.write_text(cells, encoding="utf-16")
    assert job_model(csv_path) == 1
    lines = lines_of(capsys.readouterr().err)
    assert len(lines) == len(bad) + len(BAD_CELLS)
    for path in bad:
        (line,) = [line for line in lines if line.startswith(f"job_model.py: error: {path}: ")]
        assert "Traceback" not in line and line.count(str(path)) == 1
    for cell, words in BAD_CELLS.items():
        (line,) = [line for line in lines if cell in line]
        assert words in line
    assert [sorted(path.parent.rglob("*")) for path in bad] == inside
    assert_done(good)


def test_closed_and_unwritable_folders_are_seen_before_anything_is_computed(
    image, table, job_model, capsys, monkeypatch
):
    closed, full, good = (image(f"{name}/lr.nii.gz") for name in ("closed", "full", "good"))
    (full.parent / "Result_with_tiny").write_text("a file in the way")
    real = os.stat

    def stat(path, *args, **kwargs):
        if str(path).startswith(str(closed.parent)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert job_model(table(closed, full, good)) == 1
    first, second = lines_of(capsys.readouterr().err)
    assert f"{closed}: cannot be opened (Permission denied)" in first
    assert f"{full}: cannot write into" in second
    assert_done(good)
    monkeypatch.setattr("segsrgan.inference.predictor.read_generator", None)  # not even loaded
    assert job_model(table(closed, full)) == 1


@pytest.mark.parametrize("resolution", ["0.0001", "1e-9,1,1", "1e-200", "1e-320,1,1"])
def test_an_absurdly_fine_resolution_fails_with_the_memory_it_needs(
    image, table, job_model, capsys, resolution
):
    path = image()
    assert job_model(table(path), resolution=resolution) == 1
    (line,) = lines_of(capsys.readouterr().err)
    assert "GiB" in line and "coarser" in line
    assert left_beside(path) == []


def test_running_out_of_memory_is_explained(image, table, job_model, monkeypatch, capsys):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr("segsrgan.inference.predictor.predict_tiled", fail)
    path = image()
    assert job_model(table(path)) == 1
    assert "out of memory; take a smaller patch" in capsys.readouterr().err
    assert left_beside(path) == ["Result_with_tiny", "results.json"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--patch", "66"], "divisible by 4"),
        (["--patch", "64", "--step", "80"], "between 1 and the patch size 64"),
        (["--patch", "64,128", "--step", "32"], "one group per patch"),
        (["--new_low_res", "0,1,1"], "positive"),
        (["--weights_path", "no such weights"], "no such weights"),
        (["--weights_path", "OTHER"], "weights file"),
        (["--result_folder_name", "a/b"], "result_folder_name"),
        (["--threshold", "2"], "threshold"),
        (["--by_batch", "False", "--batch_size", "4"], "--by_batch"),
        (["--by_batch", "maybe"], "--by_batch"),
        (["--geometry", "legacy", "--interp", "sitk"], "legacy"),
        (["--max_memory", "nan"], "max_memory"),
        (["--dask", "nowhere"], "dask must be local:N"),
        (["--engine", "steam"], "steam"),
        (["--engine", "tensorflow", "--precision", "float16"], "tensorflow computes float32"),
        (["--no_such_flag"], "--no_such_flag"),
        (["--path", "none.csv"], "none.csv: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_end_the_job_with_one_line(
    tmp_path, image, table, tiny, capsys, flags, words
):
    from segsrgan.job_model import main

    other = tmp_path / "other.h5"
    other.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    path = image()
    flags = [str(other) if word == "OTHER" else word for word in flags]
    assert main(["-p", str(table(path)), "-wp", str(tiny), *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("job_model.py: error: ")
    assert words in line
    assert left_beside(path) == []


def test_no_arguments_and_an_empty_table_are_answered_with_one_line(table, job_model, capsys):
    from segsrgan.job_model import main

    assert main([]) == 2
    assert "--path" in capsys.readouterr().err
    assert job_model(table()) == 2
    assert "names no image" in capsys.readouterr().err


def test_weights_of_a_discriminator_are_refused(tmp_path, image, table, job_model, capsys):
    import h5py

    weights = tmp_path / "dx"
    with h5py.File(weights, "w") as file:
        group = file.create_group("DX")
        group.attrs["weight_names"] = [b"DX_conv_dis_1/kernel:0"]
        group["DX_conv_dis_1/kernel:0"] = np.zeros((4, 4, 4, 2, 32), np.float32)
    assert job_model(table(image()), weights=weights) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(weights) in line
