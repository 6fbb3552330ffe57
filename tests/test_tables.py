# SPDX-License-Identifier: MIT
"""Every CSV that people write is read."""

import os
import unicodedata
from pathlib import Path

import pytest

from segsrgan.errors import TableError
from segsrgan.tables import find_table, image_files, read_paths, read_table, stem


@pytest.fixture
def names(tmp_path, csv):
    """Return a function: the paths that a CSV of this content names, beside it."""

    def read(*content):
        return [str(image.relative_to(tmp_path)) for image in read_paths(csv(*content))]

    return read


@pytest.mark.parametrize(
    "content",
    [
        b"a.nii.gz\nb/c.nii\n",
        b"path\na.nii.gz\nb/c.nii\n",
        b"LR_image,age\na.nii.gz,3\nb/c.nii,4\n",
        b"a.nii.gz;3;x\nb/c.nii;4,5;y\n",
        b"a.nii.gz\t3\nb/c.nii\t4\n",
        b'"a.nii.gz","x, y"\n"b/c.nii","z"\n',
        b"\xef\xbb\xbfpath\r\na.nii.gz\r\n\r\nb/c.nii\r\n  \r\n",
        b"\n,,\na.nii.gz,\nb/c.nii,\n",
        "a.nii.gz\nb/c.nii\n".encode("utf-16"),
    ],
)
def test_the_first_column_is_read(names, content):
    assert names(content) == ["a.nii.gz", "b/c.nii"]


def test_a_path_may_hold_blanks_accents_and_separators(tmp_path, names):
    (tmp_path / "a, b.nii").touch()
    expected = ["a, b.nii", "c, d.nii", "é f\u2028g.nii"]
    assert names('a, b.nii\n"c, d.nii"\né f\u2028g.nii\r\n') == expected


@pytest.mark.parametrize("cell", ["dicom", "patient1", "sub-01", "MyScans", "--"])
def test_only_known_words_that_are_no_folder_are_a_header(tmp_path, names, cell):
    (tmp_path / "dicom").mkdir()
    assert names(f"{cell}\nb.nii\n") == [cell, "b.nii"]


@pytest.mark.parametrize("header", ["Image path", "LR_image", "images", "Path"])
def test_a_plain_header_is_not_worth_a_warning(names, caplog, header):
    assert names(f"{header}\nb.nii\n") == ["b.nii"]
    assert caplog.text == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "mac_roman"])
def test_names_of_files_are_read_in_the_encoding_that_they_have(tmp_path, names, encoding):
    composed, bytewise = "Größe é.nii", os.fsdecode(b"K\xf6pf.nii")
    apart = unicodedata.normalize("NFD", "Öl.nii")
    for name in (composed, bytewise, apart):
        (tmp_path / name).touch()
    (tmp_path / "sub" / "é").mkdir(parents=True)
    content = "Pfad\nGröße é.nii\nÖl.nii\nsub\\é\n"
    assert names(content, encoding) == [composed, apart, "sub/é"]
    if encoding == "cp1252":  # of files that do not exist, too
        assert names("ü \u20ac.nii\n", encoding) == ["ü \u20ac.nii"]
        assert names(b"K\xf6pf.nii\n") == [bytewise]


def test_relative_paths_and_the_csv_itself_start_from_a_folder_that_is_named(tmp_path, monkeypatch):
    path = tmp_path / "lists" / "data.csv"
    path.parent.mkdir()
    path.write_text("a.nii\n/b/c.nii\n")
    assert read_paths(path) == [path.with_name("a.nii"), Path("/b/c.nii")]
    assert read_paths(path, tmp_path)[0] == tmp_path / "a.nii"
    monkeypatch.chdir(tmp_path)
    assert find_table("data.csv", "paths", "lists") == path


def test_duplicates_are_named_and_taken_once(names, caplog):
    assert names("a.nii\nb.nii\n./c/../a.nii\n") == ["a.nii", "b.nii"]
    assert "./c/../a.nii is named more than once" in caplog.text


def test_an_empty_list_is_refused(names):
    for content in (b"", b"\n \n", b"path\n", b"\xef\xbb\xbf", b",,\n"):
        with pytest.raises(TableError, match="names no image"):
            names(content)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        *((name, "no such file") for name in ("none.csv", "~no such user/data.csv")),
        ("", "is a folder"),
        ("image.nii.gz", "not a text file"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    Path("image.nii.gz").write_bytes(b"\x1f\x8b\0\0")
    with pytest.raises(TableError, match=words):
        read_paths(path, "~no such user")


def test_the_stem_loses_image_suffixes_only():
    names = ("a.nii.gz", "a.b.NII", "a.img.gz", "a.mgz", "scan.v2", ".nii")
    assert [stem(f"x/{name}") for name in names] == ["a", "a.b", "a", "a", "scan.v2", ".nii"]


def test_of_a_pair_the_header_alone_is_an_image_file(tmp_path):
    for name in ("b.img", "b.hdr", "c.IMG", "c.hdr", "d.img", "a.nii", ".e.nii", "note.txt"):
        (tmp_path / name).touch()
    (tmp_path / "f.nii").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.nii", "b.hdr", "c.hdr", "d.img"]


def test_long_lines_and_impossible_paths_are_read_like_others(names):
    long = "x" * 300
    content = f"a.nii,{long}\n{long}.nii,1\n~no such user/b.nii,2\na\0b.nii\n"
    assert names(content, "utf-16") == ["a.nii", f"{long}.nii", "~no such user/b.nii", "a\0b.nii"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_a_table_has_rows_by_column_and_line(tmp_path, separator, encoding):
    lines = ["", "Image,mask,", "é.nii,b.nii", "", ",c.nii", "  ", '"d, e; f.nii"']
    text = "\n".join(line.replace(",", separator) for line in lines[:-1]) + "\n" + lines[-1]
    (tmp_path / "data.csv").write_text(text, encoding=encoding)
    table = read_table(tmp_path / "data.csv", "columns image, mask")
    assert table.columns == ("Image", "mask", "")
    assert table.has("image") and not table.has("label")
    assert [row.line for row in table.rows] == [3, 5, 7]
    assert [row.get("IMAGE") for row in table.rows] == ["é.nii", "", "d, e; f.nii"]
    assert [row.get("mask") for row in table.rows] == ["b.nii", "c.nii", ""]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=; ", "sep=;,,"])
def test_the_line_by_which_excel_names_the_separator_is_no_row(tmp_path, names, first):
    assert names(f"{first}\nimage;mask\na, b.nii;c, d, e.nii\n") == ["a, b.nii"]
    (row,) = read_table(tmp_path / "data.csv", "columns").rows
    assert row[:2] == (3, {"image": "a, b.nii", "mask": "c, d, e.nii"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty; expected a CSV file with the columns image"),
        ("image,Image\na,b\n", "more than one column image"),
        (f"image\n{'x' * 200_000}\n", "line 2 cannot be read"),
    ],
)
def test_a_table_that_cannot_be_read_is_explained(csv, content, words):
    with pytest.raises(TableError, match=words):
        read_table(csv(content), "columns image")


def test_a_line_with_too_many_cells_is_a_row_with_a_problem(csv):
    bad, good = read_table(csv("image,mask\n\na,b,c\nd,e,,\n"), "columns image").rows
    assert bad.problem.startswith("line 3 has 3 cells, the first line names 2 columns")
    assert good == (4, {"image": "d", "mask": "e"}, None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('image,"the\nnote"\na,"b\n\n""c""\nd"\ne,f\n', ["a", "e"]),
        ('image,note\na,"b\ne,f\n', ["a", "e"]),  # forgotten to the end of the file
        ('image,note\na,"b\ne,"f"\n', ["a", "e"]),  # closed by the beginning of another one
        ('image,note\na,5" b\ne,f"\n', ["a", "e"]),
        ('image,note\n"a,b\ne,f\ng",\n', ["a,b e,f g"]),
        ("# one, two\nimage,note\n# b,c\na,b\n #\n#e,f\n", ["a", "#e"]),
    ],
)
def test_line_breaks_in_quotes_and_comments(csv, names, content, expected):
    assert names(content) == expected
    assert [row.get("image") for row in read_table(csv(content), "columns").rows] == expected


def test_an_image_whose_name_begins_like_a_comment_is_none(tmp_path, names):
    (tmp_path / "# a.nii").touch()
    assert names("# a.nii\n# b.nii\nc.nii\n") == ["# a.nii", "c.nii"]


def test_unknown_columns_are_named(csv, caplog):
    table = read_table(csv("image,Age,mask\na,3,b\n"), "columns")
    table.warn_of_unknown(("Image", "Mask"))
    assert "ignored columns: Age; known are Image, Mask" in caplog.text
