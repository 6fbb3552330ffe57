# SPDX-License-Identifier: MIT
"""Where the results of a patient lie, under which names, and what their record says of them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import RECORD, ResultsFolder, check_writable
from segsrgan.inference.verdict import LOOK, PASS

DOUBTFUL = "doubtful"  # a verdict: masks that were aligned hardly overlap
_PAGE = "report.html"
# Names that files of results may have.
_OURS = re.compile(r"(mask|probability|image|.+_mask)\.nii\.gz|.+_to_.+\.tfm|report\.(json|html)")


@dataclass(frozen=True)
class PatientResults:
    """The results of one patient, in a folder of their own, which need not exist."""

    folder: Path
    patient: str

    @property
    def record(self):
        """The `ResultsFolder`."""
        return ResultsFolder(self.folder, self.patient)

    @property
    def page(self):
        """The `Path` of the page, see `supermask.pages`; it need not exist."""
        return self.folder / _PAGE

    def entry(self):
        """What the record says of whole results, a dict, or None."""
        return self.record.entry()

    def file_name(self, kind):
        """The name of a file of the whole patient: kind is "mask", "probability" or "image"."""
        return f"{kind}.nii.gz"

    def mask_name(self, name, stack):
        """The name of the file of a view's mask; `name` is the view's, `stack` its path."""
        return f"{name}_mask.nii.gz"

    def transform_name(self, name, stack, reference):
        """The name of the file of a view's transform; `reference` is the other view's name."""
        return f"{name}_to_{reference}.tfm"

    def check(self, overwrite=False):
        """Raises `UserError` if results may not or cannot be written, see `check_folder`."""
        check_folder(self.record, overwrite)

    def replacing(self, entry):
        """`ResultsFolder.replacing`; the page of earlier results and what a killed run left go."""
        return self.record.replacing("", entry, [_PAGE, *leftovers(self.record, _OURS)])

    def describe(self, folder, prediction):
        """Writes what goes with the files of a prediction that a folder holds."""


def check_folder(results, overwrite=False):
    """Raises `UserError` if files may not or cannot go into the folder of a `ResultsFolder`.

    It may hold results of this package alone, whole ones only with `overwrite`.
    """
    folder = results.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name another output folder")
    if folder.is_dir() and not results.knows():
        others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        if others:
            raise UserError(
                f"{folder}: holds files of others, such as {others[0]}; name another output folder"
            )
    if results.entry() is not None and not overwrite:
        raise UserError(f"{folder}: is finished already; --overwrite replaces it")
    check_writable(folder)


def leftovers(results, names):
    """The files with these names, a pattern, that a killed run left in a `ResultsFolder`."""
    if not results.knows() or results.entry() is not None:
        return []
    return [path.name for path in results.folder.iterdir() if names.fullmatch(path.name)]


def found_results(output):
    """The `PatientResults` of the patients whose whole results lie in folders of a folder."""
    folders = sorted(path.parent for path in Path(output).glob(f"*/{RECORD}"))
    found = [PatientResults(folder, folder.name) for folder in folders]
    return [results for results in found if "agreement" in (results.entry() or {})]


def recorded_inputs(entry):
    """The stacks and the stamps of their files that an entry holds, None where it has none."""
    inputs = entry.get("inputs")
    if not isinstance(inputs, list):
        return entry.get("stacks"), inputs
    stamps = {}
    for stack in inputs:  # version 3.0.0's, in which a stack has the stamps of its files
        for name, found in zip(("stack", "mask"), stack["stamps"], strict=True):
            if stack[name]:
                stack[name] = os.path.normpath(stack[name])
                stamps[stack[name]] = found
    return inputs, stamps


def verdict_of(entry):
    """The verdict on results by their entry in the record, and its reasons, a list of str.

    It is `DOUBTFUL`, "look" where a stack was lost or there are warnings, else "pass".
    """
    reasons = [*(entry.get("lost") or ()), *(entry.get("warnings") or ())]
    return DOUBTFUL if entry.get("doubtful") else LOOK if reasons else PASS, reasons


def extremes_of(entry):
    """The least Dice of two aligned masks, the largest turn (degrees) and shift (mm) of a view.

    None of what is not known.
    """
    dices = [item["dice"] for item in entry["agreement"] if item["dice"] is not None]
    moved = entry["views"][1:]
    turns = [view["turned_degrees"] for view in moved]
    shifts = [sum(part**2 for part in view["translation_mm"]) ** 0.5 for view in moved]
    return min(dices, default=None), max(turns, default=None), max(shifts, default=None)
