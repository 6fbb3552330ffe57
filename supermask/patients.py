# SPDX-License-Identifier: MIT
"""Which files belong to which patient: a CSV with a row for each, or a folder for each."""

import itertools
import logging
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from segsrgan.errors import TableError, UserError, one_line, problems_error
from segsrgan.files import fitting_name, real_path
from segsrgan.tables import expanded, image_files, read_table, resolved, stem
from segsrgan.volumes.reading import is_dicom, scans_below
from supermask.settings import PLANES

logger = logging.getLogger(__name__)

MOST_VIEWS = 3
_EXPECTED = (
    "columns view_1, view_2, view_3 (or axial, coronal, sagittal), and perhaps mask_1, ... (or "
    "axial_mask, ...), patient, truth, base"
)
_PLANE = "(axial|coronal|sagittal)"
# What a column is, by its name in lower case; the group is the number or plane of a view.
_ROLES = {
    "patient": "(?:patient|case|subject|participant)(?:_(?:id|name))?|name|id",
    "truth": "truth",
    "base": "base",
    "view": rf"(?:view|stack|image)_?([1-9])|{_PLANE}(?:_(?:view|stack|image))?",
    "mask": rf"mask_?([1-9])|{_PLANE}_mask|mask_{_PLANE}",
    "series": rf"series_?([1-9])|{_PLANE}_series|series_{_PLANE}",
}
# Names of masks in a folder, which begin with that of the stack, or hold it.
_MASK_NAME = re.compile(
    r"(?:(?:mask|seg|labels?)[\W_]+(?P<stack>.+)|.*mask|(?:.*[\W_])?(?:d?seg|segmentation|labels?))",
    re.IGNORECASE,
)
_PROBED = 20  # files of a folder looked at for DICOM


@dataclass(frozen=True)
class Patient:
    """The paths of one patient's files, which need not exist.

    Raises `UserError` if views are not one to three or named twice, or masks or series not as many,
    unless there is a `problem`.
    """

    name: str  # can name a folder
    views: tuple[Path, ...]  # stacks, files or DICOM folders, in any order
    masks: tuple[Path | None, ...] = ()  # of each stack, None where there is none
    series: tuple[str | None, ...] = ()  # of DICOM, None where there is nothing to choose
    truth: Path | None = None  # a high-resolution mask in the pose of the reference
    base: str | None = None  # "Train" or "Test"
    problem: str | None = None  # why the row or folder names no patient; then the rest is empty

    def __post_init__(self):
        object.__setattr__(self, "name", safe_name(self.name))
        object.__setattr__(self, "views", tuple(Path(path) for path in self.views))
        if self.problem is not None:
            return
        if not 1 <= len(self.views) <= MOST_VIEWS:
            raise UserError(
                f"{self.name}: expected one to three stacks, received {len(self.views)}"
            )
        for name in ("masks", "series"):
            values = tuple(getattr(self, name)) or (None,) * len(self.views)
            if len(values) != len(self.views):
                raise UserError(
                    f"{self.name}: expected as many {name} as stacks, received {len(values)} and "
                    f"{len(self.views)}"
                )
            object.__setattr__(self, name, values)
        stacks = {}
        for view, series in zip(self.views, self.series, strict=True):
            key = real_path(view), series
            if key in stacks:
                names = " and ".join(map(str, dict.fromkeys((stacks[key], view))))
                raise UserError(
                    f"{self.name}: names one stack twice: {names}"
                    f"{f', series {series}' if series else ''}; name each stack once"
                )
            stacks[key] = view


def safe_name(name):
    """A name without what a folder's cannot have."""
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", str(name)).strip(" .")
    return fitting_name(name or "patient")


def unused_name(name, taken, number):
    """The name, or with the first number from `number` on that makes it new; it is taken now."""
    numbered = (fitting_name(name, f"_{k}") for k in itertools.count(number))

    def key(name):  # Some file systems do not tell a from A, or how an accent is written.
        return unicodedata.normalize("NFC", name).casefold()

    name = next(n for n in itertools.chain([name], numbered) if key(n) not in taken)
    taken.add(key(name))
    return name


def read_patients(path):
    """The patients that a CSV file or a folder names.

    CSV: a line for each patient, see `segsrgan.tables.read_table`; cells may be empty. `view_1`,
    `view_2`, `view_3` or `axial`, `coronal`, `sagittal` are the stacks (which plane a stack is,
    its header says); `mask_1` or `axial_mask` their masks; `series_1` or `axial_series` a DICOM
    series; `truth` the high-resolution mask; `patient` a name; `base` Train or Test.

    Folder: of one patient, or of folders of patients. A patient's folder holds the stacks, files
    or DICOM folders. A file whose name ends with "mask", "seg" or "label" is the mask of the stack
    whose name it begins with, as is `mask_axial.nii.gz`; one whose name begins with "truth" is not
    a stack, `truth.nii.gz` is the truth.
    DICOM of several series in one folder, or folders deeper, as on a CD: each series that is a
    scan is a stack, named by its plane, if they are one to three of different planes.

    Args:
        path: of the CSV file or folder.

    Returns:
        A list of `Patient` with names that all differ. The files need not exist. A row or folder
        in which something is wrong has the `problem`.

    Raises:
        TableError: if a CSV file cannot be read, or all its rows are wrong; one message with every
            problem.
        UserError: if a folder holds no patient, or it is not clear which file is which.
    """
    path = expanded(path)
    patients = _of_folder(path) if path.is_dir() else _of_table(path)
    taken, result, renamed = set(), [], []
    if patients and all(patient.problem for patient in patients):
        raise problems_error(path, [patient.problem for patient in patients])
    for patient in patients:
        result.append(replace(patient, name=unused_name(patient.name, taken, 2)))
        if result[-1].name != patient.name:
            renamed.append(f"{patient.name} ({result[-1].name})")
    if renamed:
        text = "%s: names patients more than once; the later ones are called as in brackets: %s"
        logger.warning(text, path, ", ".join(renamed))
    return result


def _of_table(path):
    table = read_table(path, _EXPECTED)
    if not table.rows:
        raise TableError(f"{path}: names no patient; expected a line for each, with {_EXPECTED}")
    roles = _roles(table)
    patients = []
    for row in table.rows:
        cells = {roles[name]: cell for name, cell in row.cells.items() if name in roles}
        try:
            if row.problem is not None:
                raise UserError(row.problem)
            patients.append(_of_row(cells, table.path.parent, f"line {row.line}"))
        except UserError as error:
            name = cells.get(("patient", None)) or f"line {row.line}"
            patients.append(Patient(name, (), problem=str(error)))
    return patients


def _roles(table):
    """`(role, number or plane)` of each known column by its name in lower case."""
    found = {name: _role(name) for name in table.columns}
    known = {name: role for name, role in found.items() if role}
    unknown = [name for name in found if name and name not in known]
    if unknown:
        logger.warning("%s: unknown columns, ignored: %s", table.path, ", ".join(unknown))
    if not any(role == "view" for role, _ in known.values()):
        raise TableError(f"{table.path}: has no column of stacks; expected {_EXPECTED}")
    for role, count in Counter(known.values()).items():
        if count > 1:
            doubled = ", ".join(name for name in known if known[name] == role)
            raise TableError(f"{table.path}: {doubled} mean the same; keep one of them")
    return {name.lower(): role for name, role in known.items()}


def _role(column):
    name = re.sub(r"[\s-]+", "_", column.strip().lower())
    for role, pattern in _ROLES.items():
        if found := re.fullmatch(pattern, name):
            return role, next(filter(None, found.groups()), None)
    return None


def _of_row(cells, base, line):
    def path(*role):
        return resolved(cells[role], base) if role in cells else None

    keys = [key for role, key in cells if role == "view"]
    for role, key in cells:
        if role in ("mask", "series") and key not in keys:
            raise UserError(f"{line}: has a {role} {key}, but no stack {key}")
    part = cells.get(("base", None))
    if part not in (None, "Train", "Test"):
        raise UserError(f"{line}: base must be Train or Test, received {part}")
    patient = Patient(
        line,
        tuple(path("view", key) for key in keys),
        tuple(path("mask", key) for key in keys),
        tuple(cells.get(("series", key)) for key in keys),
        path("truth", None),
        part,
    )
    # Checked under the name of its line, so that messages say where to look.
    return replace(patient, name=cells.get(("patient", None)) or patient.views[0].parent.name)


def _of_folder(folder):
    """The patient whose stacks lie in a folder, or those whose folders lie in it."""
    patient = _patient_of(folder)
    if patient is not None:
        return [patient]
    below = _folders_of(folder)
    found = {path.name: _checked_patient_of(path) for path in below}
    directly = any(found.values())
    patients_in = {
        path.name: [found[path.name]] if found[path.name] else _patients_on_disc(path)
        for path in below
    }
    patients = list(itertools.chain(*patients_in.values()))
    if len(patients) == 1 and not directly:  # under the name that was given
        return [replace(patients[0], name=_name_of(folder))]
    if not patients:
        raise UserError(
            f"{folder}: holds no stacks, nor do its folders; expected files such as "
            "axial.nii.gz, or DICOM"
        )
    without = [name for name, held in patients_in.items() if not held]
    if without:
        logger.warning("%s: no stacks in %s; left out", folder, ", ".join(without))
    return patients


def _checked_patient_of(folder):
    try:
        return _patient_of(folder)
    except (UserError, OSError) as error:
        return Patient(folder.name, (), problem=one_line(error))


def _patient_of(folder):
    """The patient whose stacks lie directly in a folder, None if none do."""
    images = _by_stem(path for path in image_files(folder) if path.suffix.lower() != ".dcm")
    truths = {name: images.pop(name) for name in list(images) if name.lower().startswith("truth")}
    masks = {name: images.pop(name) for name in list(images) if _MASK_NAME.fullmatch(name)}
    series = [path for path in _folders_of(folder) if _holds_dicom(path)]
    scans = {path: scans_below(path) for path in series}
    mixed = [path for path in series if len(set(map(_plane, scans[path]))) > 1]
    if images and mixed:
        raise UserError(
            f"{mixed[0]}: holds several stacks beside {', '.join(images)}; choose among them in a "
            "CSV file"
        )
    if len(mixed) == len(series) > 1:
        return None  # each is a patient's
    stacks = {name: (path, None) for name, path in _by_stem([*images.values(), *series]).items()}
    if not images and (series or _holds_dicom(folder)):
        every = scans_below(folder)  # also deeper, and without localizers
        # What cannot be read stays a stack, so that reading it says why.
        if mixed or all(scans.values()) and {*map(_place, every)} != {*series}:
            stacks = _series_by_plane(folder, every)
    if not stacks:
        return None
    if len(stacks) > MOST_VIEWS:
        raise UserError(
            f"{folder}: expected one to three stacks, received {len(stacks)} "
            f"({', '.join(sorted(stacks))}); choose among them in a CSV file"
        )
    masked = {}
    for name, path in masks.items():
        # The stack with the longest name that the mask's begins with.
        start = _MASK_NAME.fullmatch(name)["stack"] or name
        stack = max((other for other in stacks if start.startswith(other)), key=len, default=None)
        if stack is None or stack in masked:
            raise UserError(
                f"{path}: of which stack is this the only mask? Begin its name with that of one of "
                f"{', '.join(sorted(stacks))}, or use a CSV file"
            )
        masked[stack] = path
    return Patient(
        _name_of(folder),
        tuple(path for path, _ in stacks.values()),
        tuple(masked.get(name) for name in stacks),
        tuple(series for _, series in stacks.values()),
        truth=truths.get("truth") or truths.get("truth_mask"),
    )


def _folders_of(folder):
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]


def _name_of(folder):
    return Path(os.path.abspath(folder)).name  # not of what a link leads to


def _patients_on_disc(folder):
    """The patients whose DICOM lies anywhere below a folder, by their IDs."""
    patients = []
    scans = scans_below(folder)
    for patient in dict.fromkeys(scan.patient for scan in scans):
        series = [scan for scan in scans if scan.patient == patient]
        name = folder.name if len(series) == len(scans) else patient or folder.name
        try:
            places = _series_by_plane(folder, series).values()
            paths, uids = zip(*places, strict=True)
            patients.append(Patient(name, paths, series=uids))
        except UserError as error:
            patients.append(Patient(name, (), problem=str(error)))
    return patients


def _series_by_plane(folder, scans):
    """`{plane: (folder, UID)}` of the DICOM series in a folder, one of each plane."""
    planes = {_plane(scan): (_place(scan), scan.uid) for scan in scans}
    if len(planes) == len(scans):
        return planes
    listed = "; ".join(
        f"{_place(scan)}: series {scan.number or scan.uid} "
        f"'{scan.description or 'no description'}' ({_plane(scan)}, {len(scan.slices)} slices)"
        for scan in scans
    )
    raise UserError(
        f"{folder}: holds {len(scans)} series of DICOM; choose one to three in a CSV file with the "
        f"columns view_1, series_1, view_2, series_2 (folder, number or description): {listed}"
    )


def _place(scan):
    """The folder in, or below, which the files of a series lie."""
    return Path(os.path.commonpath([image.path.parent for image in scan.slices]))


def _plane(scan):
    return PLANES[int(abs(scan.slices[0].direction[:, 2]).argmax())]


def _by_stem(paths):
    """Paths by their names without suffixes."""
    result = {}
    for path in paths:
        other = result.setdefault(stem(path), path)
        if other is not path:
            raise UserError(
                f"{other} and {path}: which of them is the stack, or mask? Remove one, or choose "
                "in a CSV file"
            )
    return result


def _holds_dicom(folder):
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    return any(is_dicom(path, old=False) for path in files[:_PROBED])
