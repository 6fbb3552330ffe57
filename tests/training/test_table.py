# SPDX-License-Identifier: MIT
"""The training CSV: all problems at once, before anything starts."""

import numpy as np
import pytest
from training.samples import ball, write_table

from segsrgan.training.table import TableError, read_table
from segsrgan.volumes import Volume, write_volume


def test_a_good_table_is_split_by_its_base(tmp_path):
    train, test = read_table(write_table(tmp_path, ("Train", "Test", "Train")))
    assert [case.image.name for case in train] == ["image0.nii.gz", "image2.nii.gz"]
    assert [case.image.name for case in test] == ["image1.nii.gz"]
    image, label = train[0].load()
    assert image.array.dtype == np.float32 and label.dtype == bool


def test_relative_paths_start_at_the_base_path(tmp_path):
    (tmp_path / "images").mkdir()
    table = write_table(tmp_path / "images")
    table.rename(tmp_path / "data.csv")
    with pytest.raises(TableError):
        read_table(tmp_path / "data.csv")
    assert read_table(tmp_path / "data.csv", tmp_path / "images")[0]


def test_all_problems_are_listed_at_once(tmp_path):
    table = write_table(tmp_path, ("Train",) * 6 + ("Test",))
    image, label = ball()
    (tmp_path / "image0.nii.gz").unlink()
    write_volume(Volume(label.array[:-1], label.spacing), tmp_path / "label1.nii.gz")
    write_volume(Volume(label.array, label.spacing, (5, 0, 0)), tmp_path / "label2.nii.gz")
    write_volume(label.with_array(label.array * 0), tmp_path / "label3.nii.gz")
    image.array[3, 3, 3] = np.nan
    write_volume(image, tmp_path / "image4.nii.gz")
    table.write_text(table.read_text().replace("label5.nii.gz,Train", "label5.nii.gz,Trian"))
    with pytest.raises(TableError) as error:
        read_table(table)
    message = str(error.value)
    assert "6 problem(s)" in message
    for name, words in {
        "image0.nii.gz": "no such file",
        "label1.nii.gz": "(23, 24, 24) differs from the image's (24, 24, 24)",
        "label2.nii.gz": "5.00 mm beside the image",
        "label3.nii.gz": "the label is empty",
        "image4.nii.gz": "NaN or infinite",
        "line 7": "received Trian",
    }.items():
        line = next(line for line in message.splitlines() if name in line and words in line)
        assert line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("HR_image,Base\na,Train\n", "no column Label_image"),
        ("HR_image,Label_image,Base\n", "no row has Train"),
        ("", "not a readable CSV"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(content, message, tmp_path):
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / "data.csv")


def test_an_empty_test_set_is_refused(tmp_path):
    with pytest.raises(TableError, match="no row has Test"):
        read_table(write_table(tmp_path, ("Train", "Train")))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(TableError, match="none.csv: no such CSV"):
        read_table(tmp_path / "none.csv")
