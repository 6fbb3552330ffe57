# SPDX-License-Identifier: MIT
"""The header of a DICOM file: whether it is a scan, where its slices lie, what their pixels are.

Reference: DICOM PS3.3, sections C.7.6.2 (image plane) and C.7.6.16 (functional groups).
"""

import logging
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom

from segsrgan.errors import VolumeError, one_line
from segsrgan.volumes.volume import is_orthonormal, nearest_rotation

_PARALLEL = 1e-3  # in directions, and in the spacing relative to it
_ROUNDED_DIRECTION = 0.05  # direction cosines of two decimals deviate less
_MOST_PACKED = 2000  # no compression of a slice makes it smaller by more
# What distinguishes images in one position, the likeliest first.
LABELS = (
    *("StackID", "EffectiveEchoTime", "EchoTime", "EchoNumbers", "FrameType", "ImageType"),
    *("ComplexImageComponent", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    *("DiffusionBValue", "SequenceName", "InversionTime", "FlipAngle", "TriggerTime"),
    *("AcquisitionNumber", "PhotometricInterpretation", "SpacingBetweenSlices"),
    *("ContrastBolusAgent", "FrameOfReferenceUID", "AcquisitionTime", "DimensionIndexValues"),
)
PER_SLICE = LABELS[-2:]  # also from slice to slice of one image
_SERIES = (
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "PatientID", "ImageType"),
    *("FrameOfReferenceUID",),
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_ACROSS = ("SpacingBetweenSlices", "SliceThickness")
_PLANE = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
_SCALE = ("RescaleSlope", "RescaleIntercept")
_NUMBERS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    "NumberOfFrames",
)
PIXELS = (*_NUMBERS, "SamplesPerPixel", "PhotometricInterpretation")
_FRAME = (*_PLANE, *_SCALE, *_ACROSS, *LABELS)
_MOSAIC = (0x00190010, 0x0019100A)  # Siemens: the number of images in a mosaic
_READ = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ModalityLUTSequence"),
    *(*PIXELS, *_FRAME, *_SERIES, *_GROUPS),
)
# By words in the name of the SOP class, and by Modality: what has pixels but is no scan.
_NO_SCANS = {
    ("Segmentation", "SEG"): "a segmentation object",
    ("RT Dose", "RTDOSE"): "a radiotherapy dose",
    ("RT Image", "RTIMAGE"): "a radiotherapy image",
    ("RT Structure", "RTSTRUCT"): "a set of radiotherapy contours",
    ("RT ", "RTPLAN"): "a radiotherapy object",
    ("Parametric Map", None): "a parametric map",
    ("Presentation State", "PR"): "a presentation state",
    ("Spectroscopy", None): "a spectrum",
    (" SR ", "SR"): "a report",
    ("Key Object", "KO"): "a key object selection",
    ("Encapsulated", "DOC"): "a document",
    ("Waveform", "ECG"): "a waveform",
    ("Registration", "REG"): "a registration",
}


class Unusable(VolumeError):
    """A file that has no slices to read."""

    series = ("", "", "")  # its UID, number and description


class NoScan(Unusable):
    """A file without slices of one real number per pixel."""


class Damaged(Unusable):
    """An image whose file ends too early."""


@dataclass
class Slice:
    """One image in one plane."""

    path: Path
    frame: int  # its number in the file, from 0
    size: tuple[int, int]  # pixels along (x, y)
    spacing: tuple[float, float, float]  # mm along x, y and across; 0 where the file says nothing
    thickness: float  # mm; 0 where the file says nothing
    origin: np.ndarray  # position (LPS, mm) of the centre of the first pixel
    cosines: np.ndarray  # (6,) of its rows and columns, as the file has them
    direction: np.ndarray  # (3, 3): columns along x, y and their cross product
    scale: tuple[float, float]  # slope and intercept of the stored values
    is_scaled: bool  # whether the file says so
    instance: str  # what copies of the image share, a UID
    labels: dict  # keyword -> str, values that distinguish images in one position
    problem: str  # why its place is not known, a sentence that names the element, or ""

    def is_parallel(self, other):
        """Whether two slices have one size, orientation and in-plane spacing."""
        return (
            bool(self.problem) == bool(other.problem)
            and self.size == other.size
            and np.allclose(self.direction, other.direction, rtol=0, atol=_PARALLEL)
            and np.allclose(self.spacing[:2], other.spacing[:2], rtol=_PARALLEL)
        )


@dataclass
class Stack:
    """Slices of one series with one orientation, size and in-plane spacing."""

    uid: str
    number: str
    description: str
    patient: str  # PatientID
    image_type: str
    frame: str  # FrameOfReferenceUID
    slices: list[Slice] = field(default_factory=list)
    used: list[Slice] = field(default_factory=list)  # what it is made of, once it is a volume
    missing: int = 0  # slices that were interpolated, once it is a volume
    is_uneven: bool = False  # whether its distances were made even, or a slice left out

    @property
    def thickness(self):
        """Of the slices, mm; None where a file does not say it."""
        return float(np.median([image.thickness for image in self.slices])) or None

    def __str__(self):
        name, number = self.description or "no description", self.number or "?"
        return f"series {self.uid} ('{name}', number {number}, {len(self.slices)} slices)"


@contextmanager
def without_warnings():
    """Without pydicom's warnings of what the standard forbids; values used here are checked."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def scan(path):
    """The `Stack` of the slices in a file, one for each frame, without their pixels.

    `NoScan`, `Damaged` or another `VolumeError` if there are none; a slice whose place is not known
    says so.
    """
    with open(path, "rb") as file, without_warnings():
        try:
            return _scan_opened(file, path)
        except VolumeError:
            raise
        except Exception as error:  # whatever a stranger's bytes do to the parser
            raise Unusable(
                f"{path}: cannot be read as DICOM ({one_line(error)}); copy it again"
            ) from error


def _scan_opened(file, path):
    dataset = pydicom.dcmread(
        file, stop_before_pixels=True, force=True, specific_tags=[*_READ, *_MOSAIC]
    )
    # Directories of discs, and files cut off early, name it only before the elements.
    kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    kind = kind.name if isinstance(kind, pydicom.uid.UID) else "an object of unknown kind"
    values = values_of(dataset, _READ)
    series = [text(values, name) for name in _SERIES]
    series[0] = series[0] or series[1]  # anonymised without a UID: by its number
    try:
        _check_is_scan(dataset, kind, path)
        pixels = pixel_format(values, path)
        if os.fstat(file.fileno()).st_size - file.tell() < _least_bytes(dataset, pixels):
            raise Damaged(f"{path}: cannot be read, it is damaged or truncated; copy it again")
        return Stack(*series, _slices(values, pixels, path))
    except Unusable as error:
        error.series = tuple(series[:3])
        raise


def values_of(dataset, names):
    """Dict of the values, by keyword, of those elements that are there and can be decoded."""
    tags, result = _tags(tuple(names)), {}
    for tag in tags.keys() & dataset.keys():
        try:
            value = dataset[tag].value
        except Exception:  # pydicom raises anything, of any damaged number
            continue
        if value is not None:
            result[tags[tag]] = value
    return result


@lru_cache
def _tags(names):
    return {pydicom.tag.Tag(name): name for name in names}


def _check_is_scan(dataset, kind, path):
    """Refuse what is no scan, by its SOP class, modality and image type."""
    modality, image_type = (str(dataset.get(name, "")) for name in ("Modality", "ImageType"))
    for (word, code), name in _NO_SCANS.items():
        if word in kind or modality == code:
            raise NoScan(
                f"{path}: {name} ({kind}, Modality {modality or '-'}), not a scan; give the images "
                "that it was made from"
            )
    if "Directory" in kind:
        raise NoScan(f"{path}: the directory of a disc, not a scan; give the folder that holds it")
    if (
        "MOSAIC" in image_type
        or "SIEMENS" in str(dataset.get(_MOSAIC[0]))
        and _MOSAIC[1] in dataset
    ):
        raise NoScan(
            f"{path}: a Siemens mosaic (ImageType MOSAIC), its slices in one picture; convert it "
            "to NIfTI with dcm2niix"
        )
    if not {"Rows", "Columns"} & set(dataset.dir()):
        if "Image Storage" in kind:
            raise Damaged(f"{path}: cannot be read, it is damaged or truncated; copy it again")
        raise NoScan(f"{path}: expected a DICOM file with an image, received {kind}")


def text(values, keyword):
    """A value as text, its parts joined by backslashes."""
    value = values.get(keyword)
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    found = "\\".join("" if part is None else str(part).strip() for part in parts)
    try:  # UTF-8 where no character set is declared, which pydicom takes for Latin-1
        return found.encode("latin-1").decode()
    except UnicodeError:
        return found


def pixel_format(values, path):
    """Dict of what the elements say of the pixels, whole numbers, checked."""
    photometric = text(values, "PhotometricInterpretation")
    samples = text(values, "SamplesPerPixel") or "1"
    if samples != "1" or (photometric and not photometric.startswith("MONOCHROME")):
        raise NoScan(
            f"{path}: expected one real number per voxel, received {samples} ({photometric}); "
            "convert it to a scalar image first"
        )
    found = {name: whole_number(values, name) for name in _NUMBERS}
    found["NumberOfFrames"] = found["NumberOfFrames"] or 1
    bits, stored = found["BitsAllocated"], found["BitsStored"]
    rules = {
        "Rows": ((found["Rows"] or 0) > 0, "1 or more"),
        "Columns": ((found["Columns"] or 0) > 0, "1 or more"),
        "NumberOfFrames": (found["NumberOfFrames"] > 0, "1 or more"),
        "BitsAllocated": (bits in (8, 16, 32), "8, 16 or 32"),
        "BitsStored": (
            stored and 0 < stored <= (bits or 0),
            f"1 to {bits} (FloatPixelData is not read)",
        ),
        "HighBit": (found["HighBit"] in (None, (stored or 0) - 1), "BitsStored less 1"),
        "PixelRepresentation": (found["PixelRepresentation"] in (0, 1), "0 or 1"),
    }
    for name, (fine, expected) in rules.items():
        if not fine:
            raise Unusable(
                f"{path}: {name} is {text(values, name) or 'missing'}, expected {expected}; export "
                "it again, or convert it to NIfTI with dcm2niix"
            )
    if "ModalityLUTSequence" in values:
        raise Unusable(
            f"{path}: its values are looked up in a table (ModalityLUTSequence); convert it to "
            "NIfTI with its scanner's software"
        )
    return found


def whole_number(values, keyword):
    """A value as an int; None if it is anything else."""
    try:
        return int(text(values, keyword))
    except ValueError:
        return None


def _least_bytes(dataset, pixels):
    """How many bytes must follow the elements before the pixels."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")  # None in files older than these
    if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
        return 0  # all was read to inflate it
    if syntax is not None and syntax not in pydicom.uid.UncompressedTransferSyntaxes:
        return max(1, byte_count(pixels) // pixels["NumberOfFrames"] // _MOST_PACKED)
    return byte_count(pixels) + (8 if dataset.original_encoding[0] else 12)


def byte_count(pixels):
    """How many bytes the uncompressed pixels of a file have."""
    count = pixels["Rows"] * pixels["Columns"] * pixels["NumberOfFrames"]
    return count * pixels["BitsAllocated"] // 8


def _slices(values, pixels, path):
    """The only slice of a file, or one per frame."""
    shared, per_frame = (values.get(name) or [] for name in _GROUPS)
    count = pixels["NumberOfFrames"]
    if count == 1 and not per_frame:
        return [_slice(merged(values, shared), pixels, path, 0)]
    if len(per_frame) != count:
        raise Unusable(
            f"{path}: it has {count} frames, but positions of {len(per_frame)} "
            "(PerFrameFunctionalGroupsSequence); copy it again, or convert it to NIfTI with its "
            "scanner's software"
        )
    common = merged(values, shared)
    slices = [
        _slice(merged(common, [groups]), pixels, path, number)
        for number, groups in enumerate(per_frame)
    ]
    lost = [image.problem for image in slices if image.problem]
    if not lost and not all(slices[0].is_parallel(image) for image in slices):
        stacks = sorted({image.labels["StackID"] or "-" for image in slices})
        raise Unusable(
            f"{path}: expected frames of one orientation (ImageOrientationPatient) and one "
            f"PixelSpacing, received several (StackID {', '.join(stacks)}); convert it to NIfTI "
            "with dcm2niix and give the stack that is meant"
        )
    if lost:
        raise Unusable(f"{path}: {len(lost)} of {count} frames are without a place: {lost[0]}")
    return slices


def merged(values, groups, names=_FRAME):
    """The values with those of functional groups, by keyword, which hold for a frame or for all."""
    result = dict(values)
    # Philips keeps a second, older header in a private sequence.
    public = (group[tag] for group in groups for tag in group.keys() if not tag.is_private)
    for element in public:
        for item in element.value if element.VR == "SQ" else ():
            result |= values_of(item, names)
    return result


def _slice(values, pixels, path, frame):
    position = _numbers(values, "ImagePositionPatient", 3)
    cosines = _numbers(values, "ImageOrientationPatient", 6)
    rows, columns = _sizes(values, "PixelSpacing", 2)
    across = next((size for name in _ACROSS for size in _sizes(values, name, 1) if size), 0.0)
    direction = None if cosines is None else _direction(tuple(cosines))
    found = (rows or None, direction, position)
    lost = [name for name, value in zip(_PLANE, found, strict=True) if value is None]
    problem = "".join(
        f"{name} is {text(values, name) or 'missing'}; export the image again, or convert it with "
        "the scanner's software"
        for name in lost[:1]
    )
    return Slice(
        path=path,
        frame=frame,
        size=(pixels["Columns"], pixels["Rows"]),
        spacing=(columns, rows, across),  # DICOM names the distance of rows first
        thickness=_sizes(values, "SliceThickness", 1)[0],
        origin=np.zeros(3) if position is None else position,
        cosines=np.zeros(6) if cosines is None else cosines,
        direction=np.eye(3) if direction is None else direction,
        scale=_scale(values, path),
        is_scaled=bool(text(values, "RescaleSlope")),
        instance=text(values, "SOPInstanceUID"),
        labels={keyword: text(values, keyword) for keyword in LABELS},
        problem=problem,
    )


def _scale(values, path):
    """Slope and intercept, 1 and 0 where nothing is said."""
    result = []
    for name, default in zip(_SCALE, (1.0, 0.0), strict=True):
        number = _numbers(values, name, 1) if text(values, name) else [default]
        if number is None or (name == "RescaleSlope" and number[0] == 0):
            raise Unusable(
                f"{path}: {name} is {text(values, name)}, which scales no value; export it again"
            )
        result.append(float(number[0]))
    return tuple(result)


def _numbers(values, keyword, count):
    """Array of `count` finite numbers; None if the value is anything else."""
    try:
        numbers = np.array(values.get(keyword), dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if numbers.size == count and np.isfinite(numbers).all() else None


def _sizes(values, keyword, count):
    """List of `count` positive numbers; zeros if the value is anything else."""
    numbers = _numbers(values, keyword, count)
    return [0.0] * count if numbers is None or not min(numbers) > 0 else numbers.tolist()


@lru_cache
def _direction(cosines):
    """The rotation (3, 3) nearest to six direction cosines; None if they are none."""
    along_row, along_column = np.reshape(cosines, (2, 3))
    if not np.abs(cosines).max() < 2:
        return None
    matrix = np.column_stack([along_row, along_column, np.cross(along_row, along_column)])
    return nearest_rotation(matrix) if is_orthonormal(matrix, _ROUNDED_DIRECTION) else None
