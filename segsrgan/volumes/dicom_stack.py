# SPDX-License-Identifier: MIT
"""From DICOM slices to a volume: order, repeats, gaps and tilt."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from segsrgan.errors import VolumeError
from segsrgan.volumes.dicom_tags import TRANSFER_SYNTAX, read_tags
from segsrgan.volumes.grid import nearest_rotation
from segsrgan.volumes.itk import quiet, reason
from segsrgan.volumes.volume import Volume

_logger = logging.getLogger(__name__)

# What tells images at one position apart, the likeliest first.
_LABELS = {
    "echo time": "0018|0081",
    "echo number": "0018|0086",
    "image type": "0008|0008",
    "temporal position": "0020|0100",
    "b-value": "0018|9087",
    "sequence name": "0018|0024",
    "inversion time": "0018|0082",
    "flip angle": "0018|1314",
    "trigger time": "0018|1060",
    "acquisition number": "0020|0012",
}
_INSTANCE, _POSITION = "0008|0018", "0020|0032"
_BETWEEN, _THICKNESS = "0018|0088", "0018|0050"
_SAME_POSITION = 0.01  # mm
_UNEVEN = 0.05  # of the spacing
_TILTED = 0.05  # of a pixel


@dataclass
class Slice:
    """One image in one plane; `labels` are the values that tell repeated images apart."""

    path: Path
    size: tuple[int, int]
    spacing: tuple[float, float, float]
    origin: np.ndarray
    direction: np.ndarray
    frame: int | None = None
    instance: str = ""
    has_position: bool = True
    labels: dict = field(default_factory=dict)

    @classmethod
    def of(cls, reader, path, tag):
        """The slice in a file whose header `reader` has read; `tag` looks values up."""
        across = next(
            (float(tag(key)) for key in (_BETWEEN, _THICKNESS) if _positive(tag(key))), 0.0
        )
        return cls(
            path=path,
            size=tuple(reader.GetSize()[:2]),
            spacing=(*reader.GetSpacing()[:2], across),
            origin=np.array(reader.GetOrigin()),
            direction=np.array(reader.GetDirection()).reshape(3, 3),
            instance=tag(_INSTANCE),
            has_position=bool(tag(_POSITION)) or np.any(reader.GetOrigin()),
            labels={name: tag(key) for name, key in _LABELS.items()},
        )

    @property
    def normal(self):
        """Unit vector across the slice."""
        return np.cross(self.direction[:, 0], self.direction[:, 1])

    def is_parallel(self, other, direction_tolerance, spacing_tolerance):
        """Say whether two slices have one size, orientation and in-plane spacing."""
        return (
            self.size == other.size
            and np.allclose(self.direction, other.direction, rtol=0, atol=direction_tolerance)
            and np.allclose(self.spacing[:2], other.spacing[:2], rtol=spacing_tolerance)
        )


def count_positions(slices):
    """How many different positions the slices have along the normal of the first."""
    return len(set(_places(_sorted(slices))))


def separate_repeats(slices, name):
    """Return one slice per position, in order along the normal of the first.

    Copies of one image count once. Where several images share positions (echoes, time points),
    those with the first value of the label that separates them are taken, with a warning.

    Raises:
        VolumeError: if slices have no position, or no label separates the repeats.
    """
    if len(slices) > 1 and not all(one.has_position for one in slices):
        raise VolumeError(
            f"{name}: expected slices with a position (ImagePositionPatient), received some "
            "without; give one file, or convert the series to NIfTI with its scanner's software"
        )
    # With the position, for some anonymisers give all images of a series one identifier.
    copies = {
        (one.instance or str(one.path), one.frame, *np.round(one.origin, 2)): one for one in slices
    }
    slices = _sorted(list(copies.values()))
    places = _places(slices)
    if len(set(places)) == len(slices):
        return slices
    for label in slices[0].labels:
        values = sorted({one.labels.get(label, "") for one in slices}, key=_by_number)
        for value in values if len(values) > 1 else ():
            part = [k for k, one in enumerate(slices) if one.labels.get(label, "") == value]
            if {places[k] for k in part} == set(places) and len(part) == len(set(places)):
                _logger.warning(
                    "%s: several images per position; of %s %s taking %s",
                    name,
                    label,
                    ", ".join(map(str, values)),
                    value,
                )
                return [slices[k] for k in part]
    raise VolumeError(
        f"{name}: expected one slice per position, received {len(slices)} slices in "
        f"{len(set(places))} positions; put the files of one image into a folder of their own"
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
        VolumeError: if a slice cannot be read, a lone one has no thickness, or more slices are
            missing than there are.
    """
    first = slices[0]
    direction = nearest_rotation(np.column_stack([first.direction[:, :2], first.normal]))
    array = np.stack(_load(slices), axis=-1)
    if len(slices) == 1:
        if not first.spacing[2] > 0:
            raise VolumeError(
                f"{name}: a single slice must say how thick it is (SliceThickness), received "
                "nothing; give the folder of the whole series"
            )
        return Volume(array, first.spacing, first.origin, direction)
    offsets = (np.array([one.origin for one in slices]) - first.origin) @ direction
    array = _upright(array, offsets[:, :2] / first.spacing[:2], name)
    array, spacing = _even(array, offsets[:, 2], name)
    return Volume(array, (*first.spacing[:2], spacing), first.origin, direction)


def _load(slices):
    """Arrays (x, y) of the slices, float32, rescaled as their files say."""
    arrays, path, pixels = [], None, None
    for one in slices:
        if one.path != path:
            path, pixels = one.path, _pixels(one)
        arrays.append(pixels[one.frame or 0].T)
    return arrays


def _pixels(one):
    """Array (frames, y, x) of the file of a slice."""
    try:
        with quiet():
            image = sitk.ReadImage(str(one.path), sitk.sitkFloat32, "GDCMImageIO")
    except RuntimeError as error:
        syntax = read_tags(one.path).get(TRANSFER_SYNTAX, ["unknown"])[0]
        raise VolumeError(
            f"{one.path}: its pixels, of transfer syntax {syntax}, cannot be read "
            f"({reason(error)}); decompress it with another program (gdcmconv --raw, dcmdjpeg) or "
            "copy it again"
        ) from error
    return sitk.GetArrayFromImage(image)


def _upright(array, shifts, name):
    """Undo a tilt: move each slice (x, y, k) by its in-plane offset in pixels, (n, 2)."""
    largest = np.abs(shifts).max()
    if largest <= _TILTED:
        return array
    _logger.warning(
        "%s: tilted, the slices are offset by up to %.1f pixels; making it upright", name, largest
    )
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
    told = f"{len(positions)} slices at distances of {gaps.min():.2f} to {gaps.max():.2f} mm"
    if missing > len(positions):
        raise VolumeError(
            f"{name}: expected slices at even distances, received {told}; "
            f"{missing} are missing, copy the series again"
        )
    _logger.warning(
        "%s: %s (%d missing); interpolating linearly to %d slices every %.3f mm",
        name,
        told,
        max(0, missing),
        intervals + 1,
        spacing,
    )
    weights = [np.interp(grid, positions, row) for row in np.eye(len(positions))]
    return array @ np.array(weights, dtype=np.float32), spacing


def _sorted(slices):
    normal = slices[0].normal
    return sorted(slices, key=lambda one: float(one.origin @ normal))


def _places(slices):
    """A number per sorted slice, equal for slices in one position."""
    normal = slices[0].normal
    gaps = np.diff([one.origin @ normal for one in slices])
    return [0, *np.cumsum(gaps > _SAME_POSITION).tolist()]


def _by_number(value):
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        return (1, 0.0, str(value))


def _positive(text):
    try:
        return float(text) > 0
    except ValueError:
        return False
