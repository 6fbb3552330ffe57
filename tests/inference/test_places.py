# SPDX-License-Identifier: MIT
"""Where results lie, when they count as finished, and that nothing else is left."""

import json
from pathlib import Path

import pytest

from segsrgan.inference.errors import InferenceError
from segsrgan.inference.places import Place, check_writable, choose_places, weights_name

PAIR = (64, 32)


def touch(place, pair=PAIR, kinds=("SR", "Cortex", "Cortex_mask")):
    files = place.files(pair)
    for kind in kinds:
        files[kind].parent.mkdir(parents=True, exist_ok=True)
        files[kind].touch()


def images(tmp_path, *names):
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def folders(tmp_path, paths, name="w"):
    return [str(place.folder.relative_to(tmp_path)) for place in choose_places(paths, name)]


def test_files_are_named_as_the_original_did():
    place = Place(Path("/a/lr.nii.gz"), Path("/a/Result_with_w"))
    base = "/a/Result_with_w/patch_64_step_32"
    assert {kind: str(path) for kind, path in place.files(PAIR, mask=True).items()} == {
        "Mask": f"{base}/Mask_patch_64_step_32.nii.gz",
        "Cortex_mask": f"{base}/Cortex_mask_patch_64_step_32.nii.gz",
        "SR": f"{base}/SR_patch_64_step_32.nii.gz",
        "Cortex": f"{base}/Cortex_patch_64_step_32.nii.gz",
    }
    whole = place.files((None, None))
    assert str(whole["SR"]) == "/a/Result_with_w/patch_None/SR_whole_image.nii.gz"


def test_an_image_alone_in_its_folder_keeps_the_original_path(tmp_path):
    paths = images(tmp_path, "a/lr.nii.gz", "b/lr.nii.gz")
    assert folders(tmp_path, paths) == ["a/Result_with_w", "b/Result_with_w"]


def test_images_of_one_folder_get_their_names(tmp_path):
    paths = images(tmp_path, "a/x.nii.gz", "a/y.nii", "a/x.nii", "a/missing.nii")
    paths[-1].unlink()
    assert folders(tmp_path, paths[:3]) == [
        "a/Result_with_w/x",
        "a/Result_with_w/y",
        "a/Result_with_w/x.nii",
    ]
    assert folders(tmp_path, [paths[1], paths[3]])[0] == "a/Result_with_w"


def test_the_results_of_a_dicom_folder_lie_beside_it(tmp_path):
    (tmp_path / "study" / "dicom").mkdir(parents=True)
    assert folders(tmp_path, [tmp_path / "study" / "dicom"]) == ["study/Result_with_w"]


def test_results_of_another_image_are_never_taken_for_ours(tmp_path):
    x, y = images(tmp_path, "a/x.nii", "a/y.nii")
    (place,) = choose_places([x], "w")
    place.record(PAIR, {})
    touch(place)
    assert folders(tmp_path, [y]) == ["a/Result_with_w/y"]
    assert folders(tmp_path, [x]) == ["a/Result_with_w"]
    assert folders(tmp_path, [y, x]) == ["a/Result_with_w/y", "a/Result_with_w"]


def test_the_prefix_is_put_once(tmp_path):
    paths = images(tmp_path, "a/lr.nii.gz")
    assert folders(tmp_path, paths, "Result_with_w") == ["a/Result_with_w"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x"])
def test_a_result_name_is_no_path(tmp_path, name):
    with pytest.raises(InferenceError, match="result_folder_name"):
        choose_places(images(tmp_path, "lr.nii"), name)


@pytest.mark.parametrize("missing", ["SR", "Cortex", "Cortex_mask"])
def test_a_result_is_finished_only_when_it_is_whole(tmp_path, missing):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    place.record(PAIR, {"resolution": [1, 1, 1]})
    assert not place.is_finished(PAIR)
    touch(place)
    assert place.is_finished(PAIR)
    assert not place.is_finished((64, 64))
    place.files(PAIR)[missing].unlink()
    assert not place.is_finished(PAIR)


def test_results_of_the_released_original_count_as_finished(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    touch(place, kinds=["SR"])
    assert not place.is_finished(PAIR)
    touch(place, kinds=["Cortex"])
    assert place.is_finished(PAIR)
    assert place.settings(PAIR) is None


def test_the_record_says_how_results_were_made(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    place.record(PAIR, {"threshold": 0.5})
    place.record((None, None), {"threshold": 0.4})
    assert place.settings(PAIR) == {"threshold": 0.5}
    record = json.loads((place.folder / "results.json").read_text())
    assert record["image"] == "lr.nii"
    assert set(record["pairs"]) == {"patch_64_step_32", "patch_None"}


def test_discarding_a_pair_leaves_the_others(tmp_path):
    (path,) = images(tmp_path, "lr.nii")
    (place,) = choose_places([path], "w")
    for pair in (PAIR, (64, 64)):
        place.record(pair, {})
        touch(place, pair)
    leftover = place.folder / "patch_64_step_32" / ".SR_patch_64_step_32.nii.gz.0123.partial"
    leftover.touch()
    place.discard(PAIR)
    assert not place.is_finished(PAIR)
    assert place.is_finished((64, 64))
    place.discard((64, 64))
    assert list(tmp_path.rglob("*")) == [path]


def test_a_damaged_record_is_as_good_as_none(tmp_path):
    (path,) = images(tmp_path, "lr.nii")
    (place,) = choose_places([path], "w")
    place.folder.mkdir()
    for text in ("", "[]", "{}", '{"pairs": 3}'):
        (place.folder / "results.json").write_text(text)
        assert place.settings(PAIR) is None


def test_looking_whether_a_folder_is_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_makes_a_folder_unwritable(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(InferenceError, match="cannot write results into"):
        check_writable(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("weights/best", "best"),
        ("/x/own.weights.h5", "own"),
        ("own.h5", "own"),
        ("Perso_with_constrast_0.5", "Perso_with_constrast_0.5"),
    ],
)
def test_weights_are_named_without_folder_and_suffix(weights, name):
    assert weights_name(weights) == name
