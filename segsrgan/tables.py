# SPDX-License-Identifier: MIT
"""CSV files, image suffixes and image names: one reader for every command.

Comma, semicolon or tab separate, or what a first line `sep=;` says (Excel's); UTF-8, UTF-16 and
Windows' CP1252 are read, other bytes if they are a file's name; blank lines and comments,
which begin with `# `, count in line numbers and are otherwise ignored; `~` is the home folder;
relative paths start from the CSV's folder. A line break in quotes within a cell is a blank.
"""

import codecs
import csv
import logging
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from segsrgan.errors import TableError

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".img.gz", ".img")
FREESURFER_SUFFIXES = (".mgz", ".mgh")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
# What names an image file; DICOM files may have any name.
IMAGE_SUFFIXES = (*NIFTI_SUFFIXES, *FREESURFER_SUFFIXES, *ITK_SUFFIXES, ".dcm")

_SEPARATORS = ",;\t"
# A first cell of these words alone, such as "LR_image", is the header of a column of paths.
_HEADER_WORDS = {
    *("path image file filename filepath imagepath name folder scan dicom nifti mri".split()),
    *("lr low res".split()),
    *("pfad datei bild chemin fichier".split()),
}
# What a cell may be written in that is not UTF-8, the likeliest first; the last fits anything.
_ENCODINGS = ("cp1252", "mac_roman", "latin-1")


class Row(NamedTuple):
    """A line of a CSV file, numbered from 1, and its cells that are not empty.

    `cells` is column name in lower case -> text without surrounding blanks; `problem` says what is
    wrong with the line if anything is.
    """

    line: int
    cells: dict
    problem: str | None = None

    def get(self, column, default=""):
        """The text of a column, whose name may be written in any case."""
        return self.cells.get(column.lower(), default)


class Table(NamedTuple):
    """A CSV file whose first line names its columns, here as they are written, and its `Row`s."""

    path: Path
    columns: tuple
    rows: list

    def has(self, column):
        """Whether there is a column of this name, in any case."""
        return column.lower() in (name.lower() for name in self.columns)

    def warn_of_unknown(self, known):
        """Logs a warning that names the columns that are not among `known` and so not used."""
        names = {name.lower() for name in known}
        ignored = [name for name in self.columns if name and name.lower() not in names]
        if ignored:
            logger.warning(
                "%s: ignored columns: %s; known are %s",
                self.path,
                ", ".join(ignored),
                ", ".join(known),
            )


def read_table(path, expected, base=None):
    """Reads a CSV file whose first line names the columns, as a `Table`.

    `expected` is what it should hold, for messages: "columns HR_image, Label_image, Base";
    relative paths start from `base`, the CSV's folder when None. A line with more cells than there
    are columns is a `Row` with a `problem`.

    Raises:
        TableError: if the file is missing or not a text file, holds nothing, or names a column
            twice.
    """
    path = find_table(path, expected)
    lines = _cells(path, expected, base or path.parent)
    if not lines:
        raise TableError(f"{path}: is empty; expected a CSV file with the {expected}")
    columns = lines[0][1]
    doubled = [n for n, count in Counter(c.lower() for c in columns if c).items() if count > 1]
    if doubled:
        raise TableError(f"{path}: has more than one column {', '.join(doubled)}; keep one")
    rows = []
    for number, cells in lines[1:]:
        problem = None
        if any(cells[len(columns) :]):
            problem = (
                f"line {number} has {len(cells)} cells, the first line names {len(columns)} "
                "columns; put a cell that holds a separator in quotes"
            )
        named = zip(columns, cells, strict=False)
        found = {name.lower(): cell for name, cell in named if name and cell}
        rows.append(Row(number, found, problem))
    return Table(path, tuple(columns), rows)


def read_paths(path, base=None):
    """The absolute paths in the first column of a CSV file, with or without a header, in order.

    A first line made of known words alone, such as `image` or `LR_image`, is a header; anything
    else is a path, whether it exists or not. A path that occurs twice is taken once, with a
    warning; links to one file are different paths, as data sets of links mean them. Relative ones
    start from `base`, the CSV's folder when None.

    Raises:
        TableError: if the file is missing, is not a text file, or names no path.
    """
    expected = "path of one image on each line"
    path = find_table(path, expected)
    base = expanded(base or path.parent).absolute()
    cells = [cells[0] for _, cells in _cells(path, expected, base, whole=True) if cells[0]]
    if cells and _is_header(cells[0], base):
        logger.debug("%s: the first line %r is the header", path, cells[0])
        cells = cells[1:]
    if not cells:
        raise TableError(f"{path}: names no image; put one path on each line, in the first column")
    images = {}
    for cell in cells:
        image = resolved(cell, base)
        if image in images:
            logger.warning("%s: %s is named more than once and done once", path, cell)
        images[image] = None
    return list(images)


def find_table(path, expected, folder=None):
    """The absolute path of a CSV file, found from the current folder or else from `folder`.

    Raises:
        TableError: if there is no such file; it says what was `expected` of one.
    """
    path = expanded(path)
    for place in [path] + ([expanded(folder) / path] if folder else []):
        if place.is_file():
            return place.absolute()
    what = "is a folder" if path.is_dir() else "no such file"
    raise TableError(f"{path}: {what}; expected a CSV file with the {expected}")


def expanded(path):
    """The `Path` with ~ replaced by the home folder; unchanged where there is no such user."""
    return Path(os.path.expanduser(path))


def resolved(cell, base=""):
    """The absolute `Path` that a cell names, relative to a folder; links are not followed."""
    return Path(os.path.abspath(Path(base) / expanded(cell)))


def is_image_name(name):
    """Whether a file name ends like an image's, in any case."""
    return str(name).lower().endswith(IMAGE_SUFFIXES)


def stem(path):
    """The name of an image without folder and suffix; of any other path its last part.

    Examples:
        >>> stem("sub-01/T2.NII.GZ")
        'T2'
    """
    name = Path(path).name
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or name


def image_files(folder):
    """The image files of a folder by name, hidden ones left out; of a pair only the header.

    A link that leads nowhere counts, too: whoever reads it says why.
    """
    paths = sorted(path for path in Path(folder).iterdir() if not path.is_dir())
    names = (path.name.lower() for path in paths)
    voxels = {n.replace(".hdr", ".img") for n in names if n.endswith((".hdr", ".hdr.gz"))}
    return [
        path
        for path in paths
        if path.name[0] != "." and is_image_name(path.name) and path.name.lower() not in voxels
    ]


def _cells(path, expected, base, whole=False):
    """`(line number, cells)` of each line that is not blank, after a `sep=` line if there is one.

    With `whole`, a line that is an existing path as it stands is one cell, separators or not.
    """
    # Not `splitlines`, which also cuts at marks that are letters of a name, such as U+2028.
    lines = enumerate(re.split(r"\r\n|\r|\n", _text(path, expected)), start=1)
    numbered = [(number, line) for number, line in lines if line.strip()]
    separator = None
    if numbered and (match := re.fullmatch(r'"?sep=(.)"?[,;\s]*', numbered[0][1], re.IGNORECASE)):
        separator, numbered = match[1], numbered[1:]
    separator = separator or _separator([line for _, line in numbered])
    rows, width, following = [], None, 0
    for index, (number, line) in enumerate(numbered):
        if index < following:
            continue
        if whole and os.path.lexists(resolved(line.strip(), base)):
            cells = [line]
        elif re.match(r"\s*#( |$)", line):
            logger.info("%s: line %d is a comment and left out", path, number)
            continue
        else:
            try:
                cells, count = _split(numbered, index, separator, width)
            except csv.Error as error:
                raise TableError(f"{path}: line {number} cannot be read ({error})") from error
            following = index + count
            width = width or len(cells)
        cells = [_as_on_disk(" ".join(cell.split("\n")).strip(), base) for cell in cells]
        if any(cells):
            rows.append((number, cells))
    return rows


def _split(numbered, index, separator, width):
    """The cells of a line, and of how many lines: more where a quote that it opens closes later.

    All must make up a row of `width` cells: else the quote was forgotten, or is an inch.
    """
    options = {"delimiter": separator, "skipinitialspace": True}
    line = numbered[index][1]
    if line.count('"') % 2:
        following = (f"{numbered[k][1]}\n" for k in range(index, len(numbered)))
        with suppress(csv.Error):
            reader = csv.reader(following, strict=True, **options)
            cells = next(reader)
            if len(cells) == width or width is None and len(cells) > 1:
                return cells, reader.line_num
    return next(csv.reader([line], **options)), 1


def _separator(lines):
    """The mark that stands, outside quotes, in the most lines; the comma among equals."""
    unquoted = ["".join(line.split('"')[::2]) for line in lines]
    return max(_SEPARATORS, key=lambda mark: sum(mark in line for line in unquoted))


def _text(path, expected):
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise TableError(f"{path}: is not a text file; expected a CSV file with the {expected}")
    return data.decode("utf-8-sig", "surrogateescape")


def _as_on_disk(cell, base):
    """A cell in the encoding, with the accents and the slashes with which it names a path."""
    if cell.isascii() and "\\" not in cell:
        return cell
    readings = [cell]
    for encoding in _ENCODINGS if any("\udc80" <= letter <= "\udcff" for letter in cell) else ():
        with suppress(UnicodeDecodeError):
            readings.append(cell.encode(errors="surrogateescape").decode(encoding))
    guess = readings[min(1, len(readings) - 1)]
    with suppress(UnicodeDecodeError):  # their bytes, where Python's file names are not UTF-8
        readings += [os.fsdecode(r.encode(errors="surrogateescape")) for r in readings]
    readings += [unicodedata.normalize(form, r) for form in ("NFC", "NFD") for r in readings]
    readings += [reading.replace("\\", "/") for reading in readings]  # Windows'
    return next((r for r in readings if os.path.lexists(resolved(r, base))), guess)


def _is_header(cell, base):
    words = {word.removesuffix("s") for word in re.findall(r"[^\W_]+", cell.lower())}
    known = bool(words) and words <= _HEADER_WORDS
    return known and not is_image_name(cell) and not os.path.exists(resolved(cell, base))
