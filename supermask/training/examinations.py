# SPDX-License-Identifier: MIT
"""The examinations that a training learns from: read from files, or made of masks."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.errors import TableError, UserError, one_line, problems_error
from segsrgan.tables import image_files, read_table, resolved, stem
from segsrgan.volumes import read_volume
from segsrgan.volumes.comparison import match
from supermask.geometry import Rigid, read_transform
from supermask.patients import read_patients
from supermask.simulation import Simulation, simulate
from supermask.training.painting import paint
from supermask.views import View, check_together, load_views, read_mask

logger = logging.getLogger(__name__)

_COLUMNS = ("mask", "image", "base")
_BASES = ("Train", "Test")


@dataclass(frozen=True, eq=False)
class Examination:
    """What a training knows of a patient; a simulated `Case` will do as well.

    Attributes:
        views: a `View` with its mask for each stack.
        transforms: for each view the true `Rigid` from the reference to it; None: not known.
        name: of the patient, for messages.
    """

    views: tuple[View, ...]
    transforms: tuple[Rigid, ...] | None = None
    name: str = "a patient"


def gather(settings):
    """The examinations that a `TrainingSettings` names, `(train, test)`, lists of `Examination`.

    Raises `UserError` if there are problems with them, all of them in one message.
    """
    found = []
    for path, read in ((settings.csv, _of_patients), (settings.synthetic_cases, _of_masks)):
        if path is not None:
            found += _without_problems(Path(path), read, settings)
    test = [examination for base, examination in found if base == "Test"]
    train = [examination for base, examination in found if base != "Test"]
    if not train:
        raise UserError("no patient to train on: all of them are Test")
    return train, test


def _without_problems(path, read, *arguments):
    """What a reader finds, as long as it adds no problem to its last argument, a list."""
    problems = []
    found = read(path, *arguments, problems)
    if problems:
        raise problems_error(path, problems)
    return found


def _of_patients(path, settings, problems):
    found = []
    for patient in read_patients(path):
        if patient.problem is not None:
            problems.append(patient.problem)
            continue
        views, lost = load_views(patient, settings.labels)
        problems += [f"{patient.name}: {text}" for text in lost]
        for view in views:
            if not view.has_object:
                what = "has no mask" if view.mask is None else "its mask is empty"
                problems.append(f"{patient.name}: {view.path}: {what}")
        if lost:
            continue
        try:
            transforms = true_transforms([view.path for view in views])
            if transforms is None:
                for text in check_together(views):
                    logger.warning("%s: %s", patient.name, text)
            found.append((patient.base, Examination(tuple(views), transforms, patient.name)))
        except UserError as error:
            problems.append(f"{patient.name}: {error}")
    return found


def true_transforms(paths):
    """The true transforms that `supermask-simulate` wrote beside stacks, a tuple of `Rigid`.

    They lead from one of the stacks, the reference, to each; None if not all are there. Raises
    `UserError` if one cannot be read.
    """
    folders = {stem(path): Path(path).parent for path in paths}
    for reference in folders:
        files = {name: f / f"true_{name}_to_{reference}.tfm" for name, f in folders.items()}
        del files[reference]
        if all(file.is_file() for file in files.values()):
            found = {name: read_transform(file) for name, file in files.items()}
            return tuple(found.get(stem(path), Rigid()) for path in paths)
    return None


def _of_masks(path, settings, problems):
    rows = _rows(path)
    if not any(base for *_, base in rows):
        first_test = len(rows) - round(settings.test_share * len(rows))
        rows = [(*row[:2], _BASES[index >= first_test]) for index, row in enumerate(rows)]
    simulation = Simulation(
        (settings.slices,),
        spacing=settings.spacing,
        angle=settings.rotation,
        shift=settings.largest_motion,
    )
    found = []
    for index, (mask_path, image_path, base) in enumerate(rows):
        try:
            mask, image = read_mask(mask_path, settings.labels), None
            if image_path is not None:
                image = read_volume(image_path)
                mask, _ = match(mask, image.grid, mask_path, image_path)
                view = View(image, mask, path=str(image_path))  # checks that they belong together
                for text in check_together([view]):
                    logger.warning("%s", text)
            for number in range(settings.repeats):
                rng = np.random.default_rng([settings.seed, index, number])
                shown = paint(mask, rng, settings.spacing) if image is None else image
                case = simulate(shown, mask, rng, simulation)
                name = f"{stem(mask_path)}_{number + 1}"
                found.append((base, Examination(case.views, case.transforms, name)))
        except (ValueError, OSError) as error:
            text = one_line(error)
            problems.append(text if str(mask_path) in text else f"{mask_path}: {text}")
    return found


def _rows(path):
    """Mask, image or None, and base or None of each synthetic case."""
    if path.is_dir():
        rows = [(mask, None, None) for mask in image_files(path)]
    else:
        rows = _without_problems(path, _rows_of_csv)
    if not rows:
        raise UserError(f"{path}: names no mask; expected a folder of masks, or a CSV")
    return rows


def _rows_of_csv(path, problems):
    table = read_table(path, "column mask, and perhaps image and base")
    unknown = {name for name in table.columns if name.lower() not in _COLUMNS} - {""}
    if not table.has("mask") or unknown:
        raise TableError(
            f"{path}: expected the columns mask, and perhaps image and base, received "
            f"{', '.join(table.columns)}"
        )
    rows, folder = [], table.path.parent
    for row in table.rows:
        mask, image, base = (row.get(name) for name in _COLUMNS)
        if row.problem or not mask:
            problems.append(row.problem or f"line {row.line}: has no mask")
        elif base not in ("", *_BASES):
            problems.append(f"line {row.line}: base must be Train or Test, received {base}")
        else:
            image = resolved(image, folder) if image else None
            rows.append((resolved(mask, folder), image, base or None))
    return rows
