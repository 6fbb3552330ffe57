# SPDX-License-Identifier: MIT
"""Which files belong to which patient."""

import logging
import os

import pytest
from examinations import touch_files
from volumes.samples import EVEN, write_series

from segsrgan.errors import TableError, UserError
from supermask.folders import PatientResults
from supermask.patients import Patient, read_patients
from supermask.results import Job
from supermask.views import read_view


@pytest.fixture
def read(csv):
    """The patients of a table's text."""
    return lambda text: read_patients(csv(text))


def names(paths):
    return [path and path.name for path in paths]


def test_columns_in_any_order_and_empty_cells(read, tmp_path):
    anna, ben = read(
        "mask_2,view_2,Participant ID,view_1,mask_1,view_7,truth,base\n"
        "m2.nii,c.nii,Anna/1,/data/a.nii,,s.nii,t.nii,Test\n"
        ",,Ben,a.nii,,,,\n"
    )
    assert (anna.name, anna.base, anna.truth) == ("Anna_1", "Test", tmp_path / "t.nii")
    assert names(anna.views) == ["c.nii", "a.nii", "s.nii"]
    assert names(anna.masks) == ["m2.nii", None, None]
    assert str(anna.views[1]) == "/data/a.nii" and anna.views[0] == tmp_path / "c.nii"
    assert (names(ben.views), ben.base, ben.truth) == (["a.nii"], None, None)


def test_planes_as_columns(read):
    (patient,) = read("axial;sagittal_stack;Axial mask;mask_sagittal;axial_series\na;s;ma;ms;T2\n")
    assert names(patient.views) == ["a", "s"] and names(patient.masks) == ["ma", "ms"]
    assert patient.series == ("T2", None)


def test_one_dicom_folder_may_hold_several_stacks_and_names_are_made_different(read, caplog):
    first = "view_1,series_1,view_2,series_2,patient\ndicom,ax,dicom,sag,x\n"
    patients = read(f"{first}b,,,,X\nc,,,,x_2\nd,,,,x\n")
    assert patients[0].series == ("ax", "sag")
    assert [patient.name for patient in patients] == ["x", "X_2", "x_2_2", "x_3"]
    assert "names patients more than once" in caplog.text and "X (X_2), x_2 (x_2_2)" in caplog.text


def test_all_problems_are_listed_with_their_lines(read):
    with pytest.raises(TableError) as error:
        read(
            "view_1,view_2,mask_3,base\na.nii,./a.nii,,\nb.nii,,m.nii,\nc.nii,,,Maybe\n,,,\n,,,Test\n"
            "d.nii,,,,more\n"
        )
    for part in (
        "5 problem(s)",
        "line 2: names one stack twice: ",
        "a.nii; name each stack once",
        "line 7 has 5 cells, the first line names 4 columns",
        "line 3: has a mask 3, but no stack 3",
        "line 4: base must be Train or Test, received Maybe",
        "line 6: expected one to three stacks, received 0",
    ):
        assert part in str(error.value)


def test_a_wrong_line_or_folder_does_not_stop_the_other_patients(read, tmp_path):
    (tmp_path / "link.nii").symlink_to("a.nii")
    wrong, right = read("patient,view_1,view_2\nx,a.nii,link.nii\ny,a.nii,\n")
    assert (wrong.name, wrong.views, right.name, right.problem) == ("x", (), "y", None)
    both = f"{tmp_path / 'a.nii'} and {tmp_path / 'link.nii'}"
    assert wrong.problem == f"line 2: names one stack twice: {both}; name each stack once"
    (tmp_path / "link.nii").unlink()
    touch_files(tmp_path, "p1/axial.nii", "p2/axial.nii", "p2/liver_mask.nii")
    first, second = read_patients(tmp_path)
    assert first.problem is None and "liver_mask.nii: of which stack" in second.problem

    def place(patient):
        return PatientResults(tmp_path / patient.name, patient.name)

    (outcome,) = Job(place=place, settings=None, progress=None).run([second])
    assert (outcome.result, outcome.detail) == ("failed", second.problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a CSV file with the columns view_1"),
        ("view_1\n", "names no patient"),
        ("mask_1\nm.nii\n", "has no column of stacks"),
        ("axial,axial_view\na,b\n", "axial, axial_view mean the same"),
    ],
)
def test_other_tables_are_refused(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


def test_unknown_columns_are_ignored_aloud(read, caplog):
    read("view_1,veiw_2\na,b\n")
    assert "unknown columns, ignored: veiw_2" in caplog.text


def test_folders_of_patients(tmp_path, caplog):
    first = "axial", "axial_mask", "sagittal", "truth", "truth_image"
    touch_files(tmp_path, "set/notes/a.txt", *(f"set/p1/{name}.nii.gz" for name in first))
    second = "sub-01_run-1_T2w", "sub-01_run-1_T2w_desc-brain_mask", "sub-01_run-11_T2w"
    touch_files(tmp_path, *(f"set/p2/{name}.nii" for name in second))
    write_series(tmp_path / "set/p1/dicom", EVEN)
    with caplog.at_level(logging.WARNING):
        first, second = read_patients(tmp_path / "set")
    assert "no stacks in notes" in caplog.text
    assert first.name == "p1" and first.truth.name == "truth.nii.gz"
    assert names(first.views) == ["axial.nii.gz", "sagittal.nii.gz", "dicom"]
    assert names(first.masks) == ["axial_mask.nii.gz", None, None]
    assert names(second.views) == ["sub-01_run-11_T2w.nii", "sub-01_run-1_T2w.nii"]
    touch_files(tmp_path, *(f"set/p3/{name}.nii" for name in ("a", "B", "mask_a", "B_seg")))
    assert names(read_patients(tmp_path / "set")[2].masks) == ["B_seg.nii", "mask_a.nii"]
    assert names(second.masks) == [None, "sub-01_run-1_T2w_desc-brain_mask.nii"]
    assert read_patients(tmp_path / "set/p1") == [first]


AXES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
}


def write_planes(folder, apart=False, planes=AXES, **tags):
    """DICOM of several planes, each series in a folder of its own or all in one; UID by plane."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = {plane: f"1.2.3.{number}" for number, plane in enumerate(planes, start=5)}
    for start, (plane, uid) in enumerate(uids.items()):
        place = folder / f"SER{start}" if apart else folder
        series = {
            "SeriesInstanceUID": uid,
            "SeriesNumber": uid[-1],
            "SeriesDescription": f"T2 {plane}",
        }
        series |= {"orientation": AXES.get(plane, AXES["axial"]), **tags}
        write_series(place, EVEN, start=100 * start, **series)
    return uids


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("deep", ["DICOM/PAT/STD", "DICOM", "."])
def test_a_disc_holds_a_stack_of_each_plane(tmp_path, deep, apart):
    uids = write_planes(tmp_path / "CD" / deep, apart)
    write_planes(
        tmp_path / "CD" / "LOC", False, ["localizer"], SeriesInstanceUID="9", ImageType=["DERIVED"]
    )
    (patient,) = read_patients(tmp_path / "CD")
    assert patient.name == "CD"
    found = {
        series: read_view(view, series=series)
        for view, series in zip(patient.views, patient.series, strict=True)
    }
    for plane, uid in uids.items():
        assert found[uid].plane == plane


def test_discs_of_several_patients_and_series_that_leave_questions(tmp_path):
    for name in ("p1", "p2"):
        write_planes(tmp_path / "set" / name, PatientID="")
    write_planes(tmp_path / "set/p3/DICOM/IMG", planes=["axial", "axial_2"])
    first, second, third = read_patients(tmp_path / "set")
    assert [first.name, second.name, third.name] == ["p1", "p2", "p3"]
    assert len(first.views) == len(second.views) == 3 and third.problem
    place = tmp_path / "set/p3/DICOM/IMG"
    for words in (
        "p3: holds 2 series of DICOM; choose one to three in a CSV file",
        f"{place}: series 5 'T2 axial' (axial, 6 slices); {place}: series 6 'T2 axial_2'",
    ):
        assert words in third.problem
    (tmp_path / "set/p4").mkdir()
    write_planes(tmp_path / "set/p4", apart=True)
    write_planes(
        tmp_path / "set/p4/LOC", planes=["localizer"], SeriesInstanceUID="9", ImageType="MPR"
    )
    last = read_patients(tmp_path / "set")[-1]
    assert names(last.views) == ["SER0", "SER1", "SER2"] and last.name == "p4"
    touch_files(tmp_path, "set/p1/axial_mask.nii", "set/p2/a.nii")
    first, second, *_ = read_patients(tmp_path / "set")
    assert names(first.masks) == ["axial_mask.nii", None, None] and names(second.views) == ["a.nii"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["notes.txt"], "holds no stacks, nor do its folders"),
        (["axial.nii", "liver_mask.nii"], "liver_mask.nii: of which stack"),
        ([f"run{k}.nii" for k in range(4)], "expected one to three stacks, received 4"),
        (["axial.nii", "axial.nii.gz"], r"axial.nii and .*axial.nii.gz: which of them"),
    ],
)
def test_folders_that_leave_questions(tmp_path, files, message):
    touch_files(tmp_path, *files)
    with pytest.raises(UserError, match=message):
        read_patients(tmp_path)


def test_a_patient_is_checked():
    with pytest.raises(UserError, match="as many masks as stacks, received 1 and 2"):
        Patient("a", ("1", "2"), masks=("m",))
    assert Patient(" ../a:b ", ("1",)).name == "_a_b"
    assert len(os.fsencode(Patient("ü" * 200, ("1",)).name)) == 255
