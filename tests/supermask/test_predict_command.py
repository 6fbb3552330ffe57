# SPDX-License-Identifier: MIT
"""`supermask-predict` and `supermask.predict`: files, exit status, and what goes wrong."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from examinations import examination, truth_on

import supermask
from segsrgan.cli.supermask_predict import main
from segsrgan.config import ENGINES
from segsrgan.errors import UserError
from segsrgan.volumes import Volume, dice, read_volume, write_volume
from supermask.geometry import Rigid
from supermask.networks import SegmentorSpec, build_segmentor, save_networks
from supermask.prediction import predict_views

MOVED = {"sagittal": Rigid((0.05, 0, 0.1), (3, 0, -2))}
FILES = {
    "mask.nii.gz",
    "probability.nii.gz",
    "image.nii.gz",
    "axial_mask.nii.gz",
    "sagittal_mask.nii.gz",
    "sagittal_to_axial.tfm",
    "results.json",
}


@pytest.fixture(scope="module")
def views():
    return examination(MOVED, planes=("axial", "sagittal"), fine=3.0, thick=6.0)


@pytest.fixture
def folder(tmp_path, views):
    """One patient's folder, as a user would lay it out."""
    return laid_out(tmp_path / "data" / "patient 1", views)


def laid_out(folder, views):
    folder.mkdir(parents=True)
    for view in views:
        write_volume(view.volume, folder / f"{view.name}.nii.gz")
        mask = view.mask.with_array(view.mask.array.astype(np.uint8))
        write_volume(mask, folder / f"{view.name}_mask.nii.gz")
    return folder


def recorded(folder):
    """What the record of a folder of results says of them."""
    return json.loads((folder / "results.json").read_text())["results"][""]


def run(capsys, *flags):
    status = main([str(flag) for flag in flags])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_a_folder_of_stacks_becomes_a_mask(folder, tmp_path, capsys):
    status, out, _ = run(capsys, "--path", folder, "-o", tmp_path / "out")
    results = tmp_path / "out" / "patient 1"
    assert status == 0 and {path.name for path in results.iterdir()} == FILES
    assert out.startswith("patient 1: finished; axial-sagittal Dice 0.9") and str(results) in out
    mask = read_volume(results / "mask.nii.gz")
    assert dice(mask.array, truth_on(mask.grid)) > 0.9
    report = recorded(results)
    assert report["patient"] == "patient 1" and report["lost"] == []
    assert set(report["files"]) == FILES - {"results.json"}
    (agreement,) = report["agreement"]
    assert (agreement["first"], agreement["second"]) == ("axial", "sagittal")
    assert agreement["dice"] > 0.9 and report["views"][1]["turned_degrees"] > 4
    assert report["settings"]["fusion"] == "gaussian"


def test_other_programs_can_use_the_transform(folder, tmp_path, capsys):
    run(capsys, "--path", folder, "-o", tmp_path / "out", "--quiet")
    results = tmp_path / "out" / "patient 1"
    moving = sitk.ReadImage(str(folder / "sagittal_mask.nii.gz"), sitk.sitkFloat32)
    reference = sitk.ReadImage(str(results / "mask.nii.gz"))
    transform = sitk.ReadTransform(str(results / "sagittal_to_axial.tfm"))
    aligned = sitk.GetArrayFromImage(sitk.Resample(moving, reference, transform)).T >= 0.5
    assert dice(aligned, read_volume(results / "sagittal_mask.nii.gz").array) > 0.98


def test_finished_patients_are_skipped_and_overwritten_when_asked(folder, tmp_path, capsys):
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    run(capsys, *flags)
    mask = tmp_path / "out" / "patient 1" / "mask.nii.gz"
    before = mask.stat().st_mtime_ns
    status, out, _ = run(capsys, *flags)
    assert status == 0 and "patient 1: skipped" in out and mask.stat().st_mtime_ns == before
    status, out, err = run(capsys, *flags, "--fusion", "vote")
    assert status == 0 and "but with fusion gaussian; --overwrite makes it anew" in err
    assert mask.stat().st_mtime_ns == before
    status, out, _ = run(capsys, *flags, "--overwrite")
    assert status == 0 and mask.stat().st_mtime_ns > before


def test_results_of_other_stacks_are_never_taken_for_those_wanted(folder, tmp_path, capsys):
    flags = ("-o", tmp_path / "out", "--alignment", "none", "--views")
    first, second = (folder / f"{name}.nii.gz" for name in ("axial", "sagittal"))
    masks = ("--masks", folder / "axial_mask.nii.gz")
    assert run(capsys, *flags, first, *masks)[0] == 0
    mask = tmp_path / "out" / "patient" / "mask.nii.gz"
    before = mask.stat().st_mtime_ns
    status, out, err = run(capsys, *flags, second, "--masks", folder / "sagittal_mask.nii.gz")
    assert status == 1 and "patient: failed" in out and mask.stat().st_mtime_ns == before
    assert f"holds the results of other files (stack {first})" in err
    write_volume(read_volume(first).with_array(read_volume(first).array + 1), first)
    os.utime(first, (1, 1))
    status, _, err = run(capsys, *flags, first, *masks)
    assert status == 0 and "but with files that have changed since" in err


def test_a_stack_that_was_lost_is_tried_again(views, tmp_path, capsys):
    folder = laid_out(tmp_path / "data", views)
    whole = (folder / "sagittal.nii.gz").read_bytes()
    (folder / "sagittal.nii.gz").write_bytes(b"damaged")
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    assert run(capsys, *flags)[0] == 1
    (folder / "sagittal.nii.gz").write_bytes(whole)
    status, out, err = run(capsys, *flags)
    assert status == 0 and "data: finished; axial-sagittal" in out and "once more" in err
    report = recorded(tmp_path / "out" / "data")
    assert report["lost"] == [] and report["alignment"] == "none"


def test_what_was_made_without_a_stack_is_replaced_only_by_better(views, tmp_path, capsys):
    folder = laid_out(tmp_path / "data", views)
    for name in ("coronal", "coronal_mask"):
        whole = (folder / f"{name.replace('coronal', 'sagittal')}.nii.gz").read_bytes()
        (folder / f"{name}.nii.gz").write_bytes(whole)
    (folder / "sagittal.nii.gz").write_bytes(b"damaged")
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    assert run(capsys, *flags)[0] == 1
    mask = tmp_path / "out" / "data" / "mask.nii.gz"
    before = mask.stat().st_mtime_ns
    status, out, err = run(capsys, *flags)
    assert status == 1 and "data: skipped" in out and mask.stat().st_mtime_ns == before
    assert "was made without a stack, and nothing has changed" in err and "sagittal" in err
    (folder / "coronal.nii.gz").write_bytes(b"damaged, too")
    status, out, err = run(capsys, *flags)
    assert status == 1 and "more stacks are lost now" in err and mask.stat().st_mtime_ns == before
    other = laid_out(tmp_path / "other" / "data", views)
    status, out, err = run(capsys, "--path", other, *flags[2:])
    assert status == 1 and "holds the results of other files" in err
    assert mask.stat().st_mtime_ns == before


def test_drawn_masks_need_no_tensorflow(folder, tmp_path):
    flags = ["--path", str(folder), "-o", str(tmp_path / "out"), "--alignment", "none"]
    code = (
        "import sys; from segsrgan.cli.supermask_predict import main\n"
        f"status = main({flags!r})\n"
        "sys.exit(status or 10 * bool({'keras', 'tensorflow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_replaced_while_it_is_computed_has_changed(folder, tmp_path, capsys, monkeypatch):
    def replacing(*args):
        for path in (folder / "axial.nii.gz", tmp_path / "small.h5"):
            os.utime(path, (1, 1))
        return predict_views(*args)

    names = ("axial", "sagittal")
    stacks, masks = ([folder / f"{name}{end}.nii.gz" for name in names] for end in ("", "_mask"))
    save_networks(tmp_path / "small.h5", build_segmentor(SegmentorSpec(kernel=1, levels=1)), None)
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    flags = (*flags, "--weights", tmp_path / "small.h5")
    monkeypatch.setattr("supermask.results.predict_views", replacing)
    assert run(capsys, *flags)[0] == 0
    weights, output = str(tmp_path / "small.h5"), tmp_path / "out2" / "patient 1"
    supermask.predict(stacks, masks, weights, alignment="none", output=output)
    assert recorded(output)["engines"]["supermask"]["precision"] == "float32"
    for place in ("out", "out2"):
        for path in (folder / "axial.nii.gz", tmp_path / "small.h5"):
            os.utime(path, (2, 2))
        status, out, err = run(capsys, *flags, "-o", tmp_path / place)
        assert status == 0 and "patient 1: skipped" in out
        assert "but with files that have changed since, weights that have changed since" in err


def as_version_3_0_0(folder):
    """Give a folder of results the record that version 3.0.0 wrote."""
    entry = recorded(folder)
    (folder / "results.json").unlink()
    inputs = [
        {**stack, "stamps": [entry["inputs"].get(stack[key]) for key in ("stack", "mask")]}
        for stack in entry.pop("stacks")
    ]
    entry = {"supermask": "3.0.0", "whole": True, **entry, "inputs": inputs}
    del entry["engines"]
    (folder / "report.json").write_text(json.dumps(entry))


def test_results_of_version_3_0_0_are_finished(folder, tmp_path, capsys):
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    run(capsys, *flags)
    results = tmp_path / "out" / "patient 1"
    as_version_3_0_0(results)
    before = (results / "mask.nii.gz").stat().st_mtime_ns
    status, out, err = run(capsys, *flags)
    assert status == 0 and "patient 1: skipped" in out and "but with" not in err
    assert (results / "mask.nii.gz").stat().st_mtime_ns == before
    os.utime(folder / "sagittal_mask.nii.gz", (1, 1))
    assert "but with files that have changed since" in run(capsys, *flags)[2]
    other = folder.rename(folder.with_name("elsewhere"))
    other.rename(tmp_path / "patient 1")
    status, _, err = run(capsys, "--path", tmp_path / "patient 1", *flags[2:])
    assert status == 1 and "holds the results of other files (stack " in err
    assert run(capsys, "--path", tmp_path / "patient 1", *flags[2:], "--overwrite")[0] == 0
    assert {path.name for path in results.iterdir()} == FILES


def test_weights_that_have_changed_are_pointed_out(folder, tmp_path, capsys):
    weights = tmp_path / "small.h5"
    save_networks(weights, build_segmentor(SegmentorSpec(kernel=1, levels=1, spacing=3.0)), None)
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none", "--weights", weights)
    assert run(capsys, *flags)[0] == 0
    assert "but with" not in run(capsys, *flags)[2]
    os.utime(weights, (1, 1))
    status, _, err = run(capsys, *flags)
    assert status == 0 and "but with weights that have changed since; --overwrite" in err


def test_views_that_do_not_agree_have_a_status_of_their_own(views, tmp_path, capsys):
    folder = laid_out(tmp_path / "data", views)
    mask = read_volume(folder / "sagittal_mask.nii.gz")
    moved = np.zeros_like(mask.array)
    moved[:2] = 1
    write_volume(mask.with_array(moved), folder / "sagittal_mask.nii.gz")
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    for _ in range(2):  # the second time it is finished
        status, out, _ = run(capsys, *flags)
        assert status == 1 and ", doubtful" in out


def test_what_a_killed_run_left_is_cleared_away(folder, tmp_path, capsys):
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    run(capsys, *flags)
    results = tmp_path / "out" / "patient 1"
    record = json.loads((results / "results.json").read_text())
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    host, process = platform.node().replace(".", "-"), int(gone.stdout)
    left = results / f".results.{host}.{process}.0123456789ab.segsrgan-partial"
    left.mkdir()
    (left / "mask.nii.gz").write_bytes(b"half")
    (results / "mask.nii.gz").write_bytes(b"half")
    (results / "coronal_mask.nii.gz").write_bytes(b"of an older result")
    (results / "results.json").write_text(json.dumps({**record, "results": {"": None}}))
    status, out, _ = run(capsys, *flags)
    assert status == 0 and "patient 1: finished" in out
    assert {path.name for path in results.iterdir()} == FILES
    assert read_volume(results / "mask.nii.gz").array.any()


def test_files_of_others_are_never_replaced(folder, tmp_path, capsys):
    other = tmp_path / "out" / "patient 1" / "mask.nii.gz"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none", "--overwrite")
    status, _, err = run(capsys, *flags)
    assert status == 1 and "holds files of others, such as mask.nii.gz" in err
    assert other.read_text() == "mine"


def test_a_bad_patient_and_a_bad_stack_do_not_stop_the_others(views, tmp_path, capsys):
    for name in ("whole", "half", "none"):
        laid_out(tmp_path / name, views)
    (tmp_path / "half" / "sagittal.nii.gz").write_bytes(b"damaged")
    (tmp_path / "table.csv").write_text(
        "patient,view_1,mask_1,view_2,mask_2\n"
        "lacking,none/nothing.nii,,,\n"
        "half,half/sagittal.nii.gz,half/sagittal_mask.nii.gz,half/axial.nii.gz,half/axial_mask.nii.gz\n"
        "whole,whole/sagittal.nii.gz,whole/sagittal_mask.nii.gz,whole/axial.nii.gz,whole/axial_mask.nii.gz\n"
    )
    flags = ("--path", tmp_path / "table.csv", "-o", tmp_path / "out", "--alignment", "none")
    status, out, err = run(capsys, *flags)
    assert status == 1
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert "failed" in lines["lacking"] and "nothing.nii: no such file" in lines["lacking"]
    assert "finished" in lines["half"] and "finished" in lines["whole"]
    assert "sagittal.nii.gz" in err and "going on without this stack, its detail is lost" in err
    report = recorded(tmp_path / "out" / "half")
    assert len(report["lost"]) == 1 and [view["name"] for view in report["views"]] == ["axial"]
    assert "is the only view" in report["warnings"][0]
    assert f"half: the result has the pose of {tmp_path / 'half' / 'axial.nii.gz'}" in err
    assert not (tmp_path / "out" / "lacking").exists()


def test_stacks_without_overlap_fail_with_the_cause(views, tmp_path, capsys):
    volume = views[1].volume
    far = Volume(volume.array, volume.spacing, (900, 0, 0), volume.direction)
    write_volume(views[0].volume, tmp_path / "a.nii")
    write_volume(views[0].mask, tmp_path / "a_mask.nii")
    write_volume(far, tmp_path / "far.nii")
    write_volume(far.with_array(views[1].mask.array), tmp_path / "far_mask.nii")
    status, out, _ = run(
        capsys,
        *("--views", tmp_path / "a.nii", tmp_path / "far.nii"),
        *("--masks", tmp_path / "a_mask.nii", tmp_path / "far_mask.nii", "-o", tmp_path / "out"),
    )
    assert status == 1 and "do not meet anywhere in patient space" in out
    assert not (tmp_path / "out" / "patient").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give either --path or --views"),
        (["--path", ".", "--views", "a.nii"], "give either --path or --views"),
        (["--path", ".", "--masks", "a.nii"], "--masks goes with --views"),
        (["--views", "a.nii", "--masks", "a.nii", "b.nii"], "expected as many masks as views"),
        (["--views", "a.nii", "a.nii"], "names one stack twice"),
        (["--views", "a", "b", "c", "d"], "expected one to three stacks, received 4"),
        (["--path", "missing"], "missing: no such file; expected a CSV file"),
        (["--views", "a.nii", "--fusion", "mean"], "invalid choice: 'mean'"),
        (
            ["--views", "a.nii", "--threshold", "2"],
            "threshold must be a number above 0 and below 1",
        ),
        (["--views", "a.nii", "--alignment", "alignnet"], "needs weights with an AlignNet"),
        (["--views", "a.nii", "--labels", "x"], "labels must be whole numbers"),
        (["--views", "a.nii", "--labels", ","], "labels must be whole numbers"),
        (["--views", "a.nii", "--weights", "none"], "none: no such weights"),
        (["--views", "a.nii", "--alignment", "none", "--refine"], "refine goes on from AlignNet"),
    ],
)
def test_wrong_flags_are_explained(tmp_path, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *flags, "-o", "out")
    assert status == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_function_does_as_the_command(folder, tmp_path):
    names = ("axial", "sagittal")
    stacks, masks = ([folder / f"{name}{end}.nii.gz" for name in names] for end in ("", "_mask"))
    found = supermask.predict(stacks, masks, alignment="none", output=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    written = read_volume(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(written.array, found.mask.array)
    report = recorded(tmp_path / "out")
    assert report["settings"]["alignment"] == "none"
    with pytest.raises(UserError, match="is finished already"):
        supermask.predict(stacks, masks, alignment="none", output=tmp_path / "out")


def test_the_function_takes_views_and_refuses_nonsense(views, folder):
    found = supermask.predict(views, alignment="none", fusion="vote")
    assert isinstance(found, supermask.Prediction) and found.reference == "axial"
    with pytest.raises(UserError, match="fuse: unknown; settings are alignment, reference"):
        supermask.predict(views, fuse="vote")
    with pytest.raises(UserError, match="a View brings its own mask, received a_mask.nii"):
        supermask.predict(views, ["a_mask.nii", None], alignment="none")
    with pytest.raises(UserError, match="received 2 and 1"):
        supermask.predict([folder / "axial.nii.gz"] * 2, [None])
    with pytest.raises(AttributeError, match="attribute nothing"):
        supermask.nothing  # noqa: B018 - the access is the test


@pytest.mark.slow
def test_the_bundled_segsrgan_super_resolves_stacks_first(folder, tmp_path, capsys):
    flags = ("--path", folder, "-o", tmp_path / "out", "--alignment", "none")
    status, _, _ = run(capsys, *flags, "--segsrgan", "synthetic_unet_8", "--patch", 32)
    results = tmp_path / "out" / "patient 1"
    assert status == 0 and {path.name for path in results.iterdir()} == FILES
    engine = recorded(results)["engines"]["segsrgan"]
    assert engine["engine"] in ENGINES and engine["precision"] == "float32"
    plain = supermask.predict(
        [folder / "axial.nii.gz", folder / "sagittal.nii.gz"],
        [folder / "axial_mask.nii.gz", folder / "sagittal_mask.nii.gz"],
        alignment="none",
    )
    image = read_volume(results / "image.nii.gz")
    assert np.isfinite(image.array).all()
    assert np.abs(image.array - plain.image.array).max() > 1
    np.testing.assert_array_equal(read_volume(results / "mask.nii.gz").array, plain.mask.array)
