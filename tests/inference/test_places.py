# SPDX-License-Identifier: MIT
"""Where results lie, when they count as finished, and that nothing else is left."""

import json
from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.files import check_writable
from segsrgan.inference.places import Place, choose_places, weights_name

PAIR = (64, 32)


def finish(place, pair=PAIR, settings=None, mask=False, text=""):
    with place.replacing(pair, settings or {}, mask) as files:
        for path in files.values():
            path.write_text(text)


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
    finish(place)
    assert folders(tmp_path, [y]) == ["a/Result_with_w/y"]
    assert folders(tmp_path, [x]) == ["a/Result_with_w"]
    assert folders(tmp_path, [y, x]) == ["a/Result_with_w/y", "a/Result_with_w"]


def test_the_prefix_is_put_once(tmp_path):
    paths = images(tmp_path, "a/lr.nii.gz")
    assert folders(tmp_path, paths, "Result_with_w") == ["a/Result_with_w"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/elsewhere/x"])
def test_a_result_name_is_no_path(tmp_path, name):
    with pytest.raises(UserError, match="result_folder_name"):
        choose_places(images(tmp_path, "lr.nii"), name)


@pytest.mark.parametrize("missing", ["SR", "Cortex", "Cortex_mask"])
def test_a_result_is_finished_only_when_it_is_whole(tmp_path, missing):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    assert not place.is_finished(PAIR)
    finish(place)
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


def test_the_original_is_not_believed_where_several_images_lie(tmp_path):
    x, y = images(tmp_path, "a/x.nii", "a/y.nii")
    touch(Place(x, tmp_path / "a" / "Result_with_w"), kinds=["SR", "Cortex"])
    for image in (x, y):
        (place,) = choose_places([image], "w")
        assert place.folder.name == image.stem  # and the original's files stay
        assert not place.is_finished(PAIR)
    y.unlink()
    (place,) = choose_places([x], "w")
    assert place.is_finished(PAIR)


@pytest.mark.parametrize("other", ["lr.img", "notes.txt", "labels/y.nii"])
def test_what_is_no_other_image_does_not_raise_doubts(tmp_path, other):
    (path,) = images(tmp_path, "a/lr.hdr")
    images(tmp_path / "a", other)
    (place,) = choose_places([path], "w")
    touch(place, kinds=["SR", "Cortex"])
    assert place.is_finished(PAIR)


def test_two_dicom_folders_are_two_images(tmp_path):
    for name in ("t1", "t2"):
        (tmp_path / name).mkdir()
    touch(Place(tmp_path / "t1", tmp_path / "Result_with_w"), kinds=["SR", "Cortex"])
    (place,) = choose_places([tmp_path / "t2"], "w")
    assert not place.is_finished(PAIR)


def test_more_pairs_leave_the_originals_results_finished(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    touch(place, kinds=["SR", "Cortex"])
    finish(place.claim(), (64, 64))
    assert place.is_finished(PAIR)


def test_the_original_is_not_believed_once_another_image_lies_there(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    finish(place.claim(), (64, 64))
    touch(place, kinds=["SR", "Cortex"])
    assert place.is_finished(PAIR)
    images(tmp_path, "other.nii")
    assert not place.is_finished(PAIR)
    assert place.is_finished((64, 64))


def test_a_result_name_that_is_too_long_is_no_finished_result(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w" * 300)
    assert not place.is_finished(PAIR)


def test_results_are_found_again_when_the_list_changes(tmp_path):
    x, y = images(tmp_path, "a/x.nii", "a/y.nii")
    for place in choose_places([x, y], "w"):
        finish(place)
    assert folders(tmp_path, [x]) == ["a/Result_with_w/x"]
    (x,) = images(tmp_path, "b/x.nii")
    finish(choose_places([x], "w")[0])
    paths = [x, *images(tmp_path, "b/y.nii")]
    assert folders(tmp_path, paths) == ["b/Result_with_w", "b/Result_with_w/y"]


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "x" * 300 + "/x.nii", "a\0b", "a\0b/x.nii", "~no such user/x.nii", "a.nii/b.nii"],
)
def test_what_is_no_path_gets_a_place_and_no_results(tmp_path, name):
    images(tmp_path, "a.nii")
    (place,) = choose_places([tmp_path / name], "w")
    assert not place.is_finished(PAIR)
    assert place.settings(PAIR) is None


def test_the_record_says_how_results_were_made(tmp_path):
    (place,) = choose_places(images(tmp_path, "lr.nii"), "w")
    finish(place, PAIR, {"threshold": 0.5})
    finish(place, (None, None), {"threshold": 0.4})
    assert place.settings(PAIR) == {"threshold": 0.5}
    record = json.loads((place.folder / "results.json").read_text())
    assert record["image"] == "lr.nii"
    assert set(record["pairs"]) == {"patch_64_step_32", "patch_None"}


def test_a_damaged_record_is_as_good_as_none(tmp_path):
    (path,) = images(tmp_path, "lr.nii")
    (place,) = choose_places([path], "w")
    place.folder.mkdir()
    for text in ("", "[]", "{}", '{"pairs": 3}', '{"pairs": {"patch_64_step_32": 3}}'):
        (place.folder / "results.json").write_text(text)
        assert place.settings(PAIR) is None
        assert place.claim() == place
        assert json.loads((place.folder / "results.json").read_text())["image"] == "lr.nii"


def test_looking_whether_a_folder_is_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_makes_a_folder_unwritable(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="cannot write into"):
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
