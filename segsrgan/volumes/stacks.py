# SPDX-License-Identifier: MIT
"""From DICOM slices to a volume: order, repeats, gaps and tilt."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.datadict import dictionary_description

from segsrgan.errors import VolumeError
from segsrgan.volumes.itk import quiet, reason
from segsrgan.volumes.volume import Volume

_logger = logging.getLogger(__name__)

_SAME_POSITION = 0.01  # mm
_SAME_DIRECTION = 1e-3
_SAME_SPACING = 1e-3  # of the spacing
_UNEVEN = 0.05  # of the spacing
_TILTED = 0.05  # of a pixel


@dataclass
class Slice:
    """One image in one plane.

    Attributes:
        path: of its file.
        size: pixels along (x, y).
        spacing: mm along x, y and across; 0 where the file says nothing.
        origin: position (LPS, mm) of the centre of the first pixel, float64 (3,).
        direction: (3, 3); the columns are the directions of x, of y and of their cross product.
        instance: what copies of the image share, a UID.
        has_position: whether the file says where it lies.
        frame: its number in the file, from 0; None for the only image of a file.
        labels: DICOM keyword -> str, values that distinguish images in one position.
        syntax: of the file, for messages.
    """

    path: Path
    size: tuple[int, int]
    spacing: tuple[float, float, float]
    origin: np.ndarray
    direction: np.ndarray
    instance: str = ""
    has_position: bool = True
    frame: int | None = None
    labels: dict = field(default_factory=dict)
    syntax: str = "unknown"

    @property
    def normal(self):
        """Unit vector across the slice."""
        return self.direction[:, 2]

    def is_parallel(self, other):
        """Say whether two slices have one size, orientation and in-plane spacing."""
        return (
            self.size == other.size
            and np.allclose(self.direction, other.direction, rtol=0, atol=_SAME_DIRECTION)
            and np.allclose(self.spacing[:2], other.spacing[:2], rtol=_SAME_SPACING)
        )


def count_positions(slices):
    """How many different positions the slices have along the normal of the first."""
    return _places(_sorted(slices))[-1] + 1


def separate_repeats(slices, name):
    """Return one slice per position, in order along the normal of the first.

    Copies of one image count once. Where several images share positions (echoes, time points),
    those with the first value of the label that separates them are taken, with a warning. Raises
    `VolumeError` if slices have no position, or no label separates the repeats.
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
    slices = _sorted(list(copies.values()))
    places = _places(slices)
    if places[-1] + 1 == len(slices):
        return slices
    count = places[-1] + 1
    for label in slices[0].labels:
        values = sorted({image.labels[label] for image in slices}, key=_by_number)
        for value in values if len(values) > 1 else ():
            part = [k for k, image in enumerate(slices) if image.labels[label] == value]
            if len(part) == count == len({places[k] for k in part}):
                _logger.warning(
                    "%s: several images per position; of %s %s taking %s",
                    name,
                    dictionary_description(label).lower(),
                    ", ".join(values),
                    value,
                )
                return [slices[k] for k in part]
    raise VolumeError(
        f"{name}: expected one slice per position, received {len(slices)} slices in {count} "
        "positions; put the files of one image into a folder of their own"
    )


def assemble(slices, name):
    """Return the float32 volume of parallel slices sorted along their normal.

    The spacing across comes from their positions. Missing slices and uneven distances (beyond
    5 % of the spacing) are interpolated linearly onto an even grid, and a tilted stack is made
    upright, each with a warning: no slice is moved silently.

    Args:
        slices: from `separate_repeats`.
        name: of the stack, for messages.

    Raises:
        VolumeError: if a slice cannot be read, the size of pixels or the thickness of a lone
            slice is missing, or more slices are missing than there are.
    """
    first = slices[0]
    if not min(first.spacing[:2]) > 0:
        raise VolumeError(
            f"{name}: expected the size of a pixel in mm (PixelSpacing), received none; export the "
            "image again, or convert it with the scanner's software"
        )
    array = np.stack(_load(slices), axis=-1)
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


def _load(slices):
    """Arrays (x, y) of the slices, float32, rescaled as their files say."""
    arrays, path, pixels = [], None, None
    for image in slices:
        if image.path != path:
            path, pixels = image.path, _pixels(image)
        arrays.append(pixels[image.frame or 0].T)
    return arrays


def _pixels(image):
    """Array (frames, y, x) of the file of a slice."""
    try:
        with quiet():
            pixels = sitk.ReadImage(str(image.path), sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        raise VolumeError(
            f"{image.path}: its pixels, of transfer syntax {image.syntax}, cannot be read "
            f"({reason(error)}); decompress it with another program (gdcmconv --raw, dcmdjpeg) or "
            "copy it again"
        ) from error
    return sitk.GetArrayFromImage(pixels)


def _upright(array, shifts, name):
    """Undo a tilt: move each slice (x, y, k) by its in-plane offset in pixels, (n, 2)."""
    largest = np.abs(shifts).max()
    if largest <= _TILTED:
        return array
    _logger.warning(
        "%s: tilted, the slices are offset by up to %.1f pixels; making it upright", name, largest
    )
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
    if (
        not missing
        and np.abs(np.append(positions - grid, gaps - spacing)).max() <= _UNEVEN * spacing
    ):
        return array, spacing
    found = f"{len(positions)} slices at distances of {gaps.min():.2f} to {gaps.max():.2f} mm"
    if missing > len(positions):
        raise VolumeError(
            f"{name}: expected slices at even distances, received {found}; "
            f"{missing} are missing, copy the series again"
        )
    _logger.warning(
        "%s: %s (%d missing); interpolating linearly to %d slices every %.3f mm",
        name,
        found,
        max(0, missing),
        intervals + 1,
        spacing,
    )
    weights = [np.interp(grid, positions, row) for row in np.eye(len(positions))]
    return array @ np.array(weights, dtype=np.float32), spacing


def _sorted(slices):
    normal = slices[0].normal
    return sorted(slices, key=lambda image: float(image.origin @ normal))


def _places(slices):
    """The number, from 0, of the position of each sorted slice."""
    normal = slices[0].normal
    gaps = np.diff([image.origin @ normal for image in slices])
    return [0, *np.cumsum(gaps > _SAME_POSITION).tolist()]


def _by_number(text):
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
