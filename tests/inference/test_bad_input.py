# SPDX-License-Identifier: MIT
"""Every bad input: one line that says what to do, a status that is not 0, the good image done."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from segsrgan.errors import printable
from segsrgan.job_model import main
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.volume import Volume


def write_values(path, *values):
    write_volume(Volume(np.resize(np.float32(values), (8, 8, 4)), (1, 1, 3)), path)


# One for each place that notices; the tests of reading have all kinds.
BAD_IMAGES = {
    "missing": lambda path: None,
    "text": lambda path: path.write_text("not an image\n" * 100),
    "nan": lambda path: write_values(path, 1, 2, np.nan),
    "constant": lambda path: write_values(path, 7),
    "an empty folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
}
BAD_CELLS = {
    "x" * 300 + ".nii": "File name too long",
    "y" * 300 + "/lr.nii": "File name too long",
    "~no such user/lr.nii": "no such file",
    "a\0b.nii": "is not a path",
    "c\0d/lr.nii": "is not a path",
    "scan/lr.nii.gz/lr.nii": "no such file",
}


def lines_of(text):
    """The messages among progress bars."""
    return [line for line in text.splitlines() if line.startswith("job_model.py: error")]


def assert_done(path):
    found = sorted(item.name for item in (path.parent / "Result_with_tiny").rglob("*.nii.gz"))
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
    cells = "\n".join(map(str, [*bad[:3], good, *bad[3:], *BAD_CELLS]))
    csv_path.write_text(cells, encoding="utf-16")
    assert job_model(csv_path) == 1
    lines = lines_of(capsys.readouterr().err)
    assert len(lines) == len(bad) + len(BAD_CELLS)
    for path in bad:
        (line,) = [line for line in lines if line.startswith(f"job_model.py: error: {path}: ")]
        assert "Traceback" not in line and line.count(str(path)) == 1
    for cell, words in BAD_CELLS.items():
        (line,) = [line for line in lines if printable(cell) in line]
        assert words in line
    assert [sorted(path.parent.rglob("*")) for path in bad] == inside
    assert_done(good)


def test_closed_and_unwritable_folders_are_seen_before_anything_is_computed(
    image, table, job_model, capsys, monkeypatch
):
    closed, full, good = (image(f"{name}/lr.nii.gz") for name in ("closed", "full", "good"))
    (full.parent / "Result_with_tiny").write_text("a file in the way")
    in_the_way = image("in the way/lr.nii.gz")
    (in_the_way.parent / "Result_with_tiny").mkdir()
    (in_the_way.parent / "Result_with_tiny" / "patch_16_step_8").touch()
    real = os.stat

    def stat(path, *args, **kwargs):
        if str(path).startswith(str(closed.parent)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert job_model(table(closed, full, in_the_way, good)) == 1
    first, second, third = lines_of(capsys.readouterr().err)
    assert f"{closed}: cannot be opened (Permission denied)" in first
    assert f"{full}: cannot write into" in second
    assert f"{in_the_way}: cannot write into" in third and "patch_16_step_8 (Not a dir" in third
    assert_done(good)
    monkeypatch.setattr("segsrgan.inference.predictor.read_generator", None)  # not even loaded
    assert job_model(table(closed, full)) == 1


def test_a_read_only_data_set_is_seen_at_once_and_its_results_go_elsewhere(
    image, table, job_model, capsys, monkeypatch, tmp_path
):
    closed, real = image("closed/sub-1/lr.nii.gz"), tempfile.TemporaryFile

    def open_file(dir):  # noqa: A002 - the library's name
        if Path(dir).is_relative_to(tmp_path / "closed"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", open_file)
    with monkeypatch.context() as patched:
        patched.setattr("segsrgan.inference.predictor.read_generator", None)  # not even loaded
        assert job_model(table(closed)) == 1
    (line,) = lines_of(capsys.readouterr().err)
    assert "Read-only file system); make it writable, or put the results elsewhere by" in line
    output = tmp_path / "results"
    csv_path = table("sub-1/lr.nii.gz", name="list.csv")
    for _ in range(2):
        assert job_model(csv_path, "--output", output, "-dp", tmp_path / "closed") == 0
    assert " skipped " in capsys.readouterr().out
    assert (output / "list_summary.csv").exists()
    folder = output / "sub-1" / "Result_with_tiny" / "patch_16_step_8"
    assert len(list(folder.iterdir())) == 3 and list(closed.parent.iterdir()) == [closed]


@pytest.mark.parametrize("resolution", ["0.0001", "1e-9,1,1", "1e-200", "1e-320,1,1"])
def test_an_absurdly_fine_resolution_fails_with_the_memory_it_needs(
    image, table, job_model, capsys, resolution
):
    path = image()
    assert job_model(table(path), resolution=resolution) == 1
    (line,) = lines_of(capsys.readouterr().err)
    assert "GiB of memory" in line and "are free" in line and "coarser" in line
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
        (["--patch", "64,128", "--step", "32"], "one group per patch"),
        (["--new_low_res", "0,1,1"], "positive"),
        (["--weights_path", "no such weights"], "no such weights"),
        (["--weights_path", "OTHER"], "weights file"),
        (["--result_folder_name", "a/b"], "result_folder_name"),
        (["--by_batch", "False", "--batch_size", "4"], "--by_batch"),
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
