# SPDX-License-Identifier: MIT
"""File names of any bytes, letters and length, through every command, on a terminal of ASCII."""

import io
import json
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from training.command import PLAIN, Command
from training.samples import ball
from volumes.samples import EVEN, write_series

from segsrgan.cli import (
    evaluate,
    job_model,
    supermask_predict,
    supermask_simulate,
    synthesize,
    train,
)
from segsrgan.cli.weights import export_main
from segsrgan.config import from_toml
from segsrgan.errors import UserError
from segsrgan.files import check_writable, fitting_name, temporary_beside
from segsrgan.tables import read_paths, read_table
from segsrgan.training.settings import TrainingSettings
from segsrgan.volumes import write_volume
from supermask.patients import read_patients
from supermask.training.examinations import true_transforms

LATIN = os.fsdecode(b"K\xf6pf \xe9")  # bytes that are not UTF-8
ESCAPED = "K\\udcf6pf \\udce9"
NAMES = (LATIN, "a\u2028b", "Größe\U0001f9e0", "x" * 243)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")


@pytest.fixture
def run(monkeypatch):
    """Return a function: the status of a command and all that it writes, in ASCII."""

    def call(main, *argv):
        stream = io.TextIOWrapper(io.BytesIO(), "ascii")
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        status = main([str(word) for word in argv])
        stream.flush()
        monkeypatch.undo()
        return status, stream.buffer.getvalue().decode("ascii")

    return call


def write_lines(path, *lines):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    return path


def thick(folder, name, suffix=".nii.gz", largest=200):
    """Writes a small thick stack of whole numbers; returns its path."""
    array = np.random.default_rng(0).integers(0, largest, (6, 16, 16)).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1, 1, 3))
    plain = folder / f"plain{suffix.lower()}"
    sitk.WriteImage(image, str(plain))  # of .mhd, plain.raw too
    if suffix.isupper() and (folder / "plain.raw").exists():
        (folder / "plain.raw").rename(folder / "PLAIN.RAW")
    return plain.rename(folder / f"{name}{suffix}")


def test_images_of_any_name_are_done_named_in_the_summary_and_known_again(tmp_path, run):
    images = [thick(tmp_path, name) for name in NAMES]
    images += [thick(tmp_path, "UPPER", suffix) for suffix in (".NII.GZ", ".MHD", ".NRRD")]
    images.append(thick(tmp_path, LATIN, ".mha"))
    images.append(write_series(tmp_path / f"{LATIN} DICOM", EVEN))
    next(images[-1].iterdir()).rename(images[-1] / f"{LATIN}.DCM")
    table = write_lines(tmp_path / f"{'t' * 240}.csv", *(image.name for image in images))
    command = job_model.main, "--path", table, "--patch", "32", "-n", "1"
    status, text = run(*command)
    assert status == 0 and text.count(" finished ") == 9 and ESCAPED in text
    (summary,) = (path for path in tmp_path.glob("*_summary.csv"))
    assert str(summary) in text and read_paths(summary) == images
    rows = read_table(summary, "columns").rows
    assert all(os.path.isdir(row.get("folder")) for row in rows)
    status, text = run(*command)
    assert status == 0 and text.count(" skipped ") == 9


def test_a_name_with_line_breaks_and_control_characters_is_named_in_one_line(tmp_path, run):
    folder = tmp_path / "a\nb\x1b[2J"
    folder.mkdir()
    (folder / "bad.nii").write_text("no image")
    table = write_lines(folder / "t.csv", "missing.nii", "bad.nii")
    status, text = run(job_model.main, "--path", table, "--patch", "16")
    lines = [line for line in text.splitlines() if str(tmp_path) in line]
    assert status == 1 and "\x1b" not in text and len(lines) == 3
    assert all(line.count("a\\nb\\x1b[2J") == 1 for line in lines)


def test_a_patient_of_any_name_is_done_and_known_again(tmp_path, run):
    stack = thick(tmp_path, LATIN)
    mask = thick(tmp_path, f"{LATIN}_mask", largest=2)
    command = supermask_predict.main, "--path", tmp_path, "-o", tmp_path / "o\xf6"
    status, text = run(*command)
    assert (status, ESCAPED in text) == (0, True)
    (record,) = (tmp_path / "o\xf6").glob("*/results.json")
    entry = json.loads(record.read_text(encoding="utf-8"))["results"][""]  # strictly
    assert entry["stacks"] == [{"stack": str(stack), "mask": str(mask), "series": None}]
    status, text = run(*command)
    assert status == 0 and ": skipped; " in text


def test_examinations_made_of_files_of_any_name_are_read_by_their_table(tmp_path, run):
    write_volume(ball()[1], tmp_path / f"{LATIN}.nii.gz")
    flags = "--masks", tmp_path / f"{LATIN}.nii.gz", "--slices", 4
    status, text = run(supermask_simulate.main, *flags, "-o", tmp_path / LATIN)
    assert status == 0 and ESCAPED in text
    (patient,) = read_patients(tmp_path / LATIN / "cases.csv")
    assert all(path.exists() for path in (*patient.views, *patient.masks, patient.truth))
    assert true_transforms(patient.views) is not None


def test_measures_of_files_of_any_name(tmp_path, run):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        thick(tmp_path / folder, LATIN)
    output = tmp_path / f"{LATIN}.json"
    places = "--predictions", tmp_path / "a", "--references", tmp_path / "b", "--kind", "image"
    status, text = run(evaluate.main, *places, "--metrics", "psnr", "--json", output)
    assert status == 0 and ESCAPED in text
    (case,) = json.loads(output.read_text(encoding="utf-8"))["cases"]
    assert case["files"]["image"] == str(tmp_path / "a" / f"{LATIN}.nii.gz")


def test_a_training_in_a_folder_of_any_name_and_its_settings(tmp_path, run):
    folder = tmp_path / LATIN
    folder.mkdir()
    training = Command(folder)
    flags = training.flags(PLAIN.replace("--tensorboard False", "--epoch 1"))
    status, text = run(train.main, *flags)
    assert status == 0 and ESCAPED in text
    assert list(training.run.glob("tensorboard/*"))
    settings = from_toml(training.run / "settings.toml", TrainingSettings)
    assert settings["csv"] == str(training.table)


def test_samples_of_a_label_map_of_any_name(tmp_path, run):
    thick(tmp_path, LATIN)
    write_volume(ball()[1], tmp_path / f"{LATIN}.nii.gz")
    table = write_lines(tmp_path / "maps.csv", "Label_map", f"{LATIN}.nii.gz")
    flags = "--number", 1, "--patch", 8, "--tissues", "own", "--cortex_labels", 1
    status, text = run(synthesize.main, "--csv", table, "--output", tmp_path / LATIN, *flags)
    assert status == 0 and f"sample 1: {ESCAPED}.nii.gz" in text
    assert (tmp_path / LATIN / "samples.png").exists()


@pytest.mark.parametrize("file_format", ["onnx", "openvino", "savedmodel"])
def test_an_export_is_refused_where_the_formats_know_utf_8_alone(tmp_path, run, file_format):
    output = tmp_path / LATIN
    status, text = run(export_main, "folded_unet_48", "--format", file_format, "--output", output)
    assert status == 2 and text.endswith(
        f"{ESCAPED}: is not UTF-8, which is needed here; rename it\n"
    )
    assert not list(tmp_path.iterdir())


def test_names_that_are_too_long_are_cut_or_refused_before_the_work(tmp_path):
    long = "ä" * 127
    assert fitting_name(long, "x") == f"{long}x"
    first, second = (fitting_name(f"{long}{end}", "_summary.csv") for end in "xy")
    assert first != second and len(first.encode()) <= 255 and first.endswith("_summary.csv")
    temporary_beside(tmp_path / long).touch()
    with pytest.raises(UserError, match="cannot write into .*File name too long"):
        check_writable(tmp_path / f"{long}xx")
