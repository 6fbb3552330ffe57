# SPDX-License-Identifier: MIT
"""DICOM: which images a file or folder holds, and which of them to take.

pydicom reads every element; SimpleITK reads the pixels alone, for where it finds no spacing,
position or orientation it makes one up.

Reference: DICOM PS3.3, sections C.7.6.2 (image plane) and C.7.6.16 (functional groups).
"""

import logging
import os
import warnings
from dataclasses import dataclass

import numpy as np
import pydicom

from segsrgan.errors import VolumeError, one_line
from segsrgan.volumes.stacks import Slice, assemble, count_positions, separate_repeats
from segsrgan.volumes.volume import is_orthonormal, nearest_rotation

_logger = logging.getLogger(__name__)

_ROUNDED_DIRECTION = 0.05  # direction cosines of two decimals deviate less
# What distinguishes images in one position, the likeliest first.
_LABELS = (
    *("StackID", "EffectiveEchoTime", "EchoTime", "EchoNumbers", "ImageType"),
    *("TemporalPositionIndex", "TemporalPositionIdentifier", "DiffusionBValue", "SequenceName"),
    *("InversionTime", "FlipAngle", "TriggerTime", "AcquisitionNumber"),
)
_SERIES = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "PatientID")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_ACROSS = ("SpacingBetweenSlices", "SliceThickness")
_READ = (
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "SamplesPerPixel"),
    *("PhotometricInterpretation", "SOPClassUID", "SOPInstanceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *(*_ACROSS, *_SERIES, *_GROUPS, *_LABELS),
)
_UNCOMPRESSED = (
    None,  # files older than transfer syntaxes
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
)


class _NoImage(VolumeError):
    """A DICOM file without an image of one real number per pixel."""


class _Damaged(VolumeError):
    """An image, of the series with a UID, whose file ends too early."""

    def __init__(self, path, uid):
        super().__init__(f"{path}: cannot be read, it is damaged or truncated; copy it again")
        self.path, self.uid = path, uid


@dataclass
class Stack:
    """Slices of one series with one orientation, size and in-plane spacing."""

    uid: str
    number: str
    description: str
    patient: str  # PatientID
    slices: list[Slice]

    @property
    def positions(self):
        """How many different positions the slices have."""
        return count_positions(self.slices)

    def __str__(self):
        name, number = self.description or "no description", self.number or "?"
        return f"series {self.uid} ('{name}', number {number}, {len(self.slices)} slices)"


def read_dicom_file(path):
    """Read the volume of one file: a multi-frame image, or one slice, one voxel thick.

    The spacing across a lone slice is its SpacingBetweenSlices, else its SliceThickness. Raises
    `VolumeError` if it is not a scalar image, or its geometry is incomplete.
    """
    stack = scan(path)
    if len(stack.slices) == 1 and stack.slices[0].frame is None:
        _logger.warning("%s: one slice; give its folder to read the whole series", path)
    return assemble(separate_repeats(stack.slices, path), path)


def read_dicom_series(folder, files, series=None):
    """Read the volume of one series of a folder; file names do not matter.

    Args:
        folder: its path, for messages.
        files: paths of its DICOM files.
        series: SeriesInstanceUID, a part of it or of the description, or the series' number.
            None: the series with most slices in different positions.

    Raises:
        VolumeError: if there is no such series or it makes no volume.
    """
    stacks, damaged, refused = _scan_all(files)
    if refused and not stacks:
        raise refused[0]
    for error in refused:
        _logger.warning("left out: %s", error)
    if not stacks:
        why = f"; {damaged[0].path} is damaged" if damaged else ""
        raise VolumeError(
            f"{folder}: expected a folder with DICOM images, received none{why}; check the path"
        )
    chosen = _choose(stacks, series, folder)
    lost = [error.path for error in damaged if error.uid == chosen.uid]
    if lost:
        raise VolumeError(
            f"{lost[0]}: damaged or truncated, like {len(lost) - 1} other files of its series; "
            "copy the series again"
        )
    others = [stack for stack in stacks if stack is not chosen]
    listed = ", ".join(map(str, others)) or "nothing"
    _logger.info("%s: taking %s; also there: %s", folder, chosen, listed)
    if any(stack.uid == chosen.uid for stack in others):
        _logger.warning(
            "%s: slices of other orientation or size are left out of %s", folder, chosen
        )
    name = f"{folder}: {chosen}"
    return assemble(separate_repeats(chosen.slices, name), name)


def find_patient_id(folder, files, series=None):
    """The PatientID, a str, of the series that `read_dicom_series` takes of a folder."""
    return _choose(_scan_all(files)[0], series, folder).patient


def scan(path):
    """The `Stack` of the slices in a file, one for each frame, without their pixels.

    Raises `VolumeError` if it holds no scalar image, is damaged, or its frames make no stack.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        # pydicom's, of values that the standard does not allow; those used here are checked.
        warnings.simplefilter("ignore")
        try:
            return _scan(file, path)
        except VolumeError:
            raise
        except Exception as error:  # whatever a stranger's bytes do to the parser
            raise VolumeError(
                f"{path}: cannot be read as DICOM ({one_line(error)}); copy it again"
            ) from error


def _scan(file, path):
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_READ))
    if "Rows" not in dataset:
        kind = dataset.get("SOPClassUID") or pydicom.uid.UID("of unknown kind")
        raise _NoImage(f"{path}: expected a DICOM file with an image, received {kind.name}")
    if os.fstat(file.fileno()).st_size - file.tell() < _least_bytes(dataset):
        raise _Damaged(path, _text(dataset, "SeriesInstanceUID"))
    photometric = _text(dataset, "PhotometricInterpretation")
    samples = _text(dataset, "SamplesPerPixel") or "1"
    if samples != "1" or photometric.startswith("PALETTE"):
        raise _NoImage(
            f"{path}: expected one real number per voxel, received {samples} ({photometric}); "
            "convert it to a scalar image first"
        )
    return Stack(*(_text(dataset, name) for name in _SERIES), _slices(dataset, path))


def _least_bytes(dataset):
    """How many bytes must follow the elements before the pixels."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return 0  # all was read to inflate it
    if syntax not in _UNCOMPRESSED:
        return 1
    bits = dataset.Rows * dataset.Columns * _count(dataset) * dataset.BitsAllocated
    return bits // 8 + (8 if dataset.original_encoding[0] else 12)


def _scan_all(files):
    """Stacks of all images, damaged images, and errors of those that make no stack."""
    stacks, damaged, refused = [], [], []
    for file in files:
        try:
            _merge(stacks, scan(file))
        except _NoImage as error:
            _logger.debug("left out: %s", error)
        except _Damaged as error:
            damaged.append(error)
        except VolumeError as error:
            refused.append(error)
    return stacks, damaged, refused


def _merge(stacks, new):
    """Add the slices of `new` to the stack of its series and geometry, or as another stack."""
    for stack in stacks:
        if stack.uid == new.uid and stack.slices[0].is_parallel(new.slices[0]):
            stack.slices.extend(new.slices)
            return
    stacks.append(new)


def _choose(stacks, wanted, folder):
    """The named stack; of several, the one with most positions, earlier in the folder first."""
    text = "" if wanted is None else str(wanted).strip()
    found = []
    for matches in (
        lambda stack: text == stack.uid,
        lambda stack: text == stack.number,
        lambda stack: text.lower() == stack.description.lower(),
        lambda stack: text in stack.uid or text.lower() in stack.description.lower(),
    ):
        found = found or [stack for stack in stacks if text and matches(stack)]
    if wanted is None or len({stack.uid for stack in found}) == 1:
        return max(found or stacks, key=lambda stack: stack.positions)
    raise VolumeError(
        f"{folder}: expected the name of one series, received {text!r}; give the UID of one of: "
        + ", ".join(map(str, found or stacks))
    )


def _slices(dataset, path):
    """The only slice of a file, or one per frame."""
    shared, per_frame = (dataset.get(name, []) for name in _GROUPS)
    count = _count(dataset)
    if count == 1 and not per_frame:
        return [_slice(dataset, path)]
    frames = [_frame(dataset, [*shared, groups]) for groups in per_frame]
    if len({(_text(f, "RescaleSlope"), _text(f, "RescaleIntercept")) for f in frames}) > 1:
        raise VolumeError(
            f"{path}: expected one intensity scale, received several; convert it to NIfTI"
        )
    slices = [_slice(frame, path, number) for number, frame in enumerate(frames)]
    placed = sum(image.has_position for image in slices)
    if placed != count or not all(slices[0].is_parallel(image) for image in slices):
        raise VolumeError(
            f"{path}: expected positions of {count} frames and one orientation, received {placed} "
            f"positions of {len(slices)} frames; convert it to NIfTI"
        )
    return slices


def _frame(dataset, groups):
    """What holds for a frame: the file's elements and those in its functional groups."""
    frame = pydicom.Dataset()
    frame.update(dataset)
    for group in groups:
        for element in group:
            # Philips keeps a second, older header in a private sequence.
            if element.VR == "SQ" and not element.tag.is_private:
                for item in element.value:
                    frame.update(item)
    frame.file_meta = dataset.file_meta
    return frame


def _slice(dataset, path, frame=None):
    position = _numbers(dataset.get("ImagePositionPatient"), 3)
    orientation = _numbers(dataset.get("ImageOrientationPatient"), 6)
    between_pixels = _numbers(dataset.get("PixelSpacing"), 2)
    if between_pixels is None or not min(between_pixels) > 0:
        between_pixels = np.zeros(2)
    across = [_numbers(dataset.get(keyword), 1) for keyword in _ACROSS]
    across = next((value[0] for value in across if value is not None and value[0] > 0), 0.0)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    return Slice(
        path=path,
        size=(dataset.Columns, dataset.Rows),
        spacing=(*map(float, between_pixels[::-1]), float(across)),  # DICOM's order is y, x
        origin=np.zeros(3) if position is None else position,
        direction=np.eye(3) if orientation is None else _direction(orientation, path),
        instance=_text(dataset, "SOPInstanceUID"),
        has_position=position is not None and orientation is not None,
        frame=frame,
        labels={keyword: _text(dataset, keyword) for keyword in _LABELS},
        syntax=f"{syntax} ({syntax.name})" if syntax else "unknown",
    )


def _text(dataset, keyword):
    value = dataset.get(keyword)
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return "\\".join("" if value is None else str(value).strip() for value in values)


def _count(dataset):
    return int(dataset.get("NumberOfFrames") or 1)


def _numbers(value, count):
    """Array of `count` finite numbers; None if the value is anything else."""
    try:
        numbers = np.array(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _direction(cosines, path):
    """(3, 3) of the six direction cosines of rows and columns."""
    along_row, along_column = cosines.reshape(2, 3)
    matrix = np.column_stack([along_row, along_column, np.cross(along_row, along_column)])
    if not is_orthonormal(matrix, _ROUNDED_DIRECTION):
        raise VolumeError(
            f"{path}: expected two orthonormal directions (ImageOrientationPatient), received "
            f"{cosines.tolist()}; convert it to NIfTI with its scanner's software"
        )
    return nearest_rotation(matrix)
