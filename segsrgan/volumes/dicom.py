# SPDX-License-Identifier: MIT
"""DICOM: which images a file or folder holds, which of them to take, and the volume they make.

pydicom reads every element; SimpleITK reads the pixels alone, for where it finds no spacing,
position or orientation it makes one up.

Reference: DICOM PS3.3, sections C.7.6.2 (image plane) and C.7.6.16 (functional groups).
"""

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import dictionary_description

from segsrgan.errors import VolumeError, one_line
from segsrgan.volumes.itk import quiet, reason
from segsrgan.volumes.volume import Volume, is_orthonormal, nearest_rotation

_logger = logging.getLogger(__name__)

_SAME_POSITION = 0.01  # mm
_PARALLEL = 1e-3  # in directions, and in the spacing relative to it
_UNEVEN = 0.05  # of the spacing
_TILTED = 0.05  # of a pixel
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


class _NoImage(VolumeError):
    """A file without an image of one real number per pixel."""


class _Damaged(VolumeError):
    """An image, of the series with a UID, whose file ends too early."""

    def __init__(self, path, uid):
        super().__init__(f"{path}: cannot be read, it is damaged or truncated; copy it again")
        self.path, self.uid = path, uid


@dataclass
class _Slice:
    """One image in one plane."""

    path: Path
    frame: int | None  # its number in the file, from 0; None for the only image of a file
    size: tuple[int, int]  # pixels along (x, y)
    spacing: tuple[float, float, float]  # mm along x, y and across; 0 where the file says nothing
    origin: np.ndarray  # position (LPS, mm) of the centre of the first pixel
    direction: np.ndarray  # (3, 3): columns along x, y and their cross product
    has_position: bool  # whether the file says where it lies
    instance: str  # what copies of the image share, a UID
    labels: dict  # keyword -> str, values that distinguish images in one position

    def is_parallel(self, other):
        """Whether two slices have one size, orientation and in-plane spacing."""
        return (
            self.size == other.size
            and np.allclose(self.direction, other.direction, rtol=0, atol=_PARALLEL)
            and np.allclose(self.spacing[:2], other.spacing[:2], rtol=_PARALLEL)
        )


@dataclass
class _Stack:
    """Slices of one series with one orientation, size and in-plane spacing."""

    uid: str
    number: str
    description: str
    patient: str  # PatientID
    slices: list[_Slice]

    def __str__(self):
        name, number = self.description or "no description", self.number or "?"
        return f"series {self.uid} ('{name}', number {number}, {len(self.slices)} slices)"


def read_dicom_file(path):
    """The volume of one file: a multi-frame image, or one slice, one voxel thick.

    The spacing across a lone slice is its SpacingBetweenSlices, else its SliceThickness.
    """
    slices = _scan(path).slices
    if len(slices) == 1 and slices[0].frame is None:
        _logger.warning("%s: one slice; give its folder to read the whole series", path)
    return _assembled(slices, path)


def read_dicom_series(folder, files, series=None):
    """The volume of one series, see `read_volume`, of the DICOM files of a folder."""
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
    if lost := [error.path for error in damaged if error.uid == chosen.uid]:
        raise VolumeError(
            f"{lost[0]}: damaged or truncated, {len(lost)} of its series' files in all; copy the "
            "series again"
        )
    others = [stack for stack in stacks if stack is not chosen]
    names = ", ".join(map(str, others)) or "nothing"
    _logger.info("%s: taking %s; also there: %s", folder, chosen, names)
    if any(stack.uid == chosen.uid for stack in others):
        _logger.warning(
            "%s: slices of other orientation or size are left out of %s", folder, chosen
        )
    return _assembled(chosen.slices, f"{folder}: {chosen}")


def find_patient_id(folder, files, series=None):
    """The PatientID of the series that `read_dicom_series` takes."""
    return _choose(_scan_all(files)[0], series, folder).patient


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
        return max(found or stacks, key=lambda stack: _in_order(stack.slices)[1][-1])
    raise VolumeError(
        f"{folder}: expected the name of one series, received {text!r}; give the UID of one of: "
        + ", ".join(map(str, found or stacks))
    )


def _scan_all(files):
    """Stacks of all images, by series and geometry; damaged ones; errors of unusable ones."""
    stacks, damaged, refused = [], [], []
    for file in files:
        try:
            new = _scan(file)
        except _NoImage as error:
            _logger.debug("left out: %s", error)
        except _Damaged as error:
            damaged.append(error)
        except VolumeError as error:
            refused.append(error)
        else:
            alike = [
                stack.slices
                for stack in stacks
                if stack.uid == new.uid and stack.slices[0].is_parallel(new.slices[0])
            ]
            alike[0].extend(new.slices) if alike else stacks.append(new)
    return stacks, damaged, refused


def _scan(path):
    """The `_Stack` of the slices in a file, one for each frame, without their pixels."""
    with open(path, "rb") as file, warnings.catch_warnings():
        # pydicom's, of values that the standard does not allow; those used here are checked.
        warnings.simplefilter("ignore")
        try:
            return _scan_opened(file, path)
        except VolumeError:
            raise
        except Exception as error:  # whatever a stranger's bytes do to the parser
            raise VolumeError(
                f"{path}: cannot be read as DICOM ({one_line(error)}); copy it again"
            ) from error


def _scan_opened(file, path):
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
    return _Stack(*(_text(dataset, name) for name in _SERIES), _slices(dataset, path))


def _least_bytes(dataset):
    """How many bytes must follow the elements before the pixels."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")  # None in files older than these
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return 0  # all was read to inflate it
    if syntax is not None and syntax not in pydicom.uid.UncompressedTransferSyntaxes:
        return 1
    bits = dataset.Rows * dataset.Columns * _count(dataset) * dataset.BitsAllocated
    return bits // 8 + (8 if dataset.original_encoding[0] else 12)


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
    # Philips keeps a second, older header in a private sequence.
    for element in (element for group in groups for element in group if not element.tag.is_private):
        for item in element.value if element.VR == "SQ" else ():
            frame.update(item)
    frame.file_meta = dataset.file_meta
    return frame


def _slice(dataset, path, frame=None):
    position = _numbers(dataset, "ImagePositionPatient", 3)
    orientation = _numbers(dataset, "ImageOrientationPatient", 6)
    rows, columns = _sizes(dataset, "PixelSpacing", 2)
    across = next((size for name in _ACROSS for size in _sizes(dataset, name, 1) if size), 0.0)
    return _Slice(
        path=path,
        frame=frame,
        size=(dataset.Columns, dataset.Rows),
        spacing=(columns, rows, across),  # DICOM names the distance of rows first
        origin=np.zeros(3) if position is None else position,
        direction=np.eye(3) if orientation is None else _direction(orientation, path),
        has_position=position is not None and orientation is not None,
        instance=_text(dataset, "SOPInstanceUID"),
        labels={keyword: _text(dataset, keyword) for keyword in _LABELS},
    )


def _text(dataset, keyword):
    value = dataset.get(keyword)
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return "\\".join("" if value is None else str(value).strip() for value in values)


def _count(dataset):
    return int(dataset.get("NumberOfFrames") or 1)


def _numbers(dataset, keyword, count):
    """Array of `count` finite numbers; None if the value is anything else."""
    value = dataset.get(keyword)
    try:
        numbers = np.array(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _sizes(dataset, keyword, count):
    """List of `count` positive numbers; zeros if the value is anything else."""
    numbers = _numbers(dataset, keyword, count)
    return [0.0] * count if numbers is None or not min(numbers) > 0 else numbers.tolist()


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


def _assembled(slices, name):
    """The float32 volume of parallel slices; `name` stands in messages.

    The spacing across comes from their positions. Missing slices and uneven distances (beyond
    5 % of the spacing) are interpolated linearly onto an even grid, and a tilted stack is made
    upright, each with a warning: no slice is moved silently.
    """
    slices = _without_repeats(slices, name)
    first = slices[0]
    if not min(first.spacing[:2]) > 0:
        raise VolumeError(
            f"{name}: expected the size of a pixel in mm (PixelSpacing), received none; export the "
            "image again, or convert it with the scanner's software"
        )
    array = _array(slices)
    if len(slices) == 1:
        if not first.spacing[2] > 0:
            raise VolumeError(
                f"{name}: a single slice must say how thick it is (SliceThickness), received "
                "nothing; give the folder of the whole series"
            )
        return Volume(array, first.spacing, first.origin, first.direction)
    offsets = (np.array([image.origin for image in slices]) - first.origin) @ first.direction
    array = _upright(array, offsets[:, :2] / first.spacing[:2], name)
    array, spacing = _even(array, offsets[:, 2], name)
    return Volume(array, (*first.spacing[:2], spacing), first.origin, first.direction)


def _without_repeats(slices, name):
    """One slice per position, in order along the normal of the first.

    Copies of one image count once. Where several images share positions (echoes, time points),
    those with the first value of the label that separates them are taken, with a warning.
    """
    if len(slices) > 1 and not all(image.has_position for image in slices):
        raise VolumeError(
            f"{name}: expected slices with a position (ImagePositionPatient), received some "
            "without; give one file, or convert the series to NIfTI with its scanner's software"
        )
    # With the position, for some anonymisers give all images of a series one identifier.
    copies = {
        (image.instance or str(image.path), image.frame, *np.round(image.origin, 2)): image
        for image in slices
    }
    slices, places = _in_order(list(copies.values()))
    count = places[-1] + 1
    if count == len(slices):
        return slices
    for label in _LABELS:
        values = sorted({image.labels[label] for image in slices}, key=_by_number)
        for value in values if len(values) > 1 else ():
            part = [k for k, image in enumerate(slices) if image.labels[label] == value]
            if len(part) == count == len({places[k] for k in part}):
                kind = dictionary_description(label).lower()
                text = "%s: several images per position; of %s %s taking %s"
                _logger.warning(text, name, kind, ", ".join(values), value)
                return [slices[k] for k in part]
    raise VolumeError(
        f"{name}: expected one slice per position, received {len(slices)} slices in {count} "
        "positions; put the files of one image into a folder of their own"
    )


def _by_number(text):
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _in_order(slices):
    """The slices along the normal of the first, and the number, from 0, of each one's position."""
    heights = np.array([image.origin @ slices[0].direction[:, 2] for image in slices])
    order = np.argsort(heights, kind="stable")
    places = np.cumsum(np.diff(heights[order]) > _SAME_POSITION)
    return [slices[k] for k in order], [0, *places.tolist()]


def _array(slices):
    """Float32 array (x, y, z) of the slices."""
    frames = {path: _pixels(path) for path in {image.path for image in slices}}
    return np.stack([frames[image.path][image.frame or 0].T for image in slices], axis=-1)


def _pixels(path):
    """Float32 array (frame, y, x) of a file, rescaled as it says."""
    try:
        with quiet():
            pixels = sitk.ReadImage(str(path), sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        meta = pydicom.dcmread(path, stop_before_pixels=True, force=True).file_meta
        syntax = meta.get("TransferSyntaxUID")
        name = f"{syntax} ({syntax.name})" if syntax else "unknown"
        raise VolumeError(
            f"{path}: its pixels, of transfer syntax {name}, cannot be read ({reason(error)}); "
            "decompress it with another program (gdcmconv --raw, dcmdjpeg) or copy it again"
        ) from error
    return sitk.GetArrayFromImage(pixels)


def _upright(array, shifts, name):
    """Undo a tilt: move each slice (x, y, k) by its in-plane offset in pixels, (n, 2)."""
    largest = np.abs(shifts).max()
    if largest <= _TILTED:
        return array
    text = "%s: tilted, the slices are offset by up to %.1f pixels; making it upright"
    _logger.warning(text, name, largest)
    from scipy import ndimage  # slow to load

    for k, shift in enumerate(shifts):
        array[..., k] = ndimage.shift(array[..., k], shift, order=1, mode="nearest")
    return array


def _even(array, positions, name):
    """The array (x, y, z) on an even grid from first to last position, and its spacing."""
    gaps = np.diff(positions)
    intervals = max(1, round(positions[-1] / np.median(gaps)))
    spacing = positions[-1] / intervals
    missing = intervals - len(gaps)
    grid = np.arange(intervals + 1) * spacing
    if not missing:
        errors = np.append(positions - grid, gaps - spacing)
        if np.abs(errors).max() <= _UNEVEN * spacing:
            return array, spacing
    found = f"{len(positions)} slices at distances of {gaps.min():.2f} to {gaps.max():.2f} mm"
    if missing > len(positions):
        raise VolumeError(
            f"{name}: expected slices at even distances, received {found}; "
            f"{missing} are missing, copy the series again"
        )
    text = "%s: %s (%d missing); interpolating linearly to %d slices every %.3f mm"
    _logger.warning(text, name, found, max(0, missing), intervals + 1, spacing)
    weights = [np.interp(grid, positions, row) for row in np.eye(len(positions))]
    return array @ np.array(weights, dtype=np.float32), spacing
