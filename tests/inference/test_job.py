# SPDX-License-Identifier: MIT
"""The command on good input: what is written, where, when it is skipped, what flags change."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from training.samples import rows as read_rows

from segsrgan.inference import predictor, summary, sweep
from segsrgan.inference.engines import engine_module
from segsrgan.volumes.labels import islands
from segsrgan.volumes.reading import read_volume

KINDS = ("SR", "Cortex", "Cortex_mask")


def results(folder):
    """Every file below a folder -> its time of writing, without the records."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != "results.json"
    }


def read(path, kind="SR", pair="patch_16_step_8", name="tiny"):
    folder = path.parent / f"Result_with_{name}" / pair
    return read_volume(folder / f"{kind}_{pair}.nii.gz").array


def test_results_lie_where_the_original_put_them(image, table, job_model, weights):
    path, csv_path, classes = image(), table("scan/lr.nii.gz"), weights("classes", mask_classes=3)
    assert job_model(csv_path, "-s", "4 16,8,", patch="16,12,None", weights=classes) == 0
    pairs, kinds = ["patch_16_step_4", "patch_16_step_16", "patch_12_step_8"], (*KINDS, "Mask")
    expected = {f"{pair}/{kind}_{pair}.nii.gz" for pair in pairs for kind in kinds}
    expected |= {f"patch_None/{kind}_whole_image.nii.gz" for kind in kinds}
    assert set(results(path.parent / "Result_with_classes")) == expected
    mask = read(path, "Mask", "patch_12_step_8", "classes")
    assert mask.shape == (16, 20, 18) and set(np.unique(mask)) <= {0, 1, 2}


def test_finished_results_are_kept_and_what_is_different_now_is_named(
    tmp_path, image, table, job_model, monkeypatch, capsys, identity
):
    path, weights = image(), tmp_path / "tiny"
    weights.write_bytes(identity.read_bytes())
    csv_path = table(path)
    assert job_model(csv_path) == 0
    folder = path.parent / "Result_with_tiny" / "patch_16_step_8"
    assert f"results: {folder}\n" in capsys.readouterr().err
    before = results(path.parent / "Result_with_tiny")
    monkeypatch.setattr(predictor, "read_generator", None)  # not even loaded

    def again(*flags, **options):
        assert job_model(csv_path, *flags, **options) == 0
        assert results(path.parent / "Result_with_tiny") == before
        printed = capsys.readouterr()
        assert "skipped" in printed.out
        return printed.err

    assert "warning" not in again()
    assert "resolution [1.0, 1.0, 1.0], threshold 0.5" in again("--threshold=0.3", resolution="2")
    assert "made with other settings (series None)" in again("--series", "1.2.3")
    if "bfloat16" in engine_module("openvino").precisions():
        assert "settings (precision float32)" in again("--precision", "bfloat16")
    assert "made with other settings (weights_sha256" in again(weights=weights)
    image(seed=1)
    assert f"{path}, patch_16_step_8: the image has changed since its results were made" in again()


def test_a_whole_image_too_large_for_the_memory_leaves_the_patches_to_be_done(
    image, table, job_model, monkeypatch, capsys
):
    path = image(shape=(64, 64, 24))
    monkeypatch.setattr("segsrgan.memory.available_memory", lambda: 3 * 10**7)
    assert job_model(table(path), patch="16,None") == 1
    assert "patch of 128" in capsys.readouterr().err
    found = {name.split("/")[0] for name in results(path.parent / "Result_with_tiny")}
    assert found == {"patch_16_step_8"}


def test_half_a_result_is_done_again_and_overwrite_does_all_again(image, table, job_model):
    path = image()
    csv_path, folder = table(path), path.parent / "Result_with_tiny"
    assert job_model(csv_path, patch="16,8") == 0
    before = results(folder)
    (folder / "patch_16_step_8" / "Cortex_patch_16_step_8.nii.gz").unlink()
    assert job_model(csv_path, patch="16,8") == 0
    after = results(folder)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {
        f"patch_16_step_8/{kind}_patch_16_step_8.nii.gz" for kind in KINDS
    }
    assert job_model(csv_path, "--overwrite", patch="16,8", resolution="2") == 0
    last = results(folder)
    assert set(last) == set(after) and all(last[name] > after[name] for name in after)
    assert read(path).shape == (8, 10, 9)


def test_an_image_is_read_once_and_the_network_built_once(image, table, job_model, monkeypatch):
    calls = []
    for name in ("read_with_source", "resample", "read_generator"):
        real = getattr(predictor, name)

        def counted(*args, real=real, name=name, **kwargs):
            calls.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(predictor, name, counted)
    csv_path = table(image("a/lr.nii.gz"), image("b/lr.nii.gz"))
    assert job_model(csv_path, "-s", "8 16,4", patch="16,8") == 0
    assert sorted(calls) == ["read_generator"] + ["read_with_source"] * 2 + ["resample"] * 2


def test_flags_change_the_image_or_the_mask_or_only_what_it_costs(image, table, job_model):
    path = image()
    csv_path = table(path)
    assert job_model(csv_path, "-rf", "plain") == 0

    def other_results(*flags, kind="SR", pair="patch_16_step_8"):
        assert job_model(csv_path, "-rf", "other", "--overwrite", *flags) == 0
        return read(path, kind, name="plain"), read(path, kind, pair, "other")

    for flags in (
        ("--geometry", "legacy"),
        ("--blend", "gaussian"),
        ("-int", "sitk", "-it", "Linear"),
        ("-int", "sitk", "-it", "NearestNeighbor"),
        ("--step", "3"),
    ):
        pair = "patch_16_step_3" if "--step" in flags else "patch_16_step_8"
        plain, other = other_results(*flags, pair=pair)
        assert np.abs(plain - other).max() > 0.1, flags
    for flags in (
        ("-bb", "True"),
        ("--batch_size", "3"),
        ("--engine", "tensorflow"),
        ("--precision", "float32"),
        ("--threads", "2"),
        ("--max_memory", "8"),
    ):
        np.testing.assert_allclose(*other_results(*flags), atol=0.02, err_msg=flags)
    plain, other = other_results("--threshold", "0.4", kind="Cortex")
    np.testing.assert_array_equal(plain, other)
    np.testing.assert_array_equal(read(path, "Cortex_mask", name="other"), other >= 0.4)
    assert read(path, "Cortex_mask", name="plain").sum() < (other >= 0.4).sum()


def test_the_batch_flags_reach_the_engine(image, table, job_model, monkeypatch):
    sizes, real = [], sweep.HostSweep.compute

    def spy(self, starts):
        sizes.append(len(starts))
        return real(self, starts)

    monkeypatch.setattr(sweep.HostSweep, "compute", spy)
    csv_path = table(image())
    for flags, largest in (("--batch_size=3", 3), ("--by_batch=False", 1), ("--by_batch=True", 32)):
        assert job_model(csv_path, "--overwrite", flags, patch="8") == 0
        assert max(sizes) == largest
        sizes.clear()


def test_the_summary_is_printed_and_written_beside_the_list_and_the_bar_shows_patches(
    image, table, job_model, capsys, monkeypatch
):
    path, elsewhere = image(), image("elsewhere/other.nii").parent
    csv_path = table(path, "missing.nii", name="people.csv")
    monkeypatch.chdir(elsewhere)
    # What has no effect is named, too.
    assert job_model(csv_path.name, "-dp", csv_path.parent, "-it", "Linear", patch="16,8") == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == (
        ["image", "patch", "step", "result", "seconds", "peak", "memory", "MB", "verdict"]
    )
    assert "--interpolation_type" in printed.err
    # A log file has a line for each of several results, a terminal a bar.
    assert re.search("lr.nii.gz patch_16_step_8: patch [0-9]+ of [0-9]+, 1 of 2, 0:0", printed.err)
    assert "patch/s" not in printed.err and "s/patch" not in printed.err
    rows = read_rows(csv_path.with_name("people_summary.csv"))
    assert tuple(rows[0]) == summary.COLUMNS
    missing = str(csv_path.parent / "missing.nii")
    assert [(row["image"], row["patch"], row["step"], row["result"]) for row in rows] == [
        (str(path), "16", "8", "finished"),
        (str(path), "8", "4", "finished"),
        (missing, "16", "8", "failed"),
        (missing, "8", "4", "failed"),
    ]
    assert float(rows[0]["seconds"]) > 0
    assert 100 < float(rows[0]["peak_memory_MB"]) < 100_000
    assert "no such file" in rows[2]["detail"]
    assert [item.name for item in elsewhere.iterdir()] == ["other.nii"]


def test_quiet_says_nothing(image, table, job_model, capsys):
    csv_path = table(image())
    assert job_model(csv_path, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert job_model(table("missing.nii", name="bad.csv"), "--quiet") == 1
    assert "missing.nii" in capsys.readouterr().err


def test_the_summary_goes_to_the_current_folder_if_it_must(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        summary.write_summary([], tmp_path / "none" / "data.csv") == tmp_path / "data_summary.csv"
    )


# What is read, and its slice spacing in mm.
SCANS = [
    ("dicom/mixed_folder", 1.15),
    ("dicom/mixed_folder?T2", 2.5),
    ("dicom/sagittal_t1", 4.8),
    ("clinical/adult_flair_0.75x0.75x5.5.nii.gz", 5.5),
    ("fetal_stacks/sub-01_run-3_T2w.nii.gz", 3.3),
]


@pytest.mark.parametrize(("name", "slices"), SCANS)
def test_a_real_scan_runs_end_to_end(data_dir, tmp_path, table, job_model, capsys, name, slices):
    name, _, series = name.partition("?")
    source, path = data_dir / name, tmp_path / "scan" / Path(name).name
    path.parent.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    volume = read_volume(path, series or None)
    assert max(volume.spacing) == pytest.approx(slices, abs=0.05)
    flags = ["--series", series] if series else []
    resolution = 3.0  # coarse, to be quick
    assert job_model(table(path), *flags, patch="32", resolution=resolution) == 0
    errors = capsys.readouterr().err
    if name == "dicom/mixed_folder" and not series:  # the others are named
        assert "warning" in errors and "series" in errors
        assert job_model(table(path), "--series", "none", "--overwrite") == 1
        assert "series" in capsys.readouterr().err
    folder = path.parent / "Result_with_tiny" / "patch_32_step_16"
    names = [f"{kind}_patch_32_step_16.nii.gz" for kind in KINDS]
    sr, cortex, mask = results = [read_volume(folder / name) for name in names]
    expected = volume.grid.corner_aligned(resolution)
    assert all(result.grid.is_close(expected) for result in results)
    assert np.isfinite(sr.array).all()
    assert cortex.array.min() >= 0 and cortex.array.max() <= 1
    reached = cortex.array >= 0.5
    np.testing.assert_array_equal(mask.array, reached & ~islands(reached, 0.02)[0])
    # Results lie outside a DICOM folder: read again, it is what it was.
    assert read_volume(path, series or None).grid.is_close(volume.grid)
