# SPDX-License-Identifier: MIT
"""The front door: what `segsrgan predict` takes for images, and where it puts the results."""

import json
from pathlib import Path

import numpy as np
import pytest
from volumes.samples import EVEN, write_series

from segsrgan.cli.main import main
from segsrgan.cli.predict import find_images
from segsrgan.errors import UserError
from segsrgan.inference.predictor import Predictor
from segsrgan.inference.results import NamedResults, choose_names
from segsrgan.volumes import Grid, Volume, read_volume, write_volume

KINDS = ("sr", "cortex", "cortex_mask")


@pytest.fixture
def predict(identity, capsys):
    """Return a function: the status of the command and what it wrote on stderr."""

    def run(*words):
        flags = "--resolution", "2", "--patch", "16", "--weights_path", identity
        status = main([str(word) for word in ("predict", *words, *flags)])
        return status, capsys.readouterr().err

    return run


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_one_image_gives_named_files_and_a_record(predict, image, tmp_path):
    path = image("scan/t2.nii.gz", spacing=(1.0, 1.0, 4.0))
    assert predict(path, "-o", tmp_path / "new" / "out")[0] == 0
    out = tmp_path / "new" / "out"
    assert names(out) == [
        "segsrgan_summary.csv",
        "t2.json",
        *sorted(f"t2_{kind}.nii.gz" for kind in KINDS),
    ]
    record = json.loads((out / "t2.json").read_text())
    made = record["results"][""]
    assert record["source"] == str(path)
    assert made["settings"]["patch"] == 16 and made["settings"]["resolution"] == [2.0, 2.0, 2.0]
    assert made["verdict"] in ("pass", "look", "fail") and made["measures"]["head_volume"] >= 0
    assert made["command"].startswith(f"segsrgan predict {path} -o ")
    assert made["versions"]["numpy"] == np.__version__ and made["engine"] in made["versions"]
    assert sorted(made["files"]) == sorted(f"t2_{kind}.nii.gz" for kind in KINDS)
    assert read_volume(out / "t2_sr.nii.gz").spacing == (2.0, 2.0, 2.0)
    assert names(path.parent) == ["t2.nii.gz"]


def test_finished_results_are_kept_unless_they_are_to_be_replaced(predict, image, tmp_path):
    path, out = image(), tmp_path / "out"
    predict(path, "-o", out)
    before = (out / "lr_sr.nii.gz").stat().st_mtime_ns
    status, err = predict(path, "-o", out, "--step", "16")
    assert status == 0 and "made with other settings (step 8)" in err
    assert (out / "lr_sr.nii.gz").stat().st_mtime_ns == before
    status, err = predict(path, "-o", out, "--grid", "native", "--quiet")
    assert status == 1 and "lr.nii.gz: its results are finished, without what --grid asks" in err
    assert (out / "lr_sr.nii.gz").stat().st_mtime_ns == before
    assert predict(path, "-o", out, "--overwrite", "--grid", "native")[0] == 0
    assert (out / "lr_sr.nii.gz").stat().st_mtime_ns > before
    assert predict(path, "-o", out, "--grid", "native")[0] == predict(path, "-o", out)[0] == 0
    (out / "lr_cortex.nii.gz").unlink()  # not whole any more
    assert predict(path, "-o", out)[0] == 0
    assert (out / "lr_cortex.nii.gz").exists()


def test_the_summary_of_a_folder_grows_with_it(predict, image, tmp_path):
    out = tmp_path / "out"
    for name in ("a", "b", "a"):
        predict(image(f"scan/{name}.nii.gz"), "-o", out)
    rows = (out / "segsrgan_summary.csv").read_text().splitlines()[1:]
    assert [Path(row.split(",")[0]).name for row in rows] == ["b.nii.gz", "a.nii.gz"]
    assert ",finished," in rows[0] and ",skipped," in rows[1]


def test_without_an_output_folder_results_lie_beside_the_image(predict, image, table, tmp_path):
    path = image()
    assert predict(path)[0] == 0
    assert (path.parent / "Result_with_identity" / "patch_16_step_8").is_dir()
    assert not list(tmp_path.glob("*.csv"))
    assert predict("--path", table(path))[0] == 0  # as in version 3.0
    assert (tmp_path / "data_summary.csv").exists()


def test_images_are_found_in_folders_patterns_tables_and_dicom_files(image, table, tmp_path):
    a, b = image("x/a.nii.gz"), image("x/b.nii.gz")
    (tmp_path / "x" / "notes.pdf").write_text("")
    series = tmp_path / "dicom"
    write_series(series, EVEN)
    slices = sorted(series.iterdir())
    assert find_images([a]) == [a]
    assert find_images([a.parent]) == find_images([str(tmp_path / "x*" / "*.nii.gz")]) == [a, b]
    assert find_images([series]) == find_images(slices) == find_images([series / "*"]) == [series]
    assert find_images(slices[:1]) == slices[:1]  # perhaps a multi-frame file
    assert find_images([table("x/b.nii.gz", "x/a.nii.gz"), a]) == [b, a]
    assert find_images([table("b.nii.gz")], a.parent) == [b]
    assert find_images([tmp_path / "none.nii.gz"]) == [tmp_path / "none.nii.gz"]


def test_a_pattern_takes_images_and_leaves_their_sidecars(image, tmp_path):
    a, b = image("anat/a.nii.gz"), image("anat/b.nii.gz")
    for name in ("a.json", "b.json", "a.bval", "notes.pdf"):
        (tmp_path / "anat" / name).write_text("{}")
    assert find_images([tmp_path / "anat" / "*"]) == [a, b]
    # Named one by one, each is reported that cannot be read.
    assert find_images([a.with_name("a.json"), a]) == [a.with_name("a.json"), a]


def test_inputs_that_hold_nothing_but_results_are_an_error_that_says_so(
    predict, image, tmp_path, capsys
):
    out = tmp_path / "out"
    assert predict(image("x/a.nii.gz"), "-o", out)[0] == 0
    for words in (out, out / "*.nii.gz", out / "*.json", out / "*"):
        status, err = predict(words, "-o", out)
        assert status == 2 and f"{words}: names no image, or only results of earlier runs" in err
    # One of several folders may hold nothing.
    assert find_images([tmp_path / "*"]) == [tmp_path / "x" / "a.nii.gz"]


@pytest.mark.parametrize("pattern", ["*.nii.gz", "*", ""])
def test_results_in_the_folder_of_the_images_are_no_images_the_next_time(
    pattern, predict, image, tmp_path
):
    path = image("x/a.nii.gz")
    for _ in range(2):
        assert predict(tmp_path / "x" / pattern, "-o", tmp_path / "x")[0] == 0
    assert names(path.parent) == [
        *("a.json", "a.nii.gz", "a_cortex.nii.gz", "a_cortex_mask.nii.gz", "a_sr.nii.gz"),
        "segsrgan_summary.csv",
    ]
    assert find_images([path.parent]) == [path]
    assert find_images([path.with_name("a_sr.nii.gz")]) == [path.with_name("a_sr.nii.gz")]


def test_a_folder_of_several_examinations_is_as_many_images(tmp_path):
    for number in (1, 2):
        folder = tmp_path / "all" / f"p{number}"
        folder.parent.mkdir(exist_ok=True)
        write_series(folder, EVEN, PatientID=f"P{number}")
    assert find_images([tmp_path / "all"]) == [tmp_path / "all" / name for name in ("p1", "p2")]
    write_series(tmp_path / "all" / "p2", EVEN, PatientID="P1")  # two series of one patient
    assert find_images([tmp_path / "all"]) == [tmp_path / "all"]


def test_images_of_one_name_get_those_of_their_folders_before_it(tmp_path):
    images = [tmp_path / f"sub-0{n}" / "anat" / "t2.nii.gz" for n in (1, 2)]
    chosen = choose_names([*images, tmp_path / "t1.nii.gz"], tmp_path / "out")
    assert [results.name for results in chosen] == ["sub-01_anat_t2", "sub-02_anat_t2", "t1"]
    assert chosen[0].file_name("Cortex_mask", (64, 32)) == "sub-01_anat_t2_cortex_mask.nii.gz"
    # Later jobs find their own, and leave those of others alone.
    first, second = (choose_names([image], tmp_path / "out")[0] for image in images)
    assert first.name == "t2" and first.claim() == first
    assert choose_names([images[0]], tmp_path / "out") == [first]
    assert choose_names([images[1]], tmp_path / "out")[0].name == "anat_t2"
    with pytest.raises(UserError, match=r"t2.json belongs to the results of another image"):
        second.claim()


def test_images_may_be_called_as_results_of_others_are(image, weights, tmp_path):
    images = [image(f"x/{name}.nii.gz") for name in ("t2_cortex", "t2", "t2_brain")]
    flags = "--resolution", "2", "--patch", "16", "-wp", weights("classes", mask_classes=3)
    words = [str(word) for word in (*images, "-o", tmp_path / "out", *flags)]
    for more in ([], ["--overwrite"]):
        assert main(["predict", *words, *more]) == 0
    kinds = ("sr", "cortex", "cortex_mask", "classes")
    expected = {f"{path.name[:-7]}_{kind}.nii.gz" for path in images for kind in kinds}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == expected


def test_no_two_names_of_results_can_make_one_file():
    files = NamedResults(Path("/t2.nii"), Path("/out"), name="t2")._possible((8, 4))
    kinds = [name.removeprefix("t2_").split(".")[0] for name in files]
    assert "cortex_mask" in kinds and "brain_mask_native" in kinds
    assert not [(a, b) for a in kinds for b in kinds if a.endswith(f"_{b}")]


def test_images_that_differ_in_suffix_and_have_no_name_left_are_named(tmp_path):
    images = [Path(f"/x/t2{suffix}") for suffix in (".nii", ".mgz", ".nrrd")]
    assert [results.name for results in choose_names(images[:2], tmp_path)] == ["t2", "x_t2"]
    with pytest.raises(UserError, match="/x/t2.nrrd: its results have no name left"):
        choose_names(images, tmp_path)


def test_files_of_unknown_origin_are_not_replaced(predict, image, tmp_path):
    (tmp_path / "lr_sr.nii.gz").write_text("precious")
    status, err = predict(image(), "-o", tmp_path, "--overwrite")
    assert status == 1 and "lr_sr.nii.gz: exists already" in err
    assert (tmp_path / "lr_sr.nii.gz").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "name images, a folder of images or a CSV file"),
        (("",), "an input or --output is empty"),
        (("scan/lr.nii.gz", "-o", ""), "an input or --output is empty"),
        (("none*.nii.gz",), "none*.nii.gz: nothing matches this pattern"),
        (("scan/lr.nii.gz", "--grid", "like="), "--grid must be hr, native, or like="),
        (("none.csv",), "none.csv: no such file"),
        (("scan/lr.nii.gz", "-o", "out", "--patch", "16,32"), "give one patch and one step"),
        (("scan/lr.nii.gz", "-o", "out", "-rf", "x"), "--result_folder_name has no effect"),
        (("dicom", "-o", "dicom"), "lies in the input"),
        (("dicom", "-o", "dicom/results"), "lies in the input"),
        (("scan/lr.nii.gz", "--grid", "fine"), "--grid must be hr, native, or like="),
        (("scan/lr.nii.gz", "--grid", "like=none.nii"), "none.nii"),
        (("scan/lr.nii.gz", "--resolution", "fine"), "or auto, received 'fine'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(
    words, expected, image, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    image()
    write_series(tmp_path / "dicom", EVEN)
    before = sorted(tmp_path.rglob("*"))
    assert main(["predict", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segsrgan predict: error: ") and expected in line
    assert sorted(tmp_path.rglob("*")) == before


def test_what_lies_deep_or_beside_other_images_is_not_left_out_in_silence(image, tmp_path, caplog):
    path = image("x/t2.nii.gz")
    with pytest.raises(
        UserError, match=r"x/t2.nii.gz; name them by a pattern, '.*/\*\*/\*.nii.gz'"
    ):
        find_images([tmp_path])
    write_series(path.parent, EVEN)
    assert find_images([path.parent]) == [path]
    assert "x/00000000: DICOM beside other images is left out; name it to have it" in caplog.text


def test_a_dry_run_lists_what_would_be_and_writes_nothing(predict, image, tmp_path, monkeypatch):
    scan, done, out = image("x/t2.nii.gz"), image("x/done.nii.gz"), tmp_path / "out"
    assert predict(done, "-o", out, "--grid", "native")[0] == 0
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("nothing")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("segsrgan.inference.predictor.predict_tiled", None)  # never called
    flags = "-o", out, "--grid", "native", "--maps", "--report", "--dry-run"
    status, err = predict(scan, done, *flags)
    assert status == 0, err
    (line,) = [line for line in err.splitlines() if "would write" in line]
    assert line.startswith(f"{scan}: 8x10x9 voxels of 2x2x2 mm, patches: 1; would write t2_sr.")
    for kind in ("cortex_mask", "invented", "sr_native", "cortex_disagreement_native"):
        assert f" t2_{kind}.nii.gz" in line
    assert "t2_brain_mask.nii.gz (of a head), t2_" in line and line.endswith(f" in {out}")
    assert "nothing was written; 1 of 2 to compute, about 0:00:0" in err
    status, err = predict(broken, scan, "-o", out, "--dry-run", "--strip", "no")
    assert status == 1 and "error: " in err and "broken.nii.gz" in err
    assert "t2_cortex.nii.gz" in err and "brain_mask" not in err and "t2_invented" not in err
    status, err = predict(scan, "-o", out, "--dry-run", "--max_memory", "0.001")
    assert status == 1 and "GiB of memory" in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_interrupted_command_leaves_nothing(predict, image, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("segsrgan.inference.predictor.predict_tiled", interrupt)
    (tmp_path / "out").mkdir()
    assert predict(image(), "-o", tmp_path / "out")[0] == 130
    assert names(tmp_path / "out") == []


def test_a_missing_image_is_reported_and_the_others_go_on(predict, image, tmp_path):
    status, err = predict(tmp_path / "none.nii.gz", image(), "-o", tmp_path / "out")
    assert status == 1 and "none.nii.gz: no such file" in err
    assert (tmp_path / "out" / "lr_sr.nii.gz").exists()
    assert predict(tmp_path / "none.nii.gz", "-o", tmp_path / "out")[0] == 1  # as the help says


@pytest.mark.parametrize("layout", ["flat", "beside"])
def test_results_also_on_the_scans_own_voxels(layout, predict, image, tmp_path):
    path = image(spacing=(1.0, 1.0, 4.0))
    output = ("-o", tmp_path / "out") if layout == "flat" else ()
    assert predict(path, *output, "--grid", "native")[0] == 0
    found = [p for p in tmp_path.rglob("*_native*.nii.gz")]
    assert len(found) == 3
    assert all(read_volume(p).grid.is_close(read_volume(path).grid) for p in found)
    (sr,) = (p for p in found if "sr_" in p.name.lower())
    means = [read_volume(p).array[2:-2, 2:-2].mean((0, 1)) for p in (sr, path)]
    np.testing.assert_allclose(*means, rtol=0.1)


def test_results_also_on_the_voxels_of_another_image(predict, image, tmp_path):
    other, elsewhere = tmp_path / "other.nii.gz", tmp_path / "elsewhere.nii.gz"
    write_volume(Volume(np.zeros((9, 8, 7), np.float32), (1.5, 2.5, 2.0), (3, 3, 3)), other)
    write_volume(Volume(np.zeros((9, 8, 7), np.float32), (1, 1, 1), (900, 0, 0)), elsewhere)
    assert predict(image(), "-o", tmp_path / "out", "--grid", f"like={other}")[0] == 0
    assert read_volume(tmp_path / "out" / "lr_cortex_mask_like.nii.gz").array.shape == (9, 8, 7)
    status, err = predict(image(), "-o", tmp_path / "no", "--grid", f"like={elsewhere}")
    assert status == 1 and "no voxel of it is in the image's field of view" in err
    assert names(tmp_path / "no") == ["segsrgan_summary.csv"]


def test_results_also_as_dicom(predict, image, tmp_path):
    series, out = write_series(tmp_path / "t2", EVEN, Modality="MR"), tmp_path / "out"
    for _ in range(2):
        status, err = predict(series, "-o", out, "--dicom", "--overwrite")
        assert status == 0, err
    made = json.loads((out / "t2.json").read_text())["results"][""]
    assert "t2_dicom" in made["files"]
    sr = read_volume(out / "t2_sr.nii.gz")
    found = read_volume(out / "t2_dicom")
    assert set(names(out / "t2_dicom")) >= {"cortex_mask.dcm", "sr_0001.dcm"}
    assert np.prod(found.array.shape) == np.prod(sr.array.shape)
    assert abs(found.array.mean() - sr.array.mean()) < 1e-3 * np.ptp(sr.array)
    assert predict(series, "-o", out, "--overwrite")[0] == 0
    assert not (out / "t2_dicom").exists()  # of the results before
    status, err = predict(image(), "-o", tmp_path / "no", "--dicom")
    assert status == 1 and "--dicom needs a DICOM series of MR as input" in err
    assert not (tmp_path / "no" / "lr_sr.nii.gz").exists()


def test_auto_takes_the_smallest_voxel_edge(echo, image):
    result = Predictor(model=echo).predict(
        image(spacing=(1.5, 1.5, 4.0)), patch=None, new_resolution="auto"
    )
    assert result.sr.spacing == (1.5, 1.5, 1.5)


def test_python_saves_what_the_command_saves(echo, image, tmp_path):
    predictor = Predictor(model=echo)
    path = image("scan/t2.nii.gz")
    result = predictor.predict(path, patch=None, new_resolution=2)
    for _ in range(2):  # its own files are replaced
        files = result.save(tmp_path / "out")
    assert names(tmp_path / "out") == ["t2.json", *sorted(f"t2_{kind}.nii.gz" for kind in KINDS)]
    assert files["sr"] == tmp_path / "out" / "t2_sr.nii.gz"
    np.testing.assert_array_equal(read_volume(files["cortex"]).array, result.cortex.array)
    made = json.loads((tmp_path / "out" / "t2.json").read_text())["results"][""]
    assert made["verdict"] == result.verdict.level
    assert made["settings"]["resolution"] == [2, 2, 2] and made["settings"]["patch"] is None
    native = result.on_grid()
    assert native.sr.grid.is_close(read_volume(path).grid)
    assert set(np.unique(native.cortex_mask.array)) <= {0, 1}
    own = native.save(tmp_path / "out")
    assert own["sr"].name == "t2_sr_native.nii.gz"  # as by the command
    result.save(tmp_path / "out")
    assert read_volume(own["sr"]).grid.is_close(native.sr.grid)
    assert read_volume(files["sr"]).spacing == (2, 2, 2)  # as it was
    assert native.on_grid(Grid((4, 4, 4))).cortex.array.shape == (4, 4, 4)
    volume = predictor.predict(read_volume(path), patch=None, new_resolution=2)
    assert volume.save(tmp_path / "out")["sr"].name == "result_sr.nii.gz"
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(UserError, match="result_sr.nii.gz: exists already"):
        volume.save(tmp_path / "out")
    other = predictor.predict(image("other/t2.nii.gz"), patch=None, new_resolution=2)
    with pytest.raises(UserError, match="t2.json belongs to the results of another image"):
        other.save(tmp_path / "out")
    with pytest.raises(UserError, match="name must be that of a file, without a path"):
        other.save(tmp_path / "out", "a/b")
    with pytest.raises(UserError, match="cannot write into"):
        other.save(path)
    with pytest.raises(UserError, match="grid must be a Grid"):
        result.on_grid("native")


def test_long_names_fit_a_file(tmp_path):
    results = NamedResults(tmp_path / "x.nii", tmp_path, name="x" * 250)
    assert len(results.file_name("Cortex_mask", (64, 32))) == 255
    assert len(results.record.name) == 255
