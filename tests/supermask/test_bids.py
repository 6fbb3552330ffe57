# SPDX-License-Identifier: MIT
"""`supermask-bids`: which stacks go together, where derivatives lie, what their metadata say."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
from examinations import acquire, stack_grid

from segsrgan.cli.supermask_bids import main
from segsrgan.inference import markup
from segsrgan.volumes import read_volume, write_volume

ANAT = "sub-01/ses-a/anat"
STACKS = {
    f"{ANAT}/sub-01_ses-a_acq-ax_run-1_T2w": ("axial", 4.0),
    f"{ANAT}/sub-01_ses-a_acq-ax_run-2_T2w": ("axial", 3.0),
    f"{ANAT}/sub-01_ses-a_acq-cor_T2w": ("coronal", 3.0),
    f"{ANAT}/sub-01_ses-a_T1w": ("axial", 3.0),
    "sub-02/anat/sub-02_run-1_T2w": ("axial", 3.0),
    "sub-02/anat/sub-02_run-2_T2w": ("axial", 3.0),
    "sub-03/anat/sub-03_acq-cor_rec-norm_T2w": ("coronal", 3.0),
    "sub-03/anat/sub-03_acq-sag_rec-norm_T2w": ("sagittal", 3.0),
    "sub-03/anat/sub-03_acq-sag_T2w": ("sagittal", 3.0),
}
pytestmark = pytest.mark.usefixtures("small_viewer")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a data set, `raw`, and masks of its stacks, `masks`."""
    folder = tmp_path_factory.mktemp("made")
    for name, (plane, fine) in STACKS.items():
        view = acquire(stack_grid(plane, fine=fine, thick=7.0))
        mask = f"{name.removesuffix('_T2w').removesuffix('_T1w')}_desc-brain_mask"
        array = view.mask.array.astype(np.uint8)
        volumes = {f"raw/{name}": view.volume, f"masks/{mask}": view.mask.with_array(array)}
        for path, volume in volumes.items():
            path = folder / f"{path}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(volume, path)
    facts = {"Name": "test", "BIDSVersion": "1.8.0"}
    (folder / "raw" / "dataset_description.json").write_text(json.dumps(facts))
    (folder / "raw" / "README").write_text("A data set that a test made, of an ellipsoid.\n" * 5)
    return folder


@pytest.fixture
def bids(made, tmp_path, monkeypatch, capsys):
    """Return a function: the status of the command on that data set, and what it wrote."""
    (tmp_path / "raw").symlink_to(made / "raw")
    (tmp_path / "masks").symlink_to(made / "masks")
    monkeypatch.chdir(tmp_path)

    def run(level, *words, root="raw", out="out"):
        flags = ("--masks", "masks", "--alignment", "none", "--consistency", "off")
        flags = flags if level == "participant" and "--weights" not in words else ()
        status = main([root, out, level, *flags, *words])
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def derived(start, image, masks, *stacks):
    """The names of the derivatives of an examination."""
    masks = [*masks, *(f"{stack}_space-T2w_desc-aligned_mask" for stack in stacks)]
    starts = [f"{start}_{name}" for name in (image, *masks)]
    return [f"{name}.{end}" for name in starts for end in ("json", "nii.gz")]


def test_stacks_of_different_planes_become_derivatives_and_a_table(bids, made, tmp_path):
    status, said = bids("participant")
    assert status == 0
    assert "sub-01_ses-a_acq-ax_run-1_T2w.nii.gz: left out of sub-01_ses-a_T2w; " in said
    assert "acq-ax_run-2_T2w.nii.gz is axial, too, and its voxels are no larger" in said
    assert "sub-02_T2w: left out, has stacks of one plane alone: sub-02_run-1_T2w.nii.gz, " in said
    assert "sub-01_ses-a_T1w: left out" in said and "sub-03_T2w: left out" in said
    masks = [
        f"space-T2w_{m}" for m in ("desc-supermask_mask", "label-object_desc-supermask_probseg")
    ]
    end = "from-T2w_to-reference_mode-image_xfm.tfm"
    start = f"{ANAT}/sub-01_ses-a"
    first = derived(start, "rec-supermask_T2w", masks, "acq-ax_run-2", "acq-cor")
    first.append(f"{start}_acq-cor_{end}")
    start, masks = "sub-03/anat/sub-03", [f"rec-norm_{name}" for name in masks]
    stacks = ("acq-cor_rec-norm", "acq-sag_rec-norm")
    second = derived(start, "rec-normsupermask_T2w", masks, *stacks)
    second.append(f"{start}_acq-sag_rec-norm_{end}")
    description = [".bidsignore", "dataset_description.json"]
    out = tmp_path / "out"
    assert set(names(out)) == {*first, *second, *description}

    mask = read_volume(out / first[3])
    assert set(np.unique(mask.array)) == {0, 1} and len(set(mask.spacing)) == 1
    sources = [f"bids:raw:{ANAT}/sub-01_ses-a_acq-{n}_T2w.nii.gz" for n in ("ax_run-2", "cor")]
    record = json.loads((out / first[0]).read_text())
    assert record["Sources"] == sources and record["SkullStripped"] is False
    assert record["results"][""]["alignment"] == "none"
    facts = {"Manual": False, "SpatialReference": sources[0], "Sources": sources}
    assert json.loads((out / first[2]).read_text()) == facts
    aligned = json.loads((out / first[8]).read_text())
    assert aligned == facts | {"Sources": sources[1:]}
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Name"] == "SuperMask"
    assert description["DatasetLinks"]["raw"] == (tmp_path / "raw").as_uri()

    status, said = bids("group", "--report")
    assert status == 0 and (out / "supermask.html").exists()
    with open(out / "supermask.tsv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert [(line["participant_id"], line["session_id"]) for line in lines] == [
        ("sub-01", "ses-a"),
        ("sub-03", "n/a"),
    ]
    assert lines[0]["filename"] == first[1] and lines[0]["verdict"] == "pass"
    volume = np.count_nonzero(mask.array) * np.prod(mask.spacing) / 1000
    assert float(lines[0]["mask_volume"]) == pytest.approx(volume, rel=1e-3)
    assert float(lines[0]["least_dice"]) > 0.8 and float(lines[0]["shifted_mm"]) == 0


def test_finished_examinations_are_kept_and_have_pages_when_asked(bids, tmp_path):
    choice = ("--participant_label", "03", "--suffix", "T2w")
    out, anat = "raw/../out/derivatives", tmp_path / "out" / "derivatives" / "sub-03" / "anat"
    assert bids("participant", *choice, out=out)[0] == 0
    image = anat / "sub-03_rec-normsupermask_T2w.nii.gz"
    page = anat / "sub-03_rec-normsupermask_desc-report_T2w.html"
    before = image.stat().st_mtime_ns
    status, said = bids("participant", *choice, "--report", out=out)
    assert status == 0 and "sub-03_rec-norm_T2w: skipped" in said
    assert image.stat().st_mtime_ns == before
    assert "by the headers" in page.read_text(encoding="utf-8")
    assert bids("group", "--report", out=out)[0] == 0
    table = (anat.parents[1] / "supermask.html").read_text(encoding="utf-8")
    assert f'href="sub-03/anat/{page.name}"' in table
    assert bids("participant", *choice, "--overwrite", out=out)[0] == 0
    assert image.stat().st_mtime_ns > before and not page.exists()


def test_a_stack_that_cannot_be_read_or_has_two_masks_stops_no_other(bids, made, tmp_path):
    for name in ("raw", "masks"):
        (tmp_path / name).unlink()
        shutil.copytree(made / name, tmp_path / name)
    (tmp_path / "raw" / f"{ANAT}/sub-01_ses-a_acq-cor_T2w.nii.gz").write_bytes(b"damaged")
    anat = tmp_path / "masks" / "sub-03" / "anat"
    mask = anat / "sub-03_acq-sag_rec-norm_desc-brain_mask.nii.gz"
    shutil.copy(mask, anat / "sub-03_acq-sag_rec-norm_label-brain_dseg.nii.gz")
    # Masks of another contrast, of another kind and of something else are not meant.
    shutil.copy(mask, anat / "sub-03_acq-cor_rec-norm_space-T1w_desc-brain_mask.nii.gz")
    shutil.copy(mask, anat / "sub-03_acq-cor_rec-norm_run-3_desc-brain_mask.nii.gz")
    shutil.copy(mask, anat / "sub-03_acq-cor_rec-norm_label-brain_probseg.nii.gz")
    status, said = bids("participant")
    assert status == 1
    assert "sub-01_ses-a_T2w: finished" in said and "going on without this stack" in said
    assert "sub-03_acq-sag_rec-norm_T2w.nii.gz: has several masks: " in said
    assert "_desc-brain_mask.nii.gz, sub-03_acq-sag_rec-norm_label-brain_dseg.nii.gz" in said
    assert not (tmp_path / "out" / "sub-03").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("raw/sub-01", "out", "participant", "--masks", "masks"), "is not a BIDS data set"),
        (("raw", "raw", "participant", "--masks", "masks"), "have a folder of their own"),
        (("raw", "raw/sub-01/x", "participant", "--masks", "masks"), "derivatives/supermask"),
        (("raw", "out", "participant", "--masks", "none"), "--masks none"),
        (("raw", "out", "participant"), "expected --masks FOLDER"),
        (("raw", "out", "participant", "--weights", "none"), "none: no such weights"),
        (
            ("raw", "out", "participant", "--masks", "masks", "--participant_label", "9"),
            "has no sub-9; it has sub-01, sub-02, sub-03",
        ),
        (
            ("raw", "out", "participant", "--masks", "masks", "--participant_label", "02"),
            "no examination has two thick stacks of one suffix in different planes",
        ),
        (
            ("raw", "out", "participant", "--masks", "masks", "--suffix", "FLAIR"),
            "no scan with slices 1.5 times",
        ),
        (("raw", "other", "participant", "--masks", "masks"), "is of SegSRGAN; take another"),
        (("raw", "out", "group"), "holds no results; run the participant level first"),
        (("raw", "out", "cohort"), "invalid choice: 'cohort'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    words, expected, bids, tmp_path, capsys
):
    (tmp_path / "other").mkdir()
    made = {"GeneratedBy": [{"Name": "SegSRGAN"}]}
    (tmp_path / "other" / "dataset_description.json").write_text(json.dumps(made))
    before = sorted(tmp_path.rglob("*"))
    assert main(list(words)) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "left out" not in x]
    assert line.replace(f"{tmp_path}/", "").startswith("supermask-bids: error: ")
    assert expected in line.replace(f"{tmp_path}/", "")
    assert sorted(tmp_path.rglob("*")) == before


def test_pages_need_the_extra_and_files_of_others_are_kept(bids, tmp_path, monkeypatch):
    def missing(name):
        raise markup.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(markup, "distribution", missing)
        status, said = bids("participant", "--report")
    assert status == 2 and "pip install 'SegSRGAN[report]'" in said
    assert not (tmp_path / "out").exists()
    anat = tmp_path / "out" / "sub-03" / "anat"
    anat.mkdir(parents=True)
    (anat / "sub-03_rec-norm_space-T2w_desc-supermask_mask.nii.gz").write_bytes(b"mine")
    status, said = bids("participant", "--participant_label", "sub-03")
    assert status == 1 and "_mask.nii.gz: exists already, and no record says" in said
    assert len(list(anat.iterdir())) == 1


@pytest.mark.slow
def test_the_official_validator_finds_nothing_wrong(bids, tmp_path):
    program = shutil.which("bids-validator")
    if program is None:
        pytest.skip("no bids-validator here; npm install -g bids-validator")
    assert bids("participant", "--report")[0] == bids("group", "--report")[0] == 0
    out = tmp_path / "out"
    done = subprocess.run([program, "--json", str(out)], capture_output=True, encoding="utf-8")
    issues = json.loads(done.stdout)["issues"]["errors"]
    found = {(issue["key"], file["file"]["name"]) for issue in issues for file in issue["files"]}
    assert not found
