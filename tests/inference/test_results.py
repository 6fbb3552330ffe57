# SPDX-License-Identifier: MIT
"""Where results lie, when they count as finished, and that nothing else is left."""

import json
from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.files import stamp
from segsrgan.inference.results import ImageResults, choose_folders, result_files, weights_name

PAIR = (64, 32)
KINDS = ("SR", "Cortex", "Cortex_mask")


def finish(results, pair=PAIR):
    with results.replacing(pair, {}) as path_of:
        for kind in KINDS:
            path_of(kind).write_text("x")


def file_of(results, kind, pair=PAIR):
    return results.folder / results.label(pair) / results.file_name(kind, pair)


def touch(results, *kinds):
    for kind in kinds:
        file_of(results, kind).parent.mkdir(parents=True, exist_ok=True)
        file_of(results, kind).write_text("x")


def images(tmp_path, *names):
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def folders(tmp_path, paths, name="w"):
    return [str(results.folder.relative_to(tmp_path)) for results in choose_folders(paths, name)]


def test_files_are_named_as_the_original_did():
    results = ImageResults(Path("/a/lr.nii.gz"), Path("/a/Result_with_w"))
    for prefix in ("SR", "Cortex", "Cortex_mask", "Mask"):
        name = f"patch_64_step_32/{prefix}_patch_64_step_32.nii.gz"
        assert file_of(results, prefix) == results.folder / name
    name = "patch_None/SR_whole_image.nii.gz"
    assert file_of(results, "SR", (None, None)) == results.folder / name
    maps = {"Invented", "SR_disagreement", "Cortex_disagreement", "Brain_mask"}
    assert set(result_files().values()) == {"SR", "Cortex", "Cortex_mask", "Mask"} | maps


def test_an_image_alone_in_its_folder_keeps_the_original_path(tmp_path):
    paths = images(tmp_path, "a/lr.nii.gz", "b/lr.nii.gz")
    for name in ("w", "Result_with_w"):
        assert folders(tmp_path, paths, name) == ["a/Result_with_w", "b/Result_with_w"]


def test_images_of_one_folder_get_their_names(tmp_path):
    paths = images(tmp_path, "a/x.nii.gz", "a/y.nii", "a/x.nii", "a/missing.nii")
    paths[-1].unlink()
    assert folders(tmp_path, paths[:3]) == [
        "a/Result_with_w/x",
        "a/Result_with_w/y",
        "a/Result_with_w/x.nii",
    ]
    assert folders(tmp_path, [paths[1], paths[3]])[0] == "a/Result_with_w"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/elsewhere/x"])
def test_a_result_name_is_no_path(tmp_path, name):
    with pytest.raises(UserError, match="result_folder_name"):
        choose_folders(images(tmp_path, "lr.nii"), name)


@pytest.mark.parametrize("missing", ["SR", "Cortex", "Cortex_mask"])
def test_a_result_is_finished_only_when_it_is_whole(tmp_path, missing):
    (results,) = choose_folders(images(tmp_path, "lr.nii"), "w")
    assert not results.is_finished(PAIR)
    finish(results)
    assert results.is_finished(PAIR)
    assert not results.is_finished((64, 64))
    assert not choose_folders([results.image], "w" * 300)[0].is_finished(PAIR)
    file_of(results, missing).unlink()
    assert not results.is_finished(PAIR)


def test_results_of_the_released_original_count_as_finished_while_the_image_is_alone(tmp_path):
    (results,) = choose_folders(images(tmp_path, "lr.nii"), "w")
    touch(results, "SR")
    assert not results.is_finished(PAIR)
    touch(results, "Cortex")
    assert results.is_finished(PAIR)
    assert "settings" not in results.entry(PAIR)
    finish(results.claim(), (64, 64))
    assert results.is_finished(PAIR)  # in spite of the record, which knows another pair
    images(tmp_path, "other.nii")
    assert not results.is_finished(PAIR)
    assert results.is_finished((64, 64))


def test_results_of_version_3_0_0_count_as_finished(tmp_path):
    (results,) = choose_folders(images(tmp_path, "lr.nii"), "w")
    touch(results, *KINDS)
    made = {"threshold": 0.5, "image_stamp": stamp(results.image)}
    record = {"image": "lr.nii", "pairs": {"patch_64_step_32": made, "patch_8_step_4": None}}
    (results.folder / "results.json").write_text(json.dumps(record))
    assert results.is_finished(PAIR) and not results.is_finished((8, 4))
    assert not results.has_changed(PAIR)
    results.image.write_text("another scan")
    assert results.has_changed(PAIR)
    assert results.claim() == results
    finish(results, (8, 4))
    assert results.is_finished((8, 4)) and results.entry(PAIR)["settings"] == {"threshold": 0.5}
    file_of(results, "Cortex_mask").unlink()
    assert not results.is_finished(PAIR)


def test_the_original_is_not_believed_where_several_images_lie(tmp_path):
    x, y = images(tmp_path, "a/x.nii", "a/y.nii")
    touch(ImageResults(x, tmp_path / "a" / "Result_with_w"), "SR", "Cortex")
    for image in (x, y):
        (results,) = choose_folders([image], "w")
        assert results.folder.name == image.stem  # and the original's files stay
        assert not results.is_finished(PAIR)
    y.unlink()
    (results,) = choose_folders([x], "w")
    assert results.is_finished(PAIR)


@pytest.mark.parametrize("other", ["lr.img", "notes.txt", "labels/y.nii"])
def test_what_is_no_other_image_does_not_raise_doubts(tmp_path, other):
    (path,) = images(tmp_path, "a/lr.hdr")
    images(tmp_path / "a", other)
    (results,) = choose_folders([path], "w")
    touch(results, "SR", "Cortex")
    assert results.is_finished(PAIR)


def test_two_dicom_folders_are_two_images_with_results_beside_them(tmp_path):
    first, second = (tmp_path / name for name in ("t1", "t2"))
    first.mkdir()
    assert folders(tmp_path, [first]) == ["Result_with_w"]
    second.mkdir()
    touch(ImageResults(first, tmp_path / "Result_with_w"), "SR", "Cortex")
    (results,) = choose_folders([second], "w")
    assert not results.is_finished(PAIR)


def test_results_are_found_again_and_those_of_another_image_never_taken(tmp_path):
    x, y = images(tmp_path, "a/x.nii", "a/y.nii")
    for results in choose_folders([x, y], "w"):
        finish(results)
    assert folders(tmp_path, [x]) == ["a/Result_with_w/x"]  # though it is alone in the list now
    (x,) = images(tmp_path, "b/x.nii")
    finish(choose_folders([x], "w")[0])
    (y,) = images(tmp_path, "b/y.nii")
    assert folders(tmp_path, [x]) == ["b/Result_with_w"]
    assert folders(tmp_path, [y]) == ["b/Result_with_w/y"]
    for paths in ([x, y], [y, x]):
        found = dict(zip(paths, folders(tmp_path, paths), strict=True))
        assert found == {x: "b/Result_with_w", y: "b/Result_with_w/y"}


def test_dicom_without_a_suffix_beside_a_file_of_its_name_has_a_folder_in_any_order(tmp_path):
    (file,) = images(tmp_path, "t2.nii.gz")
    folder = tmp_path / "t2"
    folder.mkdir()
    expected = {(file, folder): ["t2", "t2_dicom"], (folder, file): ["t2", "t2.nii.gz"]}
    for order, names in expected.items():
        chosen = choose_folders(order, "_".join(path.name for path in order))
        assert [results.folder.name for results in chosen] == names
        for results in chosen:
            finish(results.claim())
        for again in (order, order[::-1]):
            name = chosen[0].folder.parent.name
            assert all(results.is_finished(PAIR) for results in choose_folders(again, name))


def test_below_an_output_folder_every_image_has_the_place_of_its_folder(tmp_path):
    x, y, z = images(tmp_path, "data/sub-1/t2.nii", "bids/sub-1/anat/t2.nii", "other/sub-1/t2.nii")
    (tmp_path / "bids" / "dataset_description.json").touch()
    output, root = tmp_path / "out", tmp_path.relative_to(tmp_path.anchor)

    def places(paths, start):
        chosen = choose_folders(paths, "w", output, tmp_path / start)
        for results in chosen:
            if not results.is_finished(PAIR):
                finish(results.claim())
        return [str(results.folder.relative_to(output)) for results in chosen]

    names = ["sub-1/Result_with_w", "sub-1/anat/Result_with_w"]
    assert places([x, y, z], "data") == [*names, f"{root}/other/sub-1/Result_with_w"]
    assert places([x, y], "data") == names
    # Another image of the same place and name is not taken for the first.
    assert places([z], "other") == [f"{names[0]}/t2"]
    assert (
        sorted(path.name for path in tmp_path.rglob("Result_with_w/*")).count("results.json") == 3
    )
    assert not list(x.parent.glob("Result_*"))


def test_links_to_one_object_have_results_beside_each_and_a_linked_folder_only_once(
    tmp_path, caplog
):
    (tmp_path / "object").touch()
    x, y = (tmp_path / name / "t2.nii" for name in ("sub-1", "sub-2"))
    for link in (x, y):
        link.parent.mkdir()
        link.symlink_to(tmp_path / "object")
    (tmp_path / "sub-3").symlink_to("sub-1")
    again = tmp_path / "sub-3" / "t2.nii"
    places = ["sub-1/Result_with_w", "sub-2/Result_with_w"]
    assert folders(tmp_path, [x, y, again]) == places
    assert f"{again}: is {x} by a link and done once" in caplog.text
    assert len(choose_folders([x, y, again], "w", tmp_path / "out", tmp_path)) == 3


def test_a_damaged_record_is_as_good_as_none(tmp_path):
    (results,) = choose_folders(images(tmp_path, "lr.nii"), "w")
    results.folder.mkdir()
    whole = '{"results": {"patch_64_step_32": 3}}'
    for text in ("", "{", "[]", "{}", '{"results": 3}', '{"image": "a.nii"}', whole):
        (results.folder / "results.json").write_text(text)
        assert "settings" not in results.entry(PAIR)
        assert results.claim() == results
        assert json.loads((results.folder / "results.json").read_text())["source"] == "lr.nii"


def test_weights_are_named_without_folder_and_suffix():
    assert weights_name("weights/best") == "best"
    assert weights_name("/x/own.weights.h5") == weights_name("own.h5") == "own"
    assert weights_name("Perso_with_constrast_0.5") == "Perso_with_constrast_0.5"
