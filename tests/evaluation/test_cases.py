# SPDX-License-Identifier: MIT
"""Cases from a CSV file, and from folders or patterns whose files are matched by name."""

from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.evaluation import Case, match_cases, read_cases


@pytest.fixture
def read(csv):
    """The cases of a table's text."""
    return lambda text: read_cases(csv(text))


def test_cells_may_be_padded_and_columns_empty(tmp_path, read):
    expected = Case(label=tmp_path / "a.nii", reference_label=tmp_path / "b c.nii", name="b c")
    assert read("Label ; Reference_Label\n a.nii ;b c.nii\n") == [expected]
    assert read("label,reference_label,image,reference_image\na.nii,b c.nii\n") == [expected]


def test_all_columns_are_read_and_paths_start_from_the_csv(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "cases.csv"
    path.parent.mkdir()
    path.write_text(
        "case,image,reference_image,label,reference_label,mask,baseline\n"
        f"é 1,../a.nii,{tmp_path}/b.nii,c.nii,d/e.nii,f.nii,~/g.nii\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    (case,) = read_cases("folder/cases.csv")
    folder = path.parent
    images = {"image": tmp_path / "a.nii", "reference_image": tmp_path / "b.nii"}
    labels = {"label": folder / "c.nii", "reference_label": folder / "d" / "e.nii"}
    others = {"mask": folder / "f.nii", "baseline": Path("/home/someone/g.nii")}
    assert (case.name, case.files) == ("é 1", {**images, **labels, **others})
    assert case.kinds == ("label", "image")


def test_names_that_occur_twice_get_their_line_and_unknown_columns_a_warning(read, caplog):
    cases = read("label,reference_label,age\na.nii,r.nii,3\nb.nii,r.nii\nc.nii,s.nii.gz\n")
    assert [case.name for case in cases] == ["r (line 2)", "r (line 3)", "s"]
    assert "ignored columns: age" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("label,reference_label\n", "no case"),
        ("a.nii,b.nii\nc.nii,d.nii\n", r"received a.nii, b.nii; the first line names them"),
        ("label,image,reference_image\n", "column label but no column reference_label"),
        ("label,reference_label,mask\n", "column mask but no column image"),
        ("label,reference_label,baseline\n", "column baseline but no column image"),
        ("label,reference_label\na,b,c\na,b,d\n", "2 problem.*\n  line 2 .*\n  line 3 has 3 cells"),
    ],
)
def test_a_csv_that_cannot_be_right_is_refused(read, text, message):
    with pytest.raises(UserError, match=f"data.csv: .*{message}"):
        read(text)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ([], "names no file"),
        (["label"], r"label \(a.nii\) is given without reference_label"),
        (["reference_image"], "reference_image .* without image"),
        (["label", "reference_label", "mask"], "mask .* without image and reference_image"),
    ],
)
def test_a_case_that_lacks_a_partner_is_refused(roles, message):
    with pytest.raises(UserError, match=message):
        Case(**dict.fromkeys(roles, "a.nii")).check()


@pytest.fixture
def place(tmp_path):
    """Return a function that makes empty files in a folder and returns the folder's path."""

    def make(folder, *names):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / folder)

    return make


def found(*places, **options):
    return {
        case.name: {kind: path.name for kind, path in case.files.items()}
        for case in match_cases(*places, **options)
    }


def test_folders_match_by_name_without_suffix_and_prefix(place):
    predictions = place("p", "Cortex_mask_b 1.nii.gz", "Cortex_a.nii", "notes.txt", ".c.nii")
    references = place("r", "b 1.mha", "a.nii.gz", "sub/c.nii")
    assert found(predictions, references, "label") == {
        "a": {"label": "Cortex_a.nii", "reference_label": "a.nii.gz"},
        "b 1": {"label": "Cortex_mask_b 1.nii.gz", "reference_label": "b 1.mha"},
    }


def test_accents_match_however_they_are_written_and_links_without_content_count(place, tmp_path):
    predictions, references = place("p", "e\u0301.nii"), place("r", "\u00e9.nii", "b.nii")
    (tmp_path / "p" / "b.nii").symlink_to("annex")
    assert list(found(predictions, references, "image")) == ["b", "\u00e9"]


def test_masks_and_baselines_go_with_images(place):
    names = ("a.nii", "b.nii")
    places = [place("p", "SR_a.nii", "SR_b.nii"), *(place(folder, *names) for folder in "rmb")]
    cases = match_cases(places[0], places[1], "image", masks=places[2], baselines=places[3])
    expected = ["baseline", "image", "mask", "reference_image"]
    assert [sorted(case.files) for case in cases] == [expected, expected]
    with pytest.raises(UserError, match="masks and baselines are for images"):
        match_cases(places[0], places[1], "label", masks=places[2])


def test_the_star_of_a_pattern_is_the_name(place):
    predictions = place("p [1]", "a/SR/SR_patch.nii.gz", "b/SR/SR_patch.nii.gz", "c/other.nii.gz")
    references = place("r", "a_T2w.nii", "a_labels.nii", "b_T2w.nii", "b_labels.nii")
    cases = found(f"{predictions}/*/SR/SR_patch.nii.gz", f"{references}/*_T2w.nii", "image")
    names = {name: files["reference_image"] for name, files in cases.items()}
    assert names == {"a": "a_T2w.nii", "b": "b_T2w.nii"}


def test_a_pattern_may_end_with_the_star_and_of_two_files_of_an_image_the_header_counts(place):
    predictions, references = place("p", "SR_a.nii.gz", "Cortex_a.nii.gz"), place("r", "a.nii")
    assert list(found(f"{predictions}/SR_*", references, "image")) == ["a"]
    assert found(place("q", "a.hdr", "a.img"), references, "image")["a"]["image"] == "a.hdr"


def test_names_without_partner_are_listed(place, caplog):
    predictions, references = place("p", "a.nii", "b.nii"), place("r", "a.nii", "c.nii")
    with pytest.raises(UserError) as caught:
        match_cases(predictions, references, "image")
    missing = f"image ({predictions}) lacks c; reference_image ({references}) lacks b"
    assert missing in str(caught.value)
    assert list(found(predictions, references, "image", allow_missing=True)) == ["a"]
    assert f"left out: image ({predictions}) lacks c" in caplog.text
    with pytest.raises(UserError, match="do not match"):  # nothing is left
        match_cases(predictions, place("s", "d.nii"), "image", allow_missing=True)


def test_two_files_of_one_name_and_unknown_kinds_are_refused(place):
    predictions, references = place("p", "Cortex_a.nii", "Cortex_mask_a.nii"), place("r", "a.nii")
    with pytest.raises(UserError, match="both are named 'a'"):
        match_cases(predictions, references, "label")
    with pytest.raises(UserError, match="image or label, received 'cortex'"):
        match_cases(references, references, "cortex")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "received nothing of this name"),
        ("p/a.nii", "received a file"),
        ("p/*_x_*.nii", r"expected one \*"),
        ("p/b*.nii", "has no image"),
        ("empty", "has no image"),
    ],
)
def test_a_place_without_images_is_refused(tmp_path, place, name, message):
    references = place("p", "a.nii")
    place("empty", "notes.txt")
    with pytest.raises(UserError, match=message) as caught:
        match_cases(str(tmp_path / name), references, "image")
    assert str(caught.value).startswith(str(tmp_path / name))
