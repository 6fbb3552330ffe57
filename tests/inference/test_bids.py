# SPDX-License-Identifier: MIT
"""The BIDS App: which scans it takes, where the derivatives lie, what their metadata say."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest

from segsrgan.cli.main import main
from segsrgan.volumes import Volume, read_volume, write_volume

ANAT = "sub-01/ses-a/anat"


@pytest.fixture
def data_set(tmp_path):
    """Return the folder of a data set with thick and isotropic images of two subjects."""
    root = tmp_path / "raw"

    def image(name, spacing, shape=(16, 20, 6)):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(len(name)).uniform(10, 200, shape).astype(np.float32)
        write_volume(Volume(array, spacing), path)

    image(f"{ANAT}/sub-01_ses-a_acq-ax_run-1_T2w", (1.0, 1.0, 4.0))
    image(f"{ANAT}/sub-01_ses-a_T1w", (1.0, 1.0, 1.2))
    image("sub-02/anat/sub-02_T2w", (1.0, 1.0, 3.0))
    image("sub-02/anat/sub-02_FLAIR", (1.0, 1.0, 5.0))
    image("sub-02/func/sub-02_task-rest_bold", (1.0, 1.0, 5.0))
    facts = {"Name": "test", "BIDSVersion": "1.8.0"}
    (root / "dataset_description.json").write_text(json.dumps(facts))
    (root / "README").write_text("A data set that a test made, to see what becomes of it.\n" * 5)
    return root


@pytest.fixture
def bids(identity, capsys):
    """Return a function: the status of the command and what it wrote on stderr."""

    def run(*words):
        flags = "--resolution", "2", "--patch", "16", "--weights_path", identity
        status = main([str(word) for word in ("bids", *words, *flags)])
        return status, capsys.readouterr().err

    return run


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_thick_scans_become_derivatives_with_sidecars_and_a_table(bids, data_set, tmp_path):
    out = tmp_path / "derivatives"
    status, err = bids(data_set, out, "participant", "--suffix", "T2w", "T1w")
    assert status == 0
    assert "sub-01_ses-a_T1w.nii.gz: left out, its voxels are nearly cubes (1 x 1 x 1.2 mm)" in err
    starts = (f"{ANAT}/sub-01_ses-a_acq-ax", "sub-02/anat/sub-02")
    ends = (
        *("label-cortex_dseg.json", "label-cortex_dseg.nii.gz"),
        *("label-cortex_probseg.json", "label-cortex_probseg.nii.gz"),
    )
    first = [f"{starts[0]}_run-1_space-T2w_{end}" for end in ends]
    second = [f"{starts[1]}_space-T2w_{end}" for end in ends]
    images = [f"{starts[0]}_rec-segsrgan_run-1_T2w", f"{starts[1]}_rec-segsrgan_T2w"]
    images = [f"{name}.{end}" for name in images for end in ("json", "nii.gz")]
    description = [".bidsignore", "dataset_description.json"]
    assert names(out) == sorted([*first, *second, *images, *description])
    assert read_volume(out / images[1]).spacing == (2.0, 2.0, 2.0)
    source = f"bids:raw:{ANAT}/sub-01_ses-a_acq-ax_run-1_T2w.nii.gz"
    record = json.loads((out / images[0]).read_text())
    assert record["Sources"] == [source] and record["results"][""]["settings"]["patch"] == 16
    sidecar = json.loads((out / first[2]).read_text())
    assert sidecar == {
        "Manual": False,
        "SpatialReference": source,
        "Sources": [source],
        "Resolution": "That of the super-resolved image",
    }
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "SegSRGAN"
    assert description["DatasetLinks"]["raw"] == data_set.as_uri()
    assert not (out / "sub-02" / "func").exists()

    assert bids(data_set, out, "group")[0] == 0
    with open(out / "segsrgan.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["participant_id"], row["session_id"]) for row in rows] == [
        ("sub-01", "ses-a"),
        ("sub-02", "n/a"),
    ]
    assert rows[0]["filename"] == images[1] and rows[0]["verdict"] in ("pass", "look", "fail")
    assert float(rows[0]["head_volume"]) >= 0 and rows[0]["brain_volume"] == "n/a"


def test_images_that_differ_in_their_reconstruction_and_grids_have_names_of_their_own(
    bids, data_set, tmp_path
):
    anat, out = data_set / "sub-02" / "anat", tmp_path / "sub-out"  # not below the data set
    shutil.copy(anat / "sub-02_T2w.nii.gz", anat / "sub-02_rec-norm_T2w.nii.gz")
    words = "--participant_label", "02", "--suffix", "T2w", "--grid", "native"
    assert bids(data_set, out, "participant", *words)[0] == 0
    found = names(out / "sub-02" / "anat")
    ends = [
        f"{res}label-cortex_{k}.nii.gz" for res in ("", "res-native_") for k in ("dseg", "probseg")
    ]
    starts = ("sub-02_space-T2w_", "sub-02_rec-norm_space-T2w_")
    assert set(found) >= {start + end for start in starts for end in ends}
    assert {"sub-02_rec-segsrgan_T2w.nii.gz", "sub-02_rec-normsegsrgan_T2w.nii.gz"} <= set(found)
    assert "sub-02_rec-segsrgan_res-native_T2w.nii.gz" in found
    sidecar = out / "sub-02/anat/sub-02_space-T2w_res-native_label-cortex_dseg.json"
    assert json.loads(sidecar.read_text())["Resolution"] == "That of the scan"


def test_finished_derivatives_are_kept(bids, data_set, tmp_path):
    out = data_set / "derivatives" / "segsrgan"
    choice = "participant", "--participant_label", "02", "--suffix", "FLAIR"
    assert bids(data_set, out, *choice)[0] == 0
    path = out / "sub-02" / "anat" / "sub-02_rec-segsrgan_FLAIR.nii.gz"
    before = path.stat().st_mtime_ns
    assert bids(data_set, out, *choice)[0] == 0
    assert path.stat().st_mtime_ns == before
    assert bids(data_set, out, *choice, "--overwrite")[0] == 0
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("raw/sub-01", "out", "participant"), "is not a BIDS data set"),
        (("raw", "raw", "participant"), "derivatives have a folder of their own"),
        (("raw", "raw/sub-01/x", "participant"), "derivatives have a folder of their own"),
        (("raw", "out", "participant", "--participant_label", "7"), "has no sub-7; it has sub-01"),
        (("raw", "out", "participant", "--suffix", "PDw"), "no scan with slices 1.5 times"),
        (("raw", "out", "participant", "-o", "x"), "unrecognized arguments: -o x"),
        (("raw", "out", "participant", "--patch", "16,32"), "give one patch and one step"),
        (("raw", "other", "participant"), "is of fMRIPrep; take another folder"),
        (("raw", "out", "group"), "holds no results; run the participant level first"),
        (("raw", "out", "group", "--report"), "a table alone, leave it out"),
        (("raw", "out", "cohort"), "invalid choice: 'cohort'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    words, expected, data_set, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    made = {"GeneratedBy": [{"Name": "fMRIPrep"}]}
    (tmp_path / "other" / "dataset_description.json").write_text(json.dumps(made))
    before = sorted(tmp_path.rglob("*"))
    assert main(["bids", *words]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "left out" not in x]
    assert line.startswith("segsrgan bids: error: ") and expected in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_official_validator_finds_nothing_wrong(bids, data_set, tmp_path):
    program = shutil.which("bids-validator")
    if program is None:
        pytest.skip("no bids-validator here; npm install -g bids-validator")
    out = tmp_path / "derivatives"
    assert bids(data_set, out, "participant")[0] == bids(data_set, out, "group")[0] == 0
    done = subprocess.run([program, "--json", str(out)], capture_output=True, encoding="utf-8")
    issues = json.loads(done.stdout)["issues"]["errors"]
    found = {(issue["key"], file["file"]["name"]) for issue in issues for file in issue["files"]}
    assert not found
