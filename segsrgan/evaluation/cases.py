# SPDX-License-Identifier: MIT
"""The CSV of an evaluation: a row for each case."""

import codecs
import csv
import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.evaluation.case import NEEDS, Case

logger = logging.getLogger(__name__)

_HELP = "columns image and reference_image, or label and reference_label, or all four"


def read_cases(path):
    """Reads the cases of a CSV file.

    The first line names the columns: those of `Case`, and `case` for its name; others are
    ignored with a warning. Comma, semicolon or tab separate; blank lines and a byte order mark
    are ignored; a cell may be empty. Relative paths start from the CSV's folder.

    Args:
        path: the CSV file.

    Returns:
        A list of `Case` with names that all differ. The files need not exist.

    Raises:
        UserError: if the file is missing or no text, columns are missing or have no
            partner, a line has too many cells, or there is no case.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; expected a CSV file with the {_HELP}")
    lines = _text(path).splitlines()
    separator = _separator(lines)
    numbered = [
        (number, [cell.strip() for cell in cells])
        for number, line in enumerate(lines, start=1)
        for cells in csv.reader([line], delimiter=separator, skipinitialspace=True)
        if any(cell.strip() for cell in cells)
    ]
    if not numbered:
        raise UserError(f"{path}: is empty; expected the {_HELP}")
    columns = _columns(numbered[0][1], path)
    cases = []
    for number, cells in numbered[1:]:
        if len(cells) > len(columns):
            raise UserError(
                f"{path}: line {number} has {len(cells)} cells, the first line names "
                f"{len(columns)} columns; put a path that holds a {separator!r} in quotes"
            )
        cases.append((number, _case(dict(zip(columns, cells, strict=False)), path, number)))
    if not cases:
        raise UserError(f"{path}: names columns but no case; add a line for each")
    return _with_unique_names(cases)


def _text(path):
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise UserError(f"{path}: is no text; expected a CSV file with the {_HELP}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _separator(lines):
    first = next((line for line in lines if line.strip()), "")
    return max(",;\t", key=first.count)


def _columns(cells, path):
    """The names of the columns, None for those that are ignored."""
    names = [cell.lower() for cell in cells]
    known = [name for name in names if name in {*NEEDS, "case"}]
    doubled = [name for name, count in Counter(known).items() if count > 1]
    if doubled:
        raise UserError(f"{path}: has more than one column {', '.join(doubled)}; keep one")
    missing = {
        need: name for name in known if name != "case" for need in NEEDS[name] if need not in known
    }
    if missing:
        need, name = next(iter(missing.items()))
        raise UserError(
            f"{path}: has a column {name} but no column {need}; expected {_HELP}, "
            f"received {', '.join(cells)}"
        )
    if not set(known) & NEEDS.keys():
        raise UserError(
            f"{path}: expected the {_HELP}, received {', '.join(cells)}; the first line names them"
        )
    ignored = [cell for cell, name in zip(cells, names, strict=True) if name not in known]
    if any(ignored):
        logger.warning(
            "%s: ignored columns: %s; known are case, %s",
            path,
            ", ".join(ignored),
            ", ".join(NEEDS),
        )
    return [name if name in known else None for name in names]


def _case(cells, path, number):
    base = path.absolute().parent
    files = {
        name: Path(os.path.normpath(base / os.path.expanduser(cell)))
        for name, cell in cells.items()
        if name in NEEDS and cell
    }
    return Case(**files, name=cells.get("case", "") or ("" if files else f"line {number}"))


def _with_unique_names(cases):
    """The cases, the line's number in each name that occurs more than once."""
    counts = Counter(case.name for _, case in cases)
    return [
        replace(case, name=f"{case.name} (line {number})") if counts[case.name] > 1 else case
        for number, case in cases
    ]
