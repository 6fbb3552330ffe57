# SPDX-License-Identifier: MIT
"""Every CSV that people write yields its paths."""

import logging
from pathlib import Path

import pytest

from segsrgan.inference.errors import InferenceError
from segsrgan.inference.imagelist import image_stem, read_image_list


def names(path, **options):
    return [str(image.relative_to(path.parent)) for image in read_image_list(path, **options)]


@pytest.mark.parametrize(
    "content",
    [
        b"a.nii.gz\nb/c.nii\n",
        b"path\na.nii.gz\nb/c.nii\n",
        b"LR_image,age\na.nii.gz,3\nb/c.nii,4\n",
        b"a.nii.gz;3;x\nb/c.nii;4,5;y\n",
        b"a.nii.gz\t3\nb/c.nii\t4\n",
        b'"a.nii.gz","x, y"\n"b/c.nii","z"\n',
        b"\xef\xbb\xbfa.nii.gz\r\n\r\nb/c.nii\r\n  \r\n",
        b"\xef\xbb\xbfpath\r\na.nii.gz\r\nb/c.nii",
        b"\n,,\na.nii.gz,\nb/c.nii,\n",
        "a.nii.gz\nb/c.nii\n".encode("utf-16"),
    ],
)
def test_the_first_column_is_read(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    assert names(path) == ["a.nii.gz", "b/c.nii"]


def test_a_path_may_hold_blanks_accents_and_separators(tmp_path):
    (tmp_path / "a, b.nii").touch()
    path = tmp_path / "data.csv"
    path.write_text('a, b.nii\n"c, d.nii"\né f.nii\n', encoding="utf-8")
    assert names(path) == ["a, b.nii", "c, d.nii", "é f.nii"]


def test_a_folder_without_suffix_in_the_first_line_is_no_header(tmp_path):
    (tmp_path / "dicom").mkdir()
    path = tmp_path / "data.csv"
    path.write_text("dicom\nb.nii\n")
    assert names(path) == ["dicom", "b.nii"]


@pytest.mark.parametrize("cell", ["patient1", "dicom_1", "MyScans", "filepath?", "--"])
def test_a_doubtful_header_is_named(tmp_path, caplog, cell):
    path = tmp_path / "data.csv"
    path.write_text(f"{cell}\nb.nii\n")
    assert names(path) == ["b.nii"]
    assert f"'{cell}' is taken as a header" in caplog.text


@pytest.mark.parametrize("header", ["Image path", "LR_image", "images", "Path"])
def test_a_plain_header_is_not_worth_a_warning(tmp_path, caplog, header):
    path = tmp_path / "data.csv"
    path.write_text(f"{header}\nb.nii\n")
    with caplog.at_level(logging.WARNING):
        assert names(path) == ["b.nii"]
    assert caplog.text == ""


def test_relative_paths_start_from_debut_path(tmp_path):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "data.csv"
    path.write_text("a.nii\n/b/c.nii\n")
    assert read_image_list(path) == [tmp_path / "lists" / "a.nii", Path("/b/c.nii")]
    assert read_image_list(path, tmp_path)[0] == tmp_path / "a.nii"


def test_the_csv_itself_may_lie_in_debut_path(tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "data.csv").write_text("a.nii\n")
    monkeypatch.chdir(tmp_path)
    assert read_image_list("data.csv", "base") == [tmp_path / "base" / "a.nii"]


def test_duplicates_are_named_and_taken_once(tmp_path, caplog):
    path = tmp_path / "data.csv"
    path.write_text("a.nii\nb.nii\n./c/../a.nii\n")
    assert names(path) == ["a.nii", "b.nii"]
    assert "./c/../a.nii is named more than once" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\n \n", b"path\n", b"\xef\xbb\xbf", b",,\n"])
def test_an_empty_list_is_refused(tmp_path, content):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(InferenceError, match="names no image"):
        read_image_list(path)


def test_what_is_no_list_is_refused(tmp_path):
    (tmp_path / "image.nii.gz").write_bytes(b"\x1f\x8b\0\0")
    for path, words in (("none.csv", "no such file"), (".", "folder"), ("image.nii.gz", "no text")):
        with pytest.raises(InferenceError, match=words):
            read_image_list(tmp_path / path)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.NII", "a.b"), ("scan.v2", "scan.v2"), (".nii", ".nii")],
)
def test_the_stem_loses_image_suffixes_only(name, stem):
    assert image_stem(Path("folder") / name) == stem


def test_long_lines_and_impossible_paths_are_read_like_others(tmp_path):
    path, long = tmp_path / "data.csv", "x" * 300
    path.write_text(f"a.nii,{long}\n{long}.nii,1\n~no such user/b.nii,2\na\0b.nii\n", "utf-16")
    assert names(path) == ["a.nii", f"{long}.nii", "~no such user/b.nii", "a\0b.nii"]


def test_a_list_of_an_unknown_user_is_no_file():
    with pytest.raises(InferenceError, match="no such file"):
        read_image_list("~no such user/data.csv", "~no such user")
