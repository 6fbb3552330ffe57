# SPDX-License-Identifier: MIT
"""The CSV of a training: one row per image, checked as a whole before anything starts."""

import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from segsrgan.errors import TableError
from segsrgan.training.case import Case

logger = logging.getLogger(__name__)

COLUMNS = ("HR_image", "Label_image", "Base")
MASK_COLUMN = "Mask_image"
BASES = ("Train", "Test")
_THREADS = 2  # each holds the volumes of one case


class Table(NamedTuple):
    """A training CSV.

    Attributes:
        train, test: lists of `Case`, neither empty but `train` where that is allowed.
        classes: number of classes of the masks with `fit_mask`, else 0.
    """

    train: list
    test: list
    classes: int = 0


def read_table(path, base_path=None, fit_mask=False, crop_to_mask=False, test_alone=False):
    """Reads a training CSV and checks all of it, files included.

    Args:
        path: of the CSV with the columns HR_image, Label_image and Base (Train or Test).
        base_path: folder that relative paths start from; the CSV's own by default.
        fit_mask: whether the masks' classes are learnt: whole numbers 0, 1, ... up to the same
            number in all images.
        crop_to_mask: whether patches are taken where the masks are, see `overlapping_starts`.
            Either needs the column Mask_image; without them it is not looked at.
        test_alone: whether there may be test images alone.

    Returns:
        A `Table`.

    Raises:
        TableError: one message with every problem found: columns, parts, files, grids, values.
    """
    path = Path(path)
    reasons = ["--fit_mask"] * fit_mask
    if crop_to_mask:
        reasons.append("--image_cropping_method overlapping_with_mask")
    names = COLUMNS + ((MASK_COLUMN,) if reasons else ())
    rows = read_rows(path, names, reasons={MASK_COLUMN: " and ".join(reasons)})
    cases, problems = _cases(rows, Path(base_path) if base_path else path.parent, bool(reasons))
    unclear = bool(problems)
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(Case.check, cases))
    problems += [problem for *_, found in checked for problem in found]
    cases = [replace(case, known=extent) for case, (extent, *_) in zip(cases, checked, strict=True)]
    groups = [[case for case in cases if case.base == base] for base in BASES]
    problems += _problems_of_parts(groups, BASES[1:] if test_alone else BASES, unclear)
    classes = 0
    if fit_mask:
        values = {case.mask: values for case, (_, values, _) in zip(cases, checked, strict=True)}
        classes, more = _count_classes({k: v for k, v in values.items() if v is not None})
        problems += more
    if problems:
        raise TableError(f"{path}: {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    return Table(*groups, classes)


def read_rows(path, names, optional=(), reasons=None):
    """The rows of a CSV as text.

    Args:
        path: of the CSV, a `Path`.
        names: the columns that it must have.
        optional: those that it may have; if there are any, further ones are pointed out.
        reasons: `{column: why it must be there}`, for the message.

    Returns:
        list of `{column: text}`, "" where there is nothing.

    Raises:
        TableError: if it is unreadable, or a column is missing.
    """
    import pandas as pd

    expected = ", ".join(names)
    if not path.is_file():
        raise TableError(f"{path}: no such CSV; expected columns {expected}")
    try:
        table = pd.read_csv(path, dtype=str, skip_blank_lines=True, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise TableError(
            f"{path}: not a readable CSV ({error}); separate columns by commas, save it as UTF-8"
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in names if name not in table.columns]
    if missing:
        because = [(k, v) for k, v in (reasons or {}).items() if k in missing]
        reason = "".join(f" ({name} because of {why})" for name, why in because)
        raise TableError(
            f"{path}: no column {', '.join(missing)}; expected {expected}{reason}, "
            f"received {', '.join(table.columns)}; separate them by commas"
        )
    if optional:
        unused = [name for name in table.columns if name not in (*names, *optional)]
        if unused:
            logger.warning("%s: columns that are not used: %s", path, ", ".join(unused))
    rows = table.loc[:, ~table.columns.duplicated()].fillna("").to_dict("records")
    return [{name: row.get(name, "").strip() for name in (*names, *optional)} for row in rows]


def _cases(rows, base_path, masks):
    cases, problems = [], []
    for number, values in enumerate(rows, start=2):
        empty = [name for name, value in values.items() if not value]
        if empty:
            problems.append(f"line {number}: {', '.join(empty)} is empty")
        elif values["Base"] not in BASES:
            problems.append(f"line {number}: Base must be Train or Test, received {values['Base']}")
        else:
            paths = (base_path / values["HR_image"], base_path / values["Label_image"])
            mask = base_path / values[MASK_COLUMN] if masks else None
            cases.append(Case(*paths, values["Base"], mask))
    return cases, problems


def _problems_of_parts(groups, needed, unclear):
    """What is wrong with the division into Train and Test; `unclear`: rows are left out."""
    problems = [
        f"no row has {base} in the column Base; one at least is needed"
        for base, group in zip(BASES, groups, strict=True)
        if base in needed and not group and not unclear
    ]
    train, test = ({case.image.resolve() for case in group} for group in groups)
    problems += [
        f"{image}: is in both Train and Test; leave it out of one, or the scores mean nothing"
        for image in sorted(train & test)
    ]
    return problems


def _count_classes(values):
    """The number of classes of masks, `{path: set of values}`, and what is wrong with them."""
    if not values:
        return 0, []
    usual = Counter(max(found) for found in values.values()).most_common(1)[0][0]
    problems = [
        f"{path}: the mask's classes go up to {max(found)}, those of most others to {usual}; "
        "every mask must have the same classes"
        for path, found in values.items()
        if max(found) != usual
    ]
    absent = sorted(set(range(usual + 1)) - set().union(*values.values()))
    if absent:
        numbers = ", ".join(map(str, absent[:8])) + (" ..." if len(absent) > 8 else "")
        problems.append(
            f"no mask has a voxel of the class {numbers} although classes go up to {usual}; "
            f"number them 0 to {usual - len(absent)}"
        )
    return usual + 1, problems
