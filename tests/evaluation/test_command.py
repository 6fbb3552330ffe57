# SPDX-License-Identifier: MIT
"""`segsrgan evaluate` on good and bad input: what it prints and writes, and its exit status."""

import json
import os

import numpy as np
import pytest
from evaluation.conftest import cube
from training.samples import rows as rows_of

from segsrgan.cli.main import main as segsrgan
from segsrgan.volumes import read_volume


def errors(capsys):
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("segsrgan evaluate: error: ")]


def test_a_csv_is_measured_printed_and_written(tmp_path, capsys, table, labels, images):
    path = table({"case": "patient 1", **labels, **images}, {"case": "é", **labels})
    out = tmp_path / "scores.csv", tmp_path / "scores.json"
    argv = ["evaluate", "--path", path, "--csv", out[0], "--json", out[1]]
    assert segsrgan([str(word) for word in argv]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("patient 1  0.7500  2.00  0.643") for line in printed)
    assert any(line.startswith("mean ") for line in printed)
    first, second = rows_of(out[0])
    assert (first["case"], float(first["dice"])) == ("patient 1", 0.75)
    assert float(first["psnr"]) == pytest.approx(20, abs=1e-5)
    assert (second["case"], second["psnr"], second["ssim"]) == ("é", "", "")
    found = json.loads(out[1].read_text(encoding="utf-8"))
    assert found["mean"]["dice"] == 0.75
    assert found["n"] == {**dict.fromkeys(found["n"], 2), "psnr": 1, "ssim": 1}


def test_folders_are_measured(save, capsys, command):
    for name in ("a", "b c"):
        save(f"p/Cortex_{name}.nii.gz", cube(4))
        truth = save(f"r/{name}.nii", cube())
    places = ["--predictions", truth.parents[1] / "p", "--references", truth.parent]
    assert command(*places, "--kind", "label", "--metrics", "dice,hd95") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3:5] == [["a", "0.7500", "2.00"], ["b", "c", "0.7500", "2.00"]]


def test_flags_reach_the_measures(save, table, capsys, command):
    both = cube(0, value=3) + cube(5, value=42)
    probability = np.where(both == 42, 0.3, 0.1).astype(np.float32)
    path = table({"label": save("p.nii", probability), "reference_label": save("r.nii", both)})
    assert command("-p", path, "--labels", "42", "--threshold", "0.25", "--metrics", "dice") == 0
    printed = capsys.readouterr().out
    assert "1.0000  label from probabilities" in printed
    assert "class: reference label 42, prediction every label but 0; probabilities from" in printed
    path = table({"label": save("q.nii", both), "reference_label": save("r.nii", both)})
    argv = ["-p", path, "--labels", "3,42", "--predicted_labels", "3", "--metrics", "dice"]
    out = path.with_name("out.csv")
    assert command(*argv, "--quiet", "--csv", out) == 0
    (row,) = rows_of(out)
    assert capsys.readouterr().out == "" and float(row["dice"]) == pytest.approx(2 / 3)


def test_another_grid_needs_resample(save, table, labels, images, capsys, command):
    image = save("i.nii", read_volume(images["image"]).array, origin=(0, 0, 2))
    label = save("p.nii", cube(), origin=(0, 0, 2))  # one slice higher by its header
    path = table({**labels, **images, "label": label, "image": image})
    assert command("-p", path) == 1
    (line,) = errors(capsys)
    assert "p.nii: lies up to 2.00 mm beside its reference" in line
    assert line.endswith("; --resample puts it on that grid")
    assert command("-p", path, "--resample", "--metrics", "dice,assd,psnr") == 0
    printed = capsys.readouterr().out
    assert "0.7500  0.643" in printed and "label resampled, image resampled" in printed


BAD_FILES = {
    "nan": (np.where(cube() > 0, np.nan, 1), "has voxels that are NaN or infinite"),
    "zero": (np.zeros((12, 11, 10)), "every voxel is 0"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_reference_is_reported_and_the_others_go_on(
    kind, tmp_path, save, table, images, capsys, command
):
    array, message = BAD_FILES[kind]
    bad = save("bad.nii.gz", array)
    del images["mask"]
    path = table({"case": "broken", **images, "reference_image": bad}, {"case": "good", **images})
    assert command("-p", path, "--csv", tmp_path / "out.csv") == 1
    captured = capsys.readouterr()
    (line,) = (text for text in captured.err.splitlines() if "error: " in text)
    assert "error: broken: " in line and message in line
    assert "bad.nii.gz" in line
    assert "1 of 2 cases failed" in captured.out
    broken, good = rows_of(tmp_path / "out.csv")
    assert message in broken["error"] and broken["psnr"] == ""
    assert good["error"] == "" and float(good["psnr"]) > 0


@pytest.mark.parametrize("role", ["label", "image", "mask", "baseline"])
def test_every_role_of_a_missing_file_is_reported(role, tmp_path, table, labels, images, command):
    files = {**labels, **images, "baseline": images["image"], role: tmp_path / "none.nii"}
    out = tmp_path / "out.csv"
    assert command("-p", table(files), "--csv", out) == 1
    (row,) = rows_of(out)
    assert row["error"] == f"{tmp_path / 'none.nii'}: no such file or folder; check the path"


def test_a_link_to_itself_fails_its_case_alone(tmp_path, table, labels, capsys, command):
    loop = tmp_path / "loop.nii"
    loop.symlink_to(loop)
    path = table({"case": "a", **labels, "label": loop}, {"case": "b", **labels})
    assert command("-p", path, "--csv", tmp_path / "out.csv") == 1
    assert "loop.nii: " in errors(capsys)[0]
    assert [row["dice"] for row in rows_of(tmp_path / "out.csv")] == ["", "0.75"]


def test_empty_masks_and_lines_without_partner_are_reported(save, table, images, capsys, command):
    empty = {**images, "mask": save("empty.nii", cube(value=0))}
    assert command("-p", table(empty, {"case": "half", "image": images["image"]})) == 1
    masked, half = errors(capsys)
    assert "empty.nii: every voxel is 0, so there is nothing to compare in" in masked
    assert "half: image" in half and "without reference_image" in half


def test_a_line_with_too_many_cells_fails_alone(table, labels, capsys, command, tmp_path):
    path = table({"case": "a", **labels}, {"case": "b, c", **labels}, {"case": "d", **labels})
    assert command("-p", path, "--csv", tmp_path / "out.csv") == 1
    assert "b: line 3 has 4 cells, the first line names 3 columns" in errors(capsys)[0]
    assert [row["dice"] for row in rows_of(tmp_path / "out.csv")] == ["0.75", "", "0.75"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected --path CSV, or --predictions"),
        (["--predictions", "p", "--kind", "label"], "received --predictions --kind"),
        (["--path", "none.csv"], "none.csv: no such file"),
        (["--path", "{csv}", "--references", "r"], "leave out --references"),
        (["--path", "{csv}", "--metrics", "dice,iou"], "received 'iou'"),
        (["--path", "{csv}", "--metrics", ","], "metrics must be some of dice"),
        (["--path", "{csv}", "--metrics", "psnr"], "psnr compares images"),
        (["--path", "{csv}", "--labels", "3,x"], "labels must be whole numbers"),
        (["--path", "{csv}", "--threshold", "2"], "threshold must be a number above 0"),
        (["--path", "{csv}", "--threshold", "x"], "above 0 and up to 1, received 'x'"),
        (["--path", "{csv}", "--threshold", "0"], "above 0 and up to 1, received 0"),
        (["--path", "{csv}", "--threshold", "nan"], "received nan"),
        (["--path", "{csv}", "--metrics", "dsc,dice"], "metrics must differ"),
        (["--path", "{csv}", "--csv", "{csv}"], "is an input"),
        (["--path", "{csv}", "--csv", "{csv}", "--overwrite"], "is an input"),
        (["--path", "{csv}", "--json", "{truth}", "--overwrite"], "is an input"),
        (["--path", "{csv}", "--csv", "a.csv", "--json", "a.csv"], "must differ"),
        (["--path", "{csv}", "--csv", "none/a.csv"], "its folder does not exist"),
        (["--path", "{csv}", "--csv", "."], "is not an ordinary file"),
        (["--path", "{csv}", "--csv", "pipe", "--overwrite"], "is not an ordinary file"),
        (["--predictions", "a", "b", "--references", "r", "--kind", "image"], "in quotes"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(
    argv, message, tmp_path, monkeypatch, table, labels, capsys, command
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    names = {"csv": table(labels), "truth": labels["reference_label"]}
    before = sorted(tmp_path.rglob("*")), names["csv"].read_text()
    assert command(*(word.format(**names) for word in argv)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segsrgan evaluate: error: ") and message in line
    assert (sorted(tmp_path.rglob("*")), names["csv"].read_text()) == before


@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_a_result_is_not_replaced_without_overwrite(
    flag, tmp_path, monkeypatch, table, labels, capsys, command
):
    out = tmp_path / "out"
    out.write_text("mine")
    argv = ["-p", table(labels), flag, out]
    with monkeypatch.context() as patch:
        patch.setattr("segsrgan.evaluation.run.evaluate", lambda *_: pytest.fail("too late"))
        assert command(*argv) == 2
    assert "exists; --overwrite replaces it" in errors(capsys)[0]
    assert out.read_text() == "mine"
    assert command(*argv, "--overwrite") == 0
    assert "0.75" in out.read_text()


@pytest.mark.parametrize(
    ("place", "error", "status", "message"),
    [
        ("cli.evaluate.create_text", OSError(28, "Full", "out.csv"), 1, "not be written (Full"),
        ("evaluation.run.read_finite", KeyboardInterrupt(), 130, "; nothing was written"),
    ],
)
def test_a_full_disk_and_ctrl_c_leave_no_file(
    place, error, status, message, tmp_path, monkeypatch, table, labels, capsys, command
):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(f"segsrgan.{place}", fail)
    assert command("-p", table(labels), "--csv", tmp_path / "out.csv") == status
    captured = capsys.readouterr()
    assert ("0.7500" in captured.out) == (status == 1)  # scores are printed first
    assert message in captured.err.replace("[Errno 28] ", "")
    assert not (tmp_path / "out.csv").exists()


def test_real_templates_give_the_scores_that_their_making_says(data_dir, save, table, command):
    name = data_dir / "fetal_templates" / "GA23_notoperated"
    truth = read_volume(f"{name}_labels.nii.gz")
    image = read_volume(f"{name}_T2w.nii.gz")
    place = {"spacing": truth.spacing, "origin": truth.origin, "direction": truth.direction}
    shift = {**place, "origin": truth.grid.index_to_physical((1, 0, 0))}
    half = (0.9 * image.array).astype(np.float32)
    files = {"image": save("sr.nii", half, **place), "reference_image": f"{name}_T2w.nii.gz"}
    label = save("label.nii.gz", truth.array.astype(np.uint8), **shift)
    path = table({**files, "label": label, "reference_label": f"{name}_labels.nii.gz"})
    out = path.with_suffix(".json")
    argv = ["--labels", "1", "--predicted_labels", "1", "--resample", "--json", out]
    assert command("-p", path, *argv) == 0
    values = json.loads(out.read_text())["cases"][0]["values"]
    cortex = truth.array == 1
    overlap = np.count_nonzero(cortex[1:] & cortex[:-1]) / np.count_nonzero(cortex)
    assert values["dice"] == pytest.approx(overlap)
    assert values["hd95"] == pytest.approx(truth.spacing[0], rel=1e-4)
    assert values["volume"] == values["reference_volume"]
    squares = np.square(image.array[image.array != 0], dtype=np.float64)
    expected = 20 + 10 * np.log10(squares.max() / squares.mean())
    assert values["psnr"] == pytest.approx(expected, abs=1e-3)
