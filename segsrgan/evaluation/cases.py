# SPDX-License-Identifier: MIT
"""What is compared with what: cases, from a CSV file or from folders whose names match."""

import glob
import logging
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from segsrgan.errors import UserError, problems_error
from segsrgan.tables import IMAGE_SUFFIXES, image_files, read_table, resolved, stem

logger = logging.getLogger(__name__)

# Which file is of no use without which others.
_NEEDS = {
    "image": ("reference_image",),
    "reference_image": ("image",),
    "label": ("reference_label",),
    "reference_label": ("label",),
    "mask": ("image", "reference_image"),
    "baseline": ("image", "reference_image"),
}
KINDS = ("image", "label")
# What job_model.py puts before the names of its results.
_PREFIX = re.compile(r"^(SR|Cortex_mask|Cortex|Mask)_(?=.)")
_LISTED = 10
_COLUMNS = "columns image and reference_image, or label and reference_label, or all four"


@dataclass(frozen=True)
class Case:
    """The files of a case, as paths; text becomes a `Path`. Either pair, or both, must be given.

    Attributes:
        image: the predicted, super-resolved image.
        reference_image: what it should be.
        label: the predicted segmentation: labels or probabilities.
        reference_label: what it should be.
        mask: the region, such as the brain, in which images are compared: every voxel but 0.
        baseline: the image of low resolution, measured beside `image` after interpolation.
        name: of the case; the stem of its reference by default.
        problem: what is wrong with the line that names the case, None if it is right.
    """

    image: Path | None = None
    reference_image: Path | None = None
    label: Path | None = None
    reference_label: Path | None = None
    mask: Path | None = None
    baseline: Path | None = None
    name: str = ""
    problem: str | None = None

    def __post_init__(self):
        for role in _NEEDS:
            if (path := getattr(self, role)) is not None:
                object.__setattr__(self, role, Path(path))
        reference = self.reference_image or self.reference_label or self.image or self.label
        if not self.name and reference:
            object.__setattr__(self, "name", stem(reference))

    @property
    def files(self):
        """Role -> path, of the files that the case has."""
        return {role: path for role in _NEEDS if (path := getattr(self, role)) is not None}

    @property
    def kinds(self):
        """What can be compared: "label" and "image", where both files of the pair are given."""
        return tuple(
            kind for kind in ("label", "image") if {kind, f"reference_{kind}"} <= self.files.keys()
        )

    def check(self):
        """Raises `UserError` if nothing can be compared, or a file lacks its partner."""
        if self.problem:
            raise UserError(self.problem)
        for role, lacking in _lacking(self.files):
            raise UserError(
                f"{role} ({self.files[role]}) is given without {' and '.join(lacking)}; "
                f"give that too, or leave {role} out"
            )
        if not self.files:
            raise UserError(
                "names no file; expected image and reference_image, or label and reference_label"
            )


def _lacking(roles):
    """The roles whose partners are not among them, and which these are."""
    for role in roles:
        if lacking := [need for need in _NEEDS[role] if need not in roles]:
            yield role, lacking


def read_cases(path):
    """Reads the cases of a CSV file, see `segsrgan.tables` for its form.

    The first line names the columns: those of `Case`, and `case` for its name; others are
    ignored with a warning. A cell may be empty. Relative paths start from the CSV's folder.

    Returns:
        A list of `Case` with names that all differ. The files need not exist.

    Raises:
        UserError: if the file is missing or not a text file, columns are missing or have no
            partner, or there is no case. A line with too many cells is a case with a `problem`;
            all of them are an error.
    """
    table = read_table(path, _COLUMNS)
    roles = [role for role in _NEEDS if table.has(role)]
    received = f"received {', '.join(table.columns)}"
    for role, lacking in _lacking(roles):
        raise UserError(
            f"{table.path}: has a column {role} but no column {lacking[0]}; expected {_COLUMNS}, "
            f"{received}"
        )
    if not roles:
        raise UserError(
            f"{table.path}: expected the {_COLUMNS}, {received}; the first line names them"
        )
    table.warn_of_unknown(("case", *_NEEDS))
    cases = []
    for row in table.rows:
        cells = {} if row.problem else {role: row.get(role) for role in roles}
        files = {role: resolved(cell, table.path.parent) for role, cell in cells.items() if cell}
        name = row.get("case") or ("" if files else f"line {row.line}")
        cases.append((row.line, Case(**files, name=name, problem=row.problem)))
    if not cases:
        raise UserError(f"{table.path}: names columns but no case; add a line for each")
    if all(row.problem for row in table.rows):
        raise problems_error(table.path, [row.problem for row in table.rows])
    counts = Counter(case.name for _, case in cases)
    return [
        replace(case, name=f"{case.name} (line {line})") if counts[case.name] > 1 else case
        for line, case in cases
    ]


def match_cases(predictions, references, kind, *, masks=None, baselines=None, allow_missing=False):
    """Makes cases of the files of folders that have the same name.

    A place is either a folder, of which every image file counts (not those of its subfolders),
    its name without suffix and without `SR_`, `Cortex_mask_`, `Cortex_` or `Mask_` before it; or
    a pattern with one `*`, as `"out/*/SR.nii.gz"` or `"hr/*_T2w.nii.gz"`, where the name is what
    the `*` stands for.

    Args:
        predictions: the place of what is measured, a str.
        references: the place of what it should be, a str.
        kind: "image" or "label", what these are.
        masks: a place of regions in which images are compared, or None.
        baselines: a place of images of low resolution, or None.
        allow_missing: whether a name that one of the places does not have is left out, with a
            warning, instead of being an error.

    Returns:
        A list of `Case`, sorted by name.

    Raises:
        UserError: if a place does not exist, two of its files have one name, names are
            missing somewhere, or no name is everywhere.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be {' or '.join(KINDS)}, received {kind!r}")
    if kind == "label" and (masks or baselines):
        raise UserError("masks and baselines are for images; leave them out, or choose kind image")
    places = {kind: predictions, f"reference_{kind}": references}
    places |= {"mask": masks, "baseline": baselines}
    found = {role: _files_by_name(place) for role, place in places.items() if place}
    common = set.intersection(*(set(names) for names in found.values()))
    missing = [
        f"{role} ({places[role]}) lacks {_listed(lacking)}"
        for role, names in found.items()
        if (lacking := sorted(set().union(*found.values()) - names.keys()))
    ]
    if missing and (not allow_missing or not common):
        raise UserError(
            f"the names do not match: {'; '.join(missing)}; --allow_missing leaves these out, a "
            'pattern such as "folder/*_T2w.nii.gz" says by its * which part of a name counts'
        )
    for text in missing:
        logger.warning("left out: %s", text)
    return [
        Case(**{role: names[name] for role, names in found.items()}, name=name)
        for name in sorted(common)
    ]


def _files_by_name(place):
    """Name -> path, of the images of a folder or a pattern."""
    place = os.path.expanduser(place)
    if "*" in place:
        files = _pattern_files(place)
    elif os.path.isdir(place):
        files = [(_PREFIX.sub("", stem(path)), path) for path in image_files(place)]
    else:
        what = "a file" if os.path.exists(place) else "nothing of this name"
        raise UserError(
            f"{place}: expected a folder, or a pattern with one * in quotes, received {what}; "
            "single cases go into a CSV file, see --path"
        )
    if not files:
        raise UserError(f"{place}: has no image; expected one of {', '.join(IMAGE_SUFFIXES)}")
    names = {}
    for name, path in files:
        name = unicodedata.normalize("NFC", name)  # macOS writes an accent as a letter of its own
        if name in names:
            raise UserError(
                f"{names[name]} and {path}: expected one file for each case, both are named "
                f'{name!r}; choose by a pattern such as "{Path(path).parent}/SR_*.nii.gz"'
            )
        names[name] = path
    return names


def _pattern_files(pattern):
    if pattern.count("*") != 1:
        raise UserError(f"{pattern}: expected one * for the name of the case; use one")
    before, after = pattern.split("*")
    paths = sorted(glob.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
    return [(stem(path[len(before) : len(path) - len(after)]), path) for path in paths]


def _listed(names):
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
