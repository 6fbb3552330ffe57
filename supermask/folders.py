# SPDX-License-Identifier: MIT
"""Patients as folders of stacks."""

import logging

from segsrgan.errors import UserError
from supermask.patient import MOST_VIEWS, Patient

logger = logging.getLogger(__name__)

_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd")
_PROBED = 20  # files of a folder looked at for DICOM


def patients_of(folder):
    """The patient whose stacks lie in a folder, or those whose folders lie in it.

    Args:
        folder: a `Path`.

    Returns:
        A list of `Patient`.

    Raises:
        UserError: if there are none, or too many stacks, or a mask that belongs to no stack.
    """
    patient = _patient_of(folder)
    if patient is not None:
        return [patient]
    patients, without = [], []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name[0] != ".":
            patient = _patient_of(path)
            if patient is None:
                without.append(path.name)
            else:
                patients.append(patient)
    if not patients:
        raise UserError(
            f"{folder}: holds no stacks, nor do its folders; expected files such as "
            "axial.nii.gz, or DICOM folders"
        )
    if without:
        logger.warning("%s: no stacks in %s; left out", folder, ", ".join(without))
    return patients


def _patient_of(folder):
    """The patient whose stacks lie directly in a folder, None if none do."""
    entries = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    images = _by_stem(path for path in entries if _is_image(path, entries))
    truths = {stem: images.pop(stem) for stem in list(images) if stem.lower().startswith("truth")}
    masks = {stem: images.pop(stem) for stem in list(images) if stem.lower().endswith("mask")}
    stacks = _by_stem([*images.values(), *(path for path in entries if _holds_dicom(path))])
    if not stacks:
        return None
    if len(stacks) > MOST_VIEWS:
        raise UserError(
            f"{folder}: expected one to three stacks, received {len(stacks)} "
            f"({', '.join(sorted(stacks))}); choose among them in a CSV file"
        )
    given = {}
    for stem, path in masks.items():
        # The stack with the longest name that the mask's begins with.
        owner = max((name for name in stacks if stem.startswith(name)), key=len, default=None)
        if owner is None or owner in given:
            raise UserError(
                f"{path}: of which stack is this the one mask? Begin its name with that of one of "
                f"{', '.join(sorted(stacks))}, or use a CSV file"
            )
        given[owner] = path
    return Patient(
        folder.resolve().name,
        tuple(stacks.values()),
        tuple(given.get(stem) for stem in stacks),
        truth=truths.get("truth") or truths.get("truth_mask"),
    )


def _by_stem(paths):
    """Paths by their names without suffixes."""
    result = {}
    for path in paths:
        other = result.setdefault(_stem(path), path)
        if other is not path:
            raise UserError(
                f"{other} and {path}: which of them is the stack, or mask? Remove one, or choose "
                "in a CSV file"
            )
    return result


def _is_image(path, entries):
    name = path.name.lower()
    pair = name.endswith(".img") and path.with_suffix(".hdr") in entries
    return path.is_file() and name.endswith(_SUFFIXES) and not pair


def _holds_dicom(folder):
    if not folder.is_dir():
        return False
    from segsrgan.volumes.reading import is_dicom

    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    return any(is_dicom(path, old=False) for path in files[:_PROBED])


def _stem(path):
    name = path.name
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
