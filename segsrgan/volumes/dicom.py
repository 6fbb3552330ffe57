# SPDX-License-Identifier: MIT
"""DICOM: which images a file or folder holds, and which of them to take."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segsrgan.errors import VolumeError
from segsrgan.volumes.dicom_stack import Slice, assemble, count_positions, separate_repeats
from segsrgan.volumes.dicom_tags import (
    FRAME_LABELS,
    ORIENTATION,
    PIXEL_SPACING,
    POSITION,
    RESCALE,
    ROWS,
    SERIES,
    read_tags,
)
from segsrgan.volumes.itk import quiet, read_itk

_logger = logging.getLogger(__name__)

_SERIES_UID, _NUMBER, _DESCRIPTION = "0020|000e", "0020|0011", "0008|103e"
_PATIENT_ID = "0010|0020"
_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3


@dataclass
class Stack:
    """Slices of one series with one orientation, size and in-plane spacing."""

    uid: str
    number: str
    description: str
    patient: str = ""
    slices: list[Slice] = field(default_factory=list)

    @property
    def positions(self):
        """How many different positions the slices have."""
        return count_positions(self.slices)

    def __str__(self):
        name = self.description or "no description"
        return (
            f"series {self.uid} ('{name}', number {self.number or '?'}, {len(self.slices)} slices)"
        )


def is_dicom(path, old=True):
    """Say whether a file begins as DICOM does, its name notwithstanding.

    Args:
        path: of the file.
        old: accept files without the preamble, too, which other formats may resemble.
    """
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return True
    # Without a preamble a file begins with a low element of group 2 or 8: (0008,0016), say.
    return old and head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"


def read_dicom_file(path):
    """Read one DICOM file: a multi-frame image, or one slice as a volume one voxel thick.

    The spacing across a lone slice is its SpacingBetweenSlices, else its SliceThickness.

    Raises:
        VolumeError: if it is no scalar image, or its geometry is incomplete.
    """
    scanned = _scan(path)
    if not isinstance(scanned, Stack):
        return read_itk(path)  # raises, and says why
    if len(scanned.slices) == 1 and scanned.slices[0].frame is None:
        _logger.warning("%s: one slice; give its folder to read the whole series", path)
    return _read_stack(scanned, str(path))


def read_dicom_folder(path, series=None):
    """Read one series of a folder, subfolders included; file names do not matter.

    Args:
        path: the folder.
        series: SeriesInstanceUID, a part of it or of the description, or the series' number.
            None: the series with most slices in different positions.

    Raises:
        VolumeError: if there is no such series or it makes no volume.
    """
    stacks, damaged, refused = _scan_folder(path)
    if refused and not stacks:
        raise refused[0]
    for error in refused:
        _logger.warning("left out: %s", error)
    if not stacks:
        why = f"; {damaged[0][1]} is damaged" if damaged else ""
        raise VolumeError(
            f"{path}: expected a folder with DICOM images, received none{why}; check the path"
        )
    chosen = _choose(stacks, series, path)
    lost = [file for uid, file in damaged if uid == chosen.uid]
    if lost:
        raise VolumeError(
            f"{lost[0]}: damaged or truncated, like {len(lost) - 1} other files of its series; "
            "copy the series again"
        )
    others = [str(stack) for stack in stacks if stack is not chosen]
    _logger.info("%s: taking %s; also there: %s", path, chosen, ", ".join(others) or "nothing")
    if any(stack.uid == chosen.uid for stack in stacks if stack is not chosen):
        _logger.warning("%s: slices of other orientation or size are left out of %s", path, chosen)
    return _read_stack(chosen, f"{path}: {chosen}")


def read_patient_id(path, series=None):
    """The PatientID of a DICOM file, or of the series that `read_dicom_folder` takes of a folder.

    Args:
        path: of a file or folder that `read_volume` can read.
        series: as there.

    Returns:
        str, "" where nothing is said, or where it is not DICOM.
    """
    path = Path(path)
    if path.is_dir():
        return _choose(_scan_folder(path)[0], series, path).patient
    scanned = _scan(path) if is_dicom(path, old=False) else None
    return scanned.patient if isinstance(scanned, Stack) else ""


def _read_stack(stack, name):
    return assemble(separate_repeats(stack.slices, name), name)


def _choose(stacks, series, folder):
    """The named stack; of several, the one with most positions, earlier in the folder first."""
    if series is None:
        return max(stacks, key=lambda stack: stack.positions)
    wanted = str(series).strip()
    for matches in (
        lambda stack: wanted == stack.uid,
        lambda stack: wanted == stack.number,
        lambda stack: wanted.lower() == stack.description.lower(),
        lambda stack: wanted in stack.uid or wanted.lower() in stack.description.lower(),
    ):
        found = [stack for stack in stacks if wanted and matches(stack)]
        if len({stack.uid for stack in found}) == 1:
            return max(found, key=lambda stack: stack.positions)
        if found:
            break
    else:
        found = stacks
    raise VolumeError(
        f"{folder}: expected the name of one series, received {wanted!r}; give the UID of one of: "
        + ", ".join(str(stack) for stack in found)
    )


def _scan_folder(path):
    """Stacks of all images below a folder, (series UID, path) of damaged ones, errors of others."""
    stacks, damaged, refused = [], [], []
    for parent, folders, names in os.walk(path):
        folders.sort()
        for file in (Path(parent, name) for name in sorted(names)):
            if not file.is_file() or not is_dicom(file):
                continue
            try:
                scanned = _scan(file)
            except VolumeError as error:
                refused.append(error)
                continue
            if isinstance(scanned, Stack):
                _merge(stacks, scanned)
            elif scanned is not None:
                damaged.append((scanned, file))
    return stacks, damaged, refused


def _merge(stacks, new):
    """Add the slices of `new` to the stack of its series and geometry, or as another stack."""
    first = new.slices[0]
    for stack in stacks:
        if stack.uid == new.uid and stack.slices[0].is_parallel(
            first, _SAME_DIRECTION, _SAME_SPACING
        ):
            stack.slices.extend(new.slices)
            return
    stacks.append(new)


def _scan(path):
    """The stack of a file's slices; its series UID if it is a damaged image; None if no image."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError:
        tags = read_tags(path)
        return tags.get(SERIES, [""])[0] if ROWS in tags else None
    if reader.GetNumberOfComponents() != 1 or reader.GetDimension() != 3:
        return None

    def tag(key):
        return reader.GetMetaData(key).strip("\0 ") if reader.HasMetaDataKey(key) else ""

    stack = Stack(tag(_SERIES_UID), tag(_NUMBER), tag(_DESCRIPTION), tag(_PATIENT_ID))
    frames = reader.GetSize()[2]
    stack.slices = _frames(reader, path) if frames > 1 else [Slice.of(reader, path, tag)]
    return stack


def _frames(reader, path):
    """One slice per frame, placed by the file's own functional groups."""
    count, tags = reader.GetSize()[2], read_tags(path)
    if any(len(set(tags.get(tag, ()))) > 1 for tag in RESCALE):
        raise VolumeError(
            f"{path}: expected one intensity scale, received several; convert it to NIfTI"
        )
    positions = _numbers(tags.get(POSITION, ()), 3)
    orientations = _numbers(tags.get(ORIENTATION, ()), 6)
    spacings = _numbers(tags.get(PIXEL_SPACING, ()), 2)
    if len(positions) != count or not (_alike(orientations) and _alike(spacings)):
        raise VolumeError(
            f"{path}: expected a position for each of {count} frames and one orientation, received "
            f"{len(positions)} positions, {len(orientations)} orientations; convert it to NIfTI"
        )
    labels = {
        name: tags[tag] for name, tag in FRAME_LABELS.items() if len(tags.get(tag, ())) == count
    }
    along_row, along_column = orientations[0].reshape(2, 3)
    between_rows, between_columns = spacings[0]
    return [
        Slice(
            path=path,
            size=tuple(reader.GetSize()[:2]),
            spacing=(between_columns, between_rows, 0.0),
            origin=position,
            direction=np.column_stack([along_row, along_column, np.cross(along_row, along_column)]),
            frame=frame,
            labels={name: values[frame] for name, values in labels.items()},
        )
        for frame, position in enumerate(positions)
    ]


def _numbers(texts, count):
    """Array (n, count) of texts of `count` numbers; empty if one of them is something else."""
    try:
        return np.array([text.split("\\") for text in texts], dtype=np.float64).reshape(-1, count)
    except (ValueError, AttributeError):
        return np.empty((0, count))


def _alike(rows):
    return len(rows) > 0 and np.ptp(rows, axis=0).max() <= _SAME_DIRECTION
