# SPDX-License-Identifier: MIT
"""The CSV of an evaluation, as people write it, and what is refused."""

import os
from pathlib import Path

import pytest

from segsrgan.errors import UserError
from segsrgan.evaluation import Case, read_cases
from segsrgan.tables import stem
from segsrgan.volumes import SUFFIXES


@pytest.mark.parametrize(
    "content",
    [
        b"label,reference_label\na.nii,b c.nii\n",
        b"\xef\xbb\xbflabel,reference_label\r\n\r\na.nii, b c.nii\r\n , \r\n",
        b"Label ; Reference_Label\n a.nii ;b c.nii\n",
        b"reference_label\tlabel\nb c.nii\ta.nii\n",
        b'label,reference_label\n"a.nii","b c.nii"\n',
        b"label,reference_label,image,reference_image\na.nii,b c.nii\n",
        "label,reference_label\na.nii,b c.nii\n".encode("utf-16"),
    ],
)
def test_a_case_is_read(tmp_path, content):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    (case,) = read_cases(path)
    assert case == Case(label=tmp_path / "a.nii", reference_label=tmp_path / "b c.nii", name="b c")


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
    folder = tmp_path / "folder"
    assert case.name == "é 1"
    assert case.files == {
        "image": tmp_path / "a.nii",
        "reference_image": tmp_path / "b.nii",
        "label": folder / "c.nii",
        "reference_label": folder / "d" / "e.nii",
        "mask": folder / "f.nii",
        "baseline": Path("/home/someone/g.nii"),
    }
    assert case.kinds == ("label", "image")


def test_names_that_occur_twice_get_their_line(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("label,reference_label\na.nii,r.nii\nb.nii,r.nii\nc.nii,s.nii.gz\n")
    assert [case.name for case in read_cases(path)] == ["r (line 2)", "r (line 3)", "s"]


def test_unknown_columns_are_ignored_with_a_warning(tmp_path, caplog):
    path = tmp_path / "cases.csv"
    path.write_text("label,reference_label,age\na.nii,r.nii,3\n")
    assert len(read_cases(path)) == 1
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
        ("label,label,reference_label\n", "more than one column label"),
        ("label,reference_label\na,b.nii,r.nii\n", "line 2 has 3 cells.*in quotes"),
        ("label,reference_label\n\0", "no text"),
    ],
)
def test_a_csv_that_cannot_be_right_is_refused(tmp_path, text, message):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_cases(path)
    assert str(caught.value).startswith(str(path))


def test_no_csv_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a CSV"):
        read_cases(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a folder; expected a CSV"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "names no file"),
        ({"label": "a.nii"}, r"label \(a.nii\) is given without reference_label"),
        ({"reference_image": "a.nii"}, "reference_image .* without image"),
        (
            {"label": "a.nii", "reference_label": "b.nii", "mask": "m.nii"},
            "mask .* without image and reference_image",
        ),
    ],
)
def test_a_case_that_lacks_a_partner_is_refused(files, message):
    with pytest.raises(UserError, match=message):
        Case(**files).check()


def test_the_suffixes_are_those_that_can_be_read():
    assert [stem(f"a/b.c{suffix}") for suffix in SUFFIXES] == ["b.c"] * len(SUFFIXES)
    assert stem(f"a{os.sep}dicom{os.sep}") == "dicom"
