# SPDX-License-Identifier: MIT
"""The training CSV: all problems at once, before anything starts."""

from functools import partial

import numpy as np
import pytest
from training.samples import (
    ball,
    ball_mask,
    noise,
    problem,
    refusal,
    upright,
    write_case,
    write_table,
)

from segsrgan.errors import VolumeError
from segsrgan.training.cases import UNKNOWN, filled_box, read_cases
from segsrgan.training.sources import ImageSource
from segsrgan.volumes import Grid, Volume, read_volume, write_volume
from segsrgan.volumes.comparison import reordered

refused = partial(refusal, read_cases)


def put(path, array, *geometry):
    """Writes an array of any type; by default upright, its voxels 1 mm."""
    array = np.float32(array)
    volume = Volume(array, (1.0, 1.0, 1.0), *geometry) if geometry else upright(array)
    write_volume(volume, path)


def test_a_good_table_is_split_by_its_base(tmp_path):
    train, test, classes = read_cases(write_table(tmp_path, ("Train", "Test", "Train")))
    assert [case.image.name for case in train] == ["image0.nii.gz", "image2.nii.gz"]
    assert [case.image.name for case in test] == ["image1.nii.gz"]
    assert classes == 0
    image, labels = train[0].load(["Label_image"])
    assert image.array.dtype == np.float32 and labels["Label_image"].dtype == bool
    assert set(train[0].labels) == {"Label_image"}
    (tmp_path / "here").mkdir()
    table = tmp_path / "data.csv"
    table.write_text(table.read_text().replace("image1.nii.gz", "here/../image0.nii.gz"))
    assert problem(refused(table), "image0.nii.gz: is in both Train and Test")


def test_labels_of_several_values_are_told_apart(tmp_path):
    table = write_table(tmp_path)
    train = read_cases(table).train
    write_case(tmp_path, 0, noise((24, 24, 24)), ball_mask())
    with pytest.raises(VolumeError, match="label0.nii.gz: a label holds 0 and 1.*found 0, 1, 2"):
        train[0].load(["Label_image"])
    assert "a label holds 0 and 1" in refused(table)
    case = read_cases(table, label_values=(1, 5)).train[0]
    np.testing.assert_array_equal(case.load_label("Label_image"), ball_mask().array == 1)
    assert "the label is empty" in refused(table, label_values=(5,))


def test_the_extent_of_each_image_is_known_afterwards(tmp_path):
    write_table(tmp_path, spacing=(0.5, 1.0, 2.0))
    image = noise((12, 10, 8), spacing=(0.5, 1.0, 2.0))
    image.array[:2] = image.array[:, :, 7:] = 0
    image.array[:, :3] = -5
    write_case(tmp_path, 0, image)
    train, test, _ = read_cases(tmp_path / "data.csv")
    grid, positive, content = train[0].extent
    assert grid.shape == (12, 10, 8) and grid.spacing == (0.5, 1.0, 2.0)
    assert positive == ((2, 12), (3, 10), (0, 7))
    assert content == ((0, 12), (0, 10), (0, 8))
    assert test[0].extent.shape == (24, 24, 24)
    assert filled_box(np.zeros((3, 4, 5), bool)) == ((0, 1),) * 3  # of nothing: the first voxel


@pytest.mark.parametrize("background", [-3.2, 0, 3.2])
def test_a_background_of_any_value_is_no_content(tmp_path, background):
    table, (image, _) = write_table(tmp_path), ball()
    put(tmp_path / "image0.nii.gz", image.array + background)
    (moved,), (plain,), _ = read_cases(table)
    assert moved.extent[1:] == plain.extent[1:] and plain.extent.positive != ((0, 24),) * 3


def test_labels_are_told_apart_in_their_stored_type(tmp_path):
    table, (_, label) = write_table(tmp_path), ball()
    for index, dtype in enumerate((np.uint32, np.float64)):
        large = np.where(label.array > 0, 2**29 + 1, 2**29).astype(dtype)
        write_volume(label.with_array(large), tmp_path / f"label{index}.nii.gz")
    (train,), (test,), _ = read_cases(table, label_values=(2**29 + 1,))
    for case in (train, test):
        assert np.array_equal(case.load_label("Label_image"), label.array > 0)
    write_volume(label.with_array(large.astype(np.float32)), tmp_path / "label0.nii.gz")
    assert "cannot be told apart" in refused(table, label_values=(2**29 + 1,))
    large = np.where(label.array > 0, 2.0**53, 0)  # which is 2^53 + 1 in float64, too
    write_volume(label.with_array(large), tmp_path / "label0.nii.gz")
    message = refused(table, label_values=(2**53 + 1,))
    assert problem(message, "float64", f"above {2**53} such as {2**53 + 1} cannot be told apart")


def test_hot_voxels_and_scaled_labels_are_taken_and_pointed_out(tmp_path, caplog):
    table, (image, label) = write_table(tmp_path), ball()
    image.array[0, 0, 0] = 32767
    write_volume(image, tmp_path / "image0.nii.gz")
    write_volume(label.with_array(label.array * 1.0004), tmp_path / "label0.nii.gz")
    case = read_cases(table).train[0]
    assert "image0.nii.gz: 1 of its voxels are up to" in caplog.text
    assert (case.load_label("Label_image") > 0.5).sum() == label.array.sum()
    table.write_text(table.read_text() + "image0.nii.gz,label0.nii.gz,Train\n")
    assert len(read_cases(table).train) == 2
    assert "image0.nii.gz is in 2 rows, each of which counts" in caplog.text


def test_all_problems_are_listed_at_once(tmp_path):
    table = write_table(tmp_path, ("Train",) * 11 + ("Test",))
    image, label = ball()
    diagonal = np.diag([-1, -1, 1])
    broken = image.array.copy()
    broken[12, 12, 12] = np.nan  # not from the border on
    for index, array in ((4, broken), (9, image.array * 0), (11, np.ones_like(broken))):
        put(tmp_path / f"image{index}.nii.gz", array)
    (tmp_path / "image0.nii.gz").unlink()
    (tmp_path / "image10.nii.gz").unlink()
    (tmp_path / "image10.nii.gz").symlink_to("image10.nii.gz")
    angle = np.deg2rad(3)  # about x, through the first voxel: both ends of x stay
    cos, sin = np.cos(angle), np.sin(angle)
    shear = (0, 0, 0), diagonal @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    for index, array, *geometry in (
        (1, label.array[:-1]),
        (2, label.array, (5, 0, 0), diagonal),
        (3, label.array * 0),
        (4, label.array * 3 - (image.array > 0)),
        (6, np.where(label.array > 0, np.inf, 0)),
        (7, label.array, *shear),
        (8, np.arange(24.0**3).reshape(24, 24, 24) // 100),
    ):
        put(tmp_path / f"label{index}.nii.gz", array, *geometry)
    text = table.read_text().replace("label5.nii.gz,Train", "label5.nii.gz,Trian")
    table.write_text(f"{text}a.nii,b, c.nii,Train\n")
    message = refused(table)
    assert "14 problem(s)" in message
    for words in (
        ("image0.nii.gz", "no such file"),
        ("label1.nii.gz", "another grid", "23 x 24 x 24 voxels", "against 24 x 24 x 24"),
        ("label2.nii.gz", "5.00 mm beside the image"),
        ("label3.nii.gz", "the label is empty"),
        ("image4.nii.gz", "NaN or infinite"),
        ("label4.nii.gz", "found -1, 0, 2; write a label of the one structure"),
        ("label6.nii.gz", "NaN or infinite"),
        ("line 7", "received Trian"),
        ("line 14", "has 4 cells"),
        ("label7.nii.gz", "1.70 mm beside"),  # 23 sqrt(2) 2 sin(1.5)
        ("label8.nii.gz", "found 0, 1, 2,", "10, 11 ... 138 (139 values)"),
        ("image9.nii.gz", "no positive voxel"),
        ("image10.nii.gz", "is a link to image10.nii.gz"),
        ("image11.nii.gz", "all voxels are 1"),
    ):
        assert problem(message, *words), words


def test_masks_are_needed_only_where_they_are_used(tmp_path):
    table = write_table(tmp_path)
    assert read_cases(table).classes == 0
    assert problem(refused(table, fit_mask=True), "no column Mask_image", "--fit_mask")
    assert problem(refused(table, crop_to_mask=True), "overlapping_with_mask")
    write_table(tmp_path, masks=True)
    for mask in tmp_path.glob("mask*"):
        mask.unlink()
    assert "Mask_image" not in read_cases(table).train[0].labels
    assert "2 problem(s)" in refused(table, crop_to_mask=True)
    table.write_text(table.read_text().replace("mask0.nii.gz", ""))
    assert problem(refused(table, fit_mask=True), "line 2: Mask_image is empty")


def test_problems_of_the_masks_and_of_the_division_are_listed(tmp_path):
    table = write_table(tmp_path, ("Train",) * 8, masks=True)
    mask = ball_mask().array
    for index, (array, words) in enumerate(
        (
            (mask * 0.5, "found 0, 0.5, 1;"),
            (mask - 1, "found -1, 0, 1;"),
            (mask * 200, "found 0, 200, 400;"),
            (mask * 0, "the mask is empty"),
            (mask[:, 1:], "24 x 23 x 24 voxels"),
            (mask * np.nan, "NaN or infinite"),
        )
    ):
        put(tmp_path / f"mask{index}.nii.gz", array)
        message = refused(table, fit_mask=True)
        assert f"{index + 2} problem(s)" in message and problem(message, "no row has Test")
        assert problem(message, f"mask{index}.nii.gz", words)
    assert "7 problem(s)" in refused(table, crop_to_mask=True)


def test_the_masks_classes_are_counted_and_must_not_differ_where_they_are_learnt(tmp_path):
    table = write_table(tmp_path, ("Train", "Train", "Test"), masks=True)
    assert read_cases(table, fit_mask=True).classes == 3
    train, test, classes = read_cases(table, crop_to_mask=True)
    assert classes == 0
    for mask in (train[0].load(["Mask_image"])[1]["Mask_image"], test[0].load_label("Mask_image")):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, ball_mask().array)
    put(tmp_path / "mask1.nii.gz", ball_mask().array > 0)
    message = refused(table, fit_mask=True)
    assert problem(message, "mask1.nii.gz", "go up to 1, those of most others to 2")
    assert read_cases(table, crop_to_mask=True).train
    for index in range(3):
        put(tmp_path / f"mask{index}.nii.gz", ball_mask().array * 2)
    message = refused(table, fit_mask=True)
    assert problem(message, "no mask has a voxel of the class 1, 3 ", "number them 0 to 2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("HR_image,Base\na,Train\n", "no column Label_image"),
        ("HR_image,Label_image,Base\n", "no row has Train"),
        ("", "is empty; expected a CSV file"),
        (None, "data.csv: no such file"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "data.csv").write_text(content)
    assert message in refused(tmp_path / "data.csv")


def test_images_are_turned_upright_and_their_labels_with_them(tmp_path):
    table, turn = write_table(tmp_path), np.eye(3)[:, [2, 0, 1]] * [1, -1, 1]
    (before,) = read_cases(table).train
    for name in ("image0.nii.gz", "label0.nii.gz"):
        volume = read_volume(tmp_path / name)
        write_volume(reordered(volume, Grid((1, 1, 1), direction=turn)), tmp_path / name)
    (after,) = read_cases(table).train
    (image, labels), (known, truth) = (case.load(["Label_image"]) for case in (after, before))
    assert image.grid.is_close(known.grid)
    np.testing.assert_array_equal(image.array, known.array)
    np.testing.assert_array_equal(labels["Label_image"], truth["Label_image"])


def test_a_row_may_say_that_a_head_lies_anyhow(tmp_path):
    table = write_table(tmp_path, ("Train", "Train", "Train", "Test"))
    lines = table.read_text().splitlines()
    poses = ("Pose", "any", "upright", "", "")
    table.write_text("".join(f"{a},{b}\n" for a, b in zip(lines, poses, strict=True)))
    assert [case.upright for case in read_cases(table).train] == [False, True, True]
    table.write_text(table.read_text().replace(",any", ",askew"))
    assert problem(refused(table), "line 2: Pose must be upright or any, received askew")


def test_training_images_may_lack_a_label_where_it_is_not_needed(tmp_path):
    table = write_table(tmp_path, ("Train", "Train", "Test"))
    table.write_text(table.read_text().replace("label1.nii.gz", ""))
    assert problem(refused(table), "line 3: Label_image is empty")
    first, second = read_cases(table, unlabelled=True).train
    assert list(first.labels) == ["Label_image"] and not second.labels
    source = ImageSource.of([second], patch=16)
    assert (source.draw(np.random.default_rng(0)).truth["cortex"] == UNKNOWN).all()
    table.write_text(table.read_text().replace("label2.nii.gz", ""))
    assert problem(refused(table, unlabelled=True), "line 4: Label_image is empty")
