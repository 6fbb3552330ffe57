# SPDX-License-Identifier: MIT
"""Which files belong to which patient."""

import logging

import numpy as np
import pytest
from volumes.samples import write_series

from segsrgan.errors import TableError, UserError
from segsrgan.volumes import Volume, write_volume
from supermask.patients import Patient, read_patients


@pytest.fixture
def table(tmp_path):
    def write(text, name="patients.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def names(paths):
    return [path and path.name for path in paths]


def test_columns_in_any_order_and_empty_cells(table, tmp_path):
    path = table(
        "mask_2,view_2,Patient,view_1,mask_1,view_3,truth,base\n"
        "m2.nii,c.nii,Anna/1,/data/a.nii,,s.nii,t.nii,Test\n"
        ",,Ben,a.nii,,,,\n"
    )
    anna, ben = read_patients(path)
    assert (anna.name, anna.base, anna.truth) == ("Anna_1", "Test", tmp_path / "t.nii")
    assert dict(zip(names(anna.views), names(anna.masks), strict=True)) == {
        "c.nii": "m2.nii",
        "a.nii": None,
        "s.nii": None,
    }
    assert str(anna.views[1]) == "/data/a.nii" and anna.views[0] == tmp_path / "c.nii"
    assert (names(ben.views), ben.base, ben.truth) == (["a.nii"], None, None)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_planes_as_columns(table, separator):
    rows = [
        ["axial", "sagittal_stack", "Axial mask", "mask_sagittal", "axial_series"],
        ["a", "s", "ma", "ms", "T2"],
    ]
    text = "\n".join(separator.join(row) for row in rows)
    (patient,) = read_patients(table(text, encoding="utf-8-sig"))
    assert names(patient.views) == ["a", "s"] and names(patient.masks) == ["ma", "ms"]
    assert patient.series == ("T2", None)


def test_one_dicom_folder_may_hold_several_stacks(table):
    (patient,) = read_patients(table("view_1,series_1,view_2,series_2\ndicom,ax,dicom,sag\n"))
    assert patient.series == ("ax", "sag")


def test_names_are_made_different(table):
    path = table("view_1,patient\na,x\nb,X\nc,x_2\nd,x\n")
    assert [patient.name for patient in read_patients(path)] == ["x", "X_2", "x_2_2", "x_3"]


def test_all_problems_are_listed_with_their_lines(table):
    path = table(
        "view_1,view_2,mask_3,base\na.nii,a.nii,,\nb.nii,,m.nii,\nc.nii,,,Maybe\n,,,\n,,,Test\n"
    )
    with pytest.raises(TableError) as error:
        read_patients(path)
    text = str(error.value)
    assert "4 problem(s)" in text
    for part in (
        "line 2: names one stack twice",
        "line 3: has a mask 3, but no stack 3",
        "line 4: base must be Train or Test, received Maybe",
        "line 6: expected one to three stacks, received 0",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a CSV file with the columns view_1"),
        ("view_1\na,b\n", "line 2 has 2 cells, the first line names 1"),
        ("view_1\n", "names no patient"),
        ("mask_1\nm.nii\n", "has no column of stacks"),
        ("axial,axial_view\na,b\n", "axial, axial_view mean the same"),
        ("view_1\nx\0y\n", "is not a text file"),
    ],
)
def test_other_tables_are_refused(table, text, message):
    with pytest.raises(UserError, match=message):
        read_patients(table(text))


def test_unknown_columns_are_ignored_aloud(table, caplog):
    with caplog.at_level(logging.WARNING):
        read_patients(table("view_1,veiw_2\na,b\n"))
    assert "unknown columns, ignored: veiw_2" in caplog.text


def test_a_path_that_leads_nowhere(tmp_path):
    with pytest.raises(UserError, match="nothing.csv: no such file"):
        read_patients(tmp_path / "nothing.csv")


@pytest.fixture
def image(tmp_path):
    def write(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(np.zeros((2, 2, 2), np.uint8), (1, 1, 1)), path)
        return path

    return write


def test_folders_of_patients(image, tmp_path, caplog):
    for name in ("axial", "axial_mask", "sagittal", "truth", "truth_image"):
        image(f"set/p1/{name}.nii.gz")
    for name in ("sub-01_run-1_T2w", "sub-01_run-1_T2w_desc-brain_mask", "sub-01_run-11_T2w"):
        image(f"set/p2/{name}.nii")
    (tmp_path / "set/notes").mkdir()
    with caplog.at_level(logging.WARNING):
        first, second = read_patients(tmp_path / "set")
    assert "no stacks in notes" in caplog.text
    assert first.name == "p1" and first.truth.name == "truth.nii.gz"
    assert names(first.views) == ["axial.nii.gz", "sagittal.nii.gz"]
    assert names(first.masks) == ["axial_mask.nii.gz", None]
    assert names(second.views) == ["sub-01_run-11_T2w.nii", "sub-01_run-1_T2w.nii"]
    assert names(second.masks) == [None, "sub-01_run-1_T2w_desc-brain_mask.nii"]
    (alone,) = read_patients(tmp_path / "set/p1")
    assert alone == first


def test_dicom_folders_are_stacks(image, tmp_path):
    image("p/axial.nii")
    write_series(tmp_path / "p/sag", [0.0, 4.0, 8.0])
    (patient,) = read_patients(tmp_path / "p")
    assert names(patient.views) == ["axial.nii", "sag"]


def test_folders_that_leave_questions(image, tmp_path):
    with pytest.raises(UserError, match="holds no stacks, nor do its folders"):
        read_patients(tmp_path)
    image("a/axial.nii")
    image("a/liver_mask.nii")
    with pytest.raises(UserError, match="liver_mask.nii: of which stack"):
        read_patients(tmp_path / "a")
    for k in range(4):
        image(f"b/run{k}.nii")
    with pytest.raises(UserError, match="expected one to three stacks, received 4"):
        read_patients(tmp_path / "b")


def test_two_files_of_one_stack_are_never_chosen_between(image, tmp_path):
    for name in ("axial.nii", "axial.nii.gz", "sagittal.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"axial.nii and .*axial.nii.gz: which of them"):
        read_patients(tmp_path)


def test_a_patient_is_checked():
    with pytest.raises(UserError, match="one to three stacks, received 4"):
        Patient("a", ("1", "2", "3", "4"))
    with pytest.raises(UserError, match="as many masks as stacks, received 1 and 2"):
        Patient("a", ("1", "2"), masks=("m",))
    assert Patient(" ../a:b ", ("1",)).name == "_a_b"
