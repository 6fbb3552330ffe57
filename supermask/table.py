# SPDX-License-Identifier: MIT
"""The patients of a job: a CSV with a row for each, or a folder for each."""

import codecs
import csv
import logging
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from segsrgan.errors import UserError
from supermask.folders import patients_of
from supermask.patient import Patient, with_unique_names

logger = logging.getLogger(__name__)

_HELP = (
    "columns view_1, view_2, view_3 (or axial, coronal, sagittal), and perhaps mask_1, ... (or "
    "axial_mask, ...), patient, truth, base"
)
_NAMES = ("patient", "case", "subject", "name", "id")
_PLANE = "(axial|coronal|sagittal)"
# What a column is, by its name in lower case; the group is the number or plane of a view.
_ROLES = {
    "view": rf"(?:view|stack|image)_?([1-3])|{_PLANE}(?:_(?:view|stack|image))?",
    "mask": rf"mask_?([1-3])|{_PLANE}_mask|mask_{_PLANE}",
    "series": rf"series_?([1-3])|{_PLANE}_series|series_{_PLANE}",
}


def read_patients(path):
    """The patients that a CSV file or a folder names.

    CSV: the first line names the columns; comma, semicolon or tab separate, cells may be empty,
    relative paths start from the CSV's folder. `view_1`, `view_2`, `view_3` or `axial`,
    `coronal`, `sagittal` are the stacks (which plane a stack is, its header says); `mask_1` or
    `axial_mask` their masks; `series_1` or `axial_series` a DICOM series; `truth` the
    high-resolution mask; `patient` a name; `base` Train or Test.

    Folder: of one patient, or of folders of patients. A patient's folder holds the stacks, files
    or DICOM folders. A file whose name ends with "mask" is the mask of the stack whose name it
    begins with; one whose name begins with "truth" is no stack, `truth.nii.gz` is the truth.

    Args:
        path: of the CSV file or folder.

    Returns:
        A list of `Patient` with names that all differ. The files need not exist.

    Raises:
        UserError: if it cannot be read; one message with every problem found.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        return with_unique_names(patients_of(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; expected a CSV file or a folder")
    return with_unique_names(_of_csv(path))


def _of_csv(path):
    lines = _text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    rows = [
        (number, [cell.strip() for cell in cells])
        for number, line in enumerate(lines, start=1)
        for cells in csv.reader([line], delimiter=max(",;\t", key=first.count))
        if any(cell.strip() for cell in cells)
    ]
    if len(rows) < 2:
        raise UserError(f"{path}: names no patient; expected {_HELP}, and a line for each")
    columns = _columns(rows[0][1], path)
    patients, problems = [], []
    for number, cells in rows[1:]:
        try:
            patients.append(_row(cells, columns, path.parent, f"line {number}"))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"{path}: {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    return patients


def _columns(names, path):
    """What each column is: (role, number or plane) or None."""
    columns = [_role(name) for name in names]
    unknown = [name for name, column in zip(names, columns, strict=True) if name and not column]
    if unknown:
        logger.warning("%s: columns not known and ignored: %s", path, ", ".join(unknown))
    if not any(column and column[0] == "view" for column in columns):
        raise UserError(f"{path}: no column of stacks; expected {_HELP}")
    for column, count in Counter(columns).items():
        if column and count > 1:
            named = [name for name, own in zip(names, columns, strict=True) if own == column]
            raise UserError(f"{path}: {', '.join(named)} mean the same; leave one of them")
    return columns


def _role(name):
    name = re.sub(r"[\s-]+", "_", name.strip().lower())
    if name in _NAMES:
        return "patient", None
    if name in ("truth", "base"):
        return name, None
    for role, pattern in _ROLES.items():
        found = re.fullmatch(pattern, name)
        if found:
            return role, next(group for group in found.groups() if group)
    return None


def _row(cells, columns, base, where):
    if len(cells) > len(columns):
        raise UserError(f"{where}: has {len(cells)} cells, the first line {len(columns)}")
    found = {role: cell for role, cell in zip(columns, cells, strict=False) if role and cell}

    def place(*role):
        return base / os.path.expanduser(found[role]) if role in found else None

    keys = [key for role, key in found if role == "view"]
    for role, key in found:
        if role in ("mask", "series") and key not in keys:
            raise UserError(f"{where}: has a {role} {key}, but no stack {key}")
    part = found.get(("base", None))
    if part not in (None, "Train", "Test"):
        raise UserError(f"{where}: base must be Train or Test, received {part}")
    name = found.get(("patient", None))
    patient = Patient(
        where,
        tuple(place("view", key) for key in keys),
        tuple(place("mask", key) for key in keys),
        tuple(found.get(("series", key)) for key in keys),
        place("truth", None),
        part,
    )
    # Checked under the name of its line, so that messages say where to look.
    return replace(patient, name=name or patient.views[0].parent.name)


def _text(path):
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise UserError(f"{path}: is no text; expected a CSV file with {_HELP}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
