# SPDX-License-Identifier: MIT
"""Folders and patterns whose files are matched by name."""

import pytest

from segsrgan.errors import UserError
from segsrgan.evaluation import match_cases


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


def test_masks_and_baselines_go_with_images(place):
    names = ("a.nii", "b.nii")
    places = [place("p", "SR_a.nii", "SR_b.nii"), *(place(folder, *names) for folder in "rmb")]
    cases = match_cases(places[0], places[1], "image", *places[2:])
    assert [sorted(case.files) for case in cases] == [
        ["baseline", "image", "mask", "reference_image"]
    ] * 2
    with pytest.raises(UserError, match="masks and baselines are for images"):
        match_cases(places[0], places[1], "label", places[2])


def test_the_star_of_a_pattern_is_the_name(place):
    predictions = place("p [1]", "a/SR/SR_patch.nii.gz", "b/SR/SR_patch.nii.gz", "c/other.nii.gz")
    references = place("r", "a_T2w.nii", "a_labels.nii", "b_T2w.nii", "b_labels.nii")
    cases = found(f"{predictions}/*/SR/SR_patch.nii.gz", f"{references}/*_T2w.nii", "image")
    assert [files["reference_image"] for files in cases.values()] == ["a_T2w.nii", "b_T2w.nii"]
    assert list(cases) == ["a", "b"]


def test_a_pattern_may_end_with_the_star(place):
    predictions, references = place("p", "SR_a.nii.gz", "Cortex_a.nii.gz"), place("r", "a.nii")
    assert list(found(f"{predictions}/SR_*", references, "image")) == ["a"]


def test_of_two_files_of_an_image_the_header_counts(place):
    predictions, references = place("p", "a.hdr", "a.img"), place("r", "a.nii")
    assert found(predictions, references, "image")["a"]["image"] == "a.hdr"


def test_names_without_partner_are_listed(place, caplog):
    predictions, references = place("p", "a.nii", "b.nii"), place("r", "a.nii", "c.nii")
    with pytest.raises(UserError) as caught:
        match_cases(predictions, references, "image")
    assert f"image ({predictions}) lacks c; reference_image ({references}) lacks b" in str(
        caught.value
    )
    assert list(found(predictions, references, "image", allow_missing=True)) == ["a"]
    assert f"left out: image ({predictions}) lacks c" in caplog.text


def test_where_no_name_matches_nothing_is_left_to_allow(place):
    predictions, references = place("p", "a.nii"), place("r", "b.nii")
    with pytest.raises(UserError, match="do not match"):
        match_cases(predictions, references, "image", allow_missing=True)


def test_two_files_of_one_name_are_refused(place):
    predictions = place("p", "Cortex_a.nii", "Cortex_mask_a.nii")
    with pytest.raises(UserError, match="both are named 'a'"):
        match_cases(predictions, place("r", "a.nii"), "label")


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


def test_an_unknown_kind_is_refused(place):
    references = place("r", "a.nii")
    with pytest.raises(UserError, match="image or label, received 'cortex'"):
        match_cases(references, references, "cortex")
