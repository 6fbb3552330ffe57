# SPDX-License-Identifier: MIT
"""`supermask-predict` and `supermask.predict`: files, exit status, and what goes wrong."""

import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from examinations import examination, touch_files, truth_on

import supermask
from segsrgan.cli.supermask_predict import main
from segsrgan.config import ENGINES
from segsrgan.errors import UserError
from segsrgan.volumes import dice, read_volume, write_volume
from supermask.geometry import Rigid
from supermask.networks import SegmentorSpec, build_segmentor, save_networks
from supermask.prediction import predict_views

MOVED = {"sagittal": Rigid((0.05, 0, 0.1), (3, 0, -2))}
NAMES = ("axial", "sagittal")
FILES = {
    *("mask.nii.gz", "probability.nii.gz", "image.nii.gz", "axial_mask.nii.gz"),
    *("sagittal_mask.nii.gz", "sagittal_to_axial.tfm", "results.json"),
}


@pytest.fixture(scope="module")
def views():
    return examination(MOVED, planes=NAMES, fine=3.0, thick=6.0)


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


@pytest.fixture
def results(tmp_path):
    """The folder of the patient's results."""
    return tmp_path / "out" / "patient 1"


@pytest.fixture
def run(capsys, tmp_path):
    """The command, into the folder `out` and without alignment unless flags say otherwise."""

    def command(*flags):
        flags = ("-o", tmp_path / "out", "--alignment", "none", *flags)
        status = main([str(flag) for flag in flags])
        found = capsys.readouterr()
        return status, found.out, found.err

    return command


def recorded(folder):
    """What the record of a folder of results says of them."""
    return json.loads((folder / "results.json").read_text())["results"][""]


def time_of(folder):
    return (folder / "mask.nii.gz").stat().st_mtime_ns


def files_of(folder):
    """The stacks and masks of a patient's folder."""
    return [[folder / f"{name}{end}.nii.gz" for name in NAMES] for end in ("", "_mask")]


def damage(path):
    path.write_bytes(b"damaged")


def test_a_folder_of_stacks_becomes_a_mask(folder, results, run):
    status, out, _ = run("--path", folder, "--alignment", "classical")
    assert status == 0 and set(os.listdir(results)) == FILES
    assert out.startswith("patient 1: finished; axial-sagittal Dice 0.9") and str(results) in out
    mask = read_volume(results / "mask.nii.gz")
    assert dice(mask.array, truth_on(mask.grid)) > 0.9
    report = recorded(results)
    assert report["patient"] == "patient 1" and report["lost"] == []
    assert set(report["files"]) == FILES - {"results.json"}
    (agreement,) = report["agreement"]
    assert (agreement["first"], agreement["second"]) == NAMES
    assert agreement["dice"] > 0.9 and report["views"][1]["turned_degrees"] > 4
    assert report["settings"]["fusion"] == "gaussian"
    # Other programs can use the transform.
    moving = sitk.ReadImage(str(folder / "sagittal_mask.nii.gz"), sitk.sitkFloat32)
    reference = sitk.ReadImage(str(results / "mask.nii.gz"))
    transform = sitk.ReadTransform(str(results / "sagittal_to_axial.tfm"))
    aligned = sitk.GetArrayFromImage(sitk.Resample(moving, reference, transform)).T >= 0.5
    assert dice(aligned, read_volume(results / "sagittal_mask.nii.gz").array) > 0.98


def test_the_image_agrees_with_the_slices_unless_that_is_unwanted(folder, results, run):
    aligned = ("--path", folder, "--alignment", "classical")
    assert run(*aligned)[0] == 0
    image, residuals = read_volume(results / "image.nii.gz").array, recorded(results)["residuals"]
    assert set(residuals) == set(NAMES)
    assert all(item["after"] < item["before"] and not item["kept"] for item in residuals.values())
    status, _, err = run(*aligned, "--consistency", "off")
    assert status == 0 and "but with consistency on; --overwrite makes it anew" in err
    assert run(*aligned, "--consistency", "off", "--overwrite")[0] == 0
    assert recorded(results)["residuals"] == {}
    assert np.abs(read_volume(results / "image.nii.gz").array - image).max() > 1
    status, _, err = run(*aligned, "--consistency", "maybe")
    assert status == 2 and "--consistency: invalid choice: 'maybe'" in err


def test_an_image_that_is_kept_is_recorded_as_such(folder, results, run):
    path = folder / "sagittal.nii.gz"
    volume = read_volume(path)
    write_volume(volume.with_array(np.random.default_rng(0).permuted(volume.array)), path)
    status, _, err = run("--path", folder)
    assert status == 0 and "the slices of the views contradict each other" in err
    for item in recorded(results)["residuals"].values():
        assert item["kept"] is True and item["after"] == item["before"]


def test_finished_patients_are_skipped_and_overwritten_when_asked(folder, results, run):
    run("--path", folder)
    before = time_of(results)
    status, out, _ = run("--path", folder)
    assert status == 0 and "patient 1: skipped" in out and time_of(results) == before
    status, _, err = run("--path", folder, "--fusion", "vote")
    assert status == 0 and "but with fusion gaussian; --overwrite makes it anew" in err
    assert time_of(results) == before
    assert run("--path", folder, "--overwrite")[0] == 0 and time_of(results) > before
    (results / "image.nii.gz").unlink()
    assert "patient 1: finished" in run("--path", folder)[1] and set(os.listdir(results)) == FILES


def test_results_of_other_stacks_are_never_taken_for_those_wanted(folder, results, run):
    (first, second), masks = files_of(folder)
    results = results.with_name("patient")
    assert run("--views", first, "--masks", masks[0])[0] == 0
    before = time_of(results)
    status, out, err = run("--views", second, "--masks", masks[1])
    assert status == 1 and "patient: failed" in out and time_of(results) == before
    assert f"holds the results of other files (stack {first})" in err
    status, out, err = run("--views", second, "--masks", masks[1], "--patient", "Ben/2")
    assert status == 0 and "Ben_2: finished" in out and time_of(results) == before
    write_volume(read_volume(first).with_array(read_volume(first).array + 1), first)
    os.utime(first, (1, 1))
    status, _, err = run("--views", first, "--masks", masks[0])
    assert status == 0 and "but with files that have changed since" in err


def test_what_was_made_without_a_stack_is_replaced_only_by_better(folder, results, run):
    (sagittal, mask), (coronal, other) = (
        [folder / f"{name}{end}.nii.gz" for end in ("", "_mask")] for name in ("sagittal", "third")
    )
    whole = sagittal.read_bytes()
    coronal.write_bytes(whole)
    other.write_bytes(mask.read_bytes())
    damage(sagittal)
    assert run("--path", folder)[0] == 1
    before = time_of(results)
    status, out, err = run("--path", folder)
    assert status == 1 and "patient 1: skipped" in out and time_of(results) == before
    assert "was made without a stack, and nothing has changed" in err and "sagittal" in err
    damage(coronal)
    status, out, err = run("--path", folder)
    assert status == 1 and "more stacks are lost now" in err and time_of(results) == before
    for path in (sagittal, coronal):
        path.write_bytes(whole)
    status, out, err = run("--path", folder)
    assert status == 0 and "patient 1: finished; axial-sagittal" in out and "once more" in err
    assert recorded(results)["lost"] == []


def test_drawn_masks_need_no_tensorflow(folder, tmp_path):
    code = (
        "import sys; from segsrgan.cli.supermask_predict import main; status = main(sys.argv[1:])\n"
        "sys.exit(status or 10 * bool({'keras', 'tensorflow'} & sys.modules.keys()))"
    )
    flags = "--path", folder, "-o", tmp_path / "out", "--alignment", "none"
    assert subprocess.run([sys.executable, "-c", code, *flags]).returncode == 0


def test_what_is_replaced_while_it_is_computed_has_changed(folder, tmp_path, run, monkeypatch):
    changing = folder / "axial.nii.gz", tmp_path / "small.h5"
    save_networks(changing[1], build_segmentor(SegmentorSpec(kernel=1, levels=1, spacing=3.0)))

    def replacing(*args):
        for path in changing:
            os.utime(path, (path.stat().st_mtime + 1,) * 2)
        return predict_views(*args)

    flags = ("--path", folder, "--weights", changing[1])
    monkeypatch.setattr("supermask.results.predict_views", replacing)
    assert run(*flags)[0] == 0
    output = tmp_path / "out2" / "patient 1"
    supermask.predict(*files_of(folder), str(changing[1]), alignment="none", output=output)
    assert recorded(output)["engines"]["supermask"]["precision"] == "float32"
    for place in ("out", "out2"):
        status, out, err = run(*flags, "-o", tmp_path / place)
        assert status == 0 and "patient 1: skipped" in out
        assert "but with files that have changed since, weights that have changed since" in err
    monkeypatch.undo()
    assert run(*flags, "--overwrite")[0] == 0 and "but with" not in run(*flags)[2]
    os.utime(changing[1], (3, 3))
    assert "but with weights that have changed since; --overwrite" in run(*flags)[2]


def test_results_of_version_3_0_0_are_finished(folder, tmp_path, results, run):
    run("--path", folder)
    before, entry = time_of(results), recorded(results)
    (results / "results.json").unlink()
    inputs = [
        {**stack, "stamps": [entry["inputs"].get(stack[key]) for key in ("stack", "mask")]}
        for stack in entry.pop("stacks")
    ]
    entry = {"supermask": "3.0.0", "whole": True, **entry, "inputs": inputs}
    del entry["engines"]
    (results / "report.json").write_text(json.dumps(entry))
    status, out, err = run("--path", folder)
    assert status == 0 and "patient 1: skipped" in out and "but with" not in err
    assert time_of(results) == before
    os.utime(folder / "sagittal_mask.nii.gz", (1, 1))
    assert "but with files that have changed since" in run("--path", folder)[2]
    moved = folder.rename(tmp_path / "patient 1")
    status, _, err = run("--path", moved)
    assert status == 1 and "holds the results of other files (stack " in err
    assert run("--path", moved, "--overwrite")[0] == 0
    assert set(os.listdir(results)) == FILES


def test_views_that_do_not_agree_have_a_status_of_their_own(folder, run):
    mask = read_volume(folder / "sagittal_mask.nii.gz")
    moved = np.zeros_like(mask.array)
    moved[:2] = 1
    write_volume(mask.with_array(moved), folder / "sagittal_mask.nii.gz")
    for _ in range(2):  # the second time it is finished
        status, out, _ = run("--path", folder)
        assert status == 1 and ", doubtful" in out


def test_what_a_killed_run_left_is_cleared_away(folder, results, run):
    run("--path", folder)
    record = json.loads((results / "results.json").read_text())
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    host, process = platform.node().replace(".", "-"), int(gone.stdout)
    left = results / f".results.{host}.{process}.0123456789ab.segsrgan-partial"
    left.mkdir()
    for path in (left / "mask.nii.gz", results / "mask.nii.gz", results / "coronal_mask.nii.gz"):
        damage(path)
    (results / "results.json").write_text(json.dumps({**record, "results": {"": None}}))
    status, out, _ = run("--path", folder)
    assert status == 0 and "patient 1: finished" in out
    assert set(os.listdir(results)) == FILES
    assert read_volume(results / "mask.nii.gz").array.any()


def test_files_of_others_are_never_replaced(folder, results, run):
    touch_files(results, "mask.nii.gz")
    status, _, err = run("--path", folder, "--overwrite")
    assert status == 1 and "holds files of others, such as mask.nii.gz" in err
    assert not (results / "mask.nii.gz").read_bytes()


def test_a_bad_patient_and_a_bad_stack_do_not_stop_the_others(views, tmp_path, run):
    rows = ["patient,view_1,mask_1,view_2,mask_2", "lacking,https://a.org/nothing.nii,,,"]
    for name in ("half", "whole"):
        laid_out(tmp_path / name, views)
        files = [f"{name}/{plane}{end}.nii.gz" for plane in NAMES for end in ("", "_mask")]
        rows.append(",".join([name, *files]))
    damage(tmp_path / "half" / "sagittal.nii.gz")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    status, out, err = run("--path", tmp_path / "table.csv")
    assert status == 1
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert "failed" in lines["lacking"] and "nothing.nii: is an address" in lines["lacking"]
    assert "finished" in lines["half"] and "finished" in lines["whole"]
    assert "sagittal.nii.gz" in err and "going on without this stack, its detail is lost" in err
    report = recorded(tmp_path / "out" / "half")
    assert len(report["lost"]) == 1 and [view["name"] for view in report["views"]] == ["axial"]
    assert "is the only view" in report["warnings"][0]
    assert f"half: the result has the pose of {tmp_path / 'half' / 'axial.nii.gz'}" in err
    assert not (tmp_path / "out" / "lacking").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "give either --path or --views"),
        ("--path . --views a.nii", "give either --path or --views"),
        ("--path . --masks a.nii", "--masks and --patient go with --views"),
        ("--views a.nii --masks a.nii b.nii", "expected as many masks as views"),
        ("--views a b c d", "expected one to three stacks, received 4"),
        ("--path missing", "missing: no such file; expected a CSV file"),
        ("--views a.nii --threshold 2", "threshold must be a number above 0 and below 1"),
        ("--views a.nii --alignment alignnet", "needs weights with an AlignNet"),
        ("--views a.nii --labels ,", "labels must be whole numbers"),
        ("--views a.nii --weights none", "none: no such weights"),
        ("--views a.nii --alignment none --refine", "refine goes on from AlignNet"),
    ],
)
def test_wrong_flags_are_explained(tmp_path, run, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(*flags.split())
    assert status == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_home_folder_and_a_mask_left_out(folder, run, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    flags = "--views ~/axial.nii.gz ~/sagittal.nii.gz -o ~/out --masks ~/axial_mask.nii.gz"
    status, _, err = run(*flags.split(), "")
    assert status == 1 and "sagittal.nii.gz: has no mask; it is left out" in err
    assert (folder / "out" / "patient" / "mask.nii.gz").exists()


def test_the_function_does_as_the_command(folder, tmp_path):
    options = {"alignment": "none", "output": tmp_path / "out"}
    found = supermask.predict(*files_of(folder), **options)
    assert set(os.listdir(tmp_path / "out")) == FILES
    mask = read_volume(tmp_path / "out" / "mask.nii.gz")
    np.testing.assert_array_equal(mask.array, found.mask.array)
    assert recorded(tmp_path / "out")["settings"]["alignment"] == "none"
    with pytest.raises(UserError, match="is finished already"):
        supermask.predict(*files_of(folder), **options)


def test_the_function_takes_views_and_refuses_nonsense(views, folder):
    found = supermask.predict(views, alignment="none", fusion="vote")
    assert isinstance(found, supermask.Prediction) and found.reference == "axial"
    with pytest.raises(UserError, match="fuse is not a setting; did you mean fusion"):
        supermask.predict(views, fuse="vote")
    with pytest.raises(UserError, match="a View brings its own mask, received a_mask.nii"):
        supermask.predict(views, ["a_mask.nii", None], alignment="none")
    with pytest.raises(UserError, match="received 2 and 1"):
        supermask.predict([folder / "axial.nii.gz"] * 2, [None])
    with pytest.raises(AttributeError, match="attribute nothing"):
        supermask.nothing  # noqa: B018 - the access is the test


def test_heads_without_masks_get_their_brains(folder, run, results, views, monkeypatch):
    drawn = folder / "axial_mask.nii.gz"
    for view in views:
        os.remove(folder / f"{view.name}_mask.nii.gz")
    asked = []

    def find(volume, finder):
        asked.append((volume.grid, finder))
        (mask,) = (view.mask for view in views if view.volume.grid.is_close(volume.grid))
        return SimpleNamespace(on=lambda grid: mask.array > 0.5)

    finder = SimpleNamespace(engine=SimpleNamespace(name="openvino", precision="float32"))
    monkeypatch.setattr("supermask.results.finds_brain", lambda weights: True)
    monkeypatch.setattr("segsrgan.inference.predictor.brain_finder", lambda weights: finder)
    monkeypatch.setattr("segsrgan.inference.stripping.find_brain", find)
    weights = folder.parent / "weights"
    weights.touch()
    status, _, _ = run("--path", folder, "--weights", weights)
    assert status == 0 and [item for _, item in asked] == [finder] * 2
    assert recorded(results)["engines"]["supermask"]["engine"] == "openvino"
    assert read_volume(results / "mask.nii.gz").array.any() and not drawn.exists()


@pytest.mark.slow
def test_the_bundled_segsrgan_super_resolves_stacks_first(folder, results, run):
    status, _, _ = run("--path", folder, "--segsrgan", "folded_unet_48", "--patch", 32)
    assert status == 0 and set(os.listdir(results)) == FILES
    engine = recorded(results)["engines"]["segsrgan"]
    assert engine["engine"] in ENGINES and engine["precision"] == "float32"
    plain = supermask.predict(*files_of(folder), alignment="none")
    image = read_volume(results / "image.nii.gz")
    assert np.isfinite(image.array).all()
    assert np.abs(image.array - plain.image.array).max() > 1
    np.testing.assert_array_equal(read_volume(results / "mask.nii.gz").array, plain.mask.array)
