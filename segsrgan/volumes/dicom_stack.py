# SPDX-License-Identifier: MIT
"""The volume of DICOM slices: one image per position, an even distance, a straight stack.

What scanners leave to be repaired (a tilted gantry, rounded cosines, a few missing slices, a stray
one) is repaired with a warning where what remains deviates little, all else is refused.
"""

import logging
import re
from itertools import combinations

import numpy as np
from pydicom.datadict import dictionary_description

from segsrgan.errors import VolumeError
from segsrgan.volumes.affine import volume_of
from segsrgan.volumes.dicom_files import LABELS, read_pixels
from segsrgan.volumes.volume import nearest_rotation

_logger = logging.getLogger(__name__)

_SAME_POSITION = 0.01  # mm
_UNEVEN = 0.05  # of the spacing
_INTERPOLATED = 0.25  # of the spacing
_MOST_MISSING = 2  # in a row
_TILTED = 0.05  # of a pixel
_STEEPEST = np.tan(np.radians(32))
_ROUNDED_POSITION = 0.1  # mm, of positions with one decimal
_GAPS = 1.9  # of the slices' declared distance or thickness
_STACKS = ("StackID", "AcquisitionNumber")
_STRAY = 5  # slices that tell which of them is displaced
_PADDED = 0.05  # of the range
_TURNED = 0.05  # degrees
# Words of an ImageType; the first are Siemens's and Philips's, of phase and its like.
PHASE = ("P", "R", "I", "REAL", "IMAGINARY", "VELOCITY")
_DERIVED = ("DERIVED", "MPR", "MIP", "MINIP", "PROJECTION", "REFORMATTED", "LOCALIZER", *PHASE)
_SHOWN = 6  # values of an element, in messages


def assembled(slices, name, labels=False):
    """The float32 volume of parallel slices, of `labels` as stored; `name` stands in messages.

    The spacing across comes from their positions. Missing slices and uneven distances are
    interpolated linearly (`labels`: nearest) onto an even grid, each with a warning.
    """
    if lost := [image for image in slices if image.problem]:
        raise VolumeError(f"{lost[0].path}: {lost[0].problem}")
    slices = _without_repeats(slices, name)
    slope, weights, spacing = np.zeros(2), None, slices[0].spacing[2]
    if len(slices) > 1:
        slices, slope, places = _straight(slices, name)
        slices, weights, spacing = _even(slices, places, name)
        _check_gaps(slices[0], spacing, name)
    elif not spacing > 0:
        raise VolumeError(
            f"{name}: a single slice must say how thick it is (SliceThickness), received nothing; "
            "give the folder of the whole series"
        )
    first = slices[0]
    direction, step = _turned(first, slope, spacing * len(slices), name)
    _check_photometric(slices, name)
    array = _array(slices, name, labels)
    if weights is not None:
        array = array[..., weights.argmax(axis=0)] if labels else array @ weights
    affine = np.column_stack(
        [direction[:, :2] * first.spacing[:2], direction @ step * spacing, first.origin]
    )
    return volume_of(array, affine, name, labels)


def _check_photometric(slices, name):
    """Values are taken as stored, also where low ones are meant to be bright (MONOCHROME1)."""
    inverted = [k for k in slices if k.labels["PhotometricInterpretation"] == "MONOCHROME1"]
    if 0 < len(inverted) < len(slices):
        raise VolumeError(
            f"{inverted[0].path}: PhotometricInterpretation is MONOCHROME1 ({len(inverted)} of "
            f"{len(slices)} slices), that of the others is not; export the series again"
        )
    if inverted:
        text = "%s: PhotometricInterpretation is MONOCHROME1, low values are meant to be bright"
        _logger.warning(text + "; taking the values as they are stored", name)


def _check_gaps(image, spacing, name):
    declared = image.spacing[2]
    if 0 < _GAPS * declared < spacing:
        doubt = "(SpacingBetweenSlices, else SliceThickness); are slices missing?"
    elif _rank(image.labels["SpacingBetweenSlices"])[1] == declared > _GAPS * spacing:
        doubt = "(SpacingBetweenSlices); are they of several acquisitions?"
    else:
        return
    text = "%s: the slices lie %.2f mm apart, the header says %.2f mm %s"
    _logger.warning(text, name, spacing, declared, doubt)


def places_of(slices):
    """The slices along the normal of the first, and the number, from 0, of each one's position."""
    heights = np.array([image.origin @ slices[0].direction[:, 2] for image in slices])
    order = np.argsort(heights, kind="stable")
    places = np.cumsum(np.diff(heights[order]) > _SAME_POSITION)
    return [slices[k] for k in order], [0, *places.tolist()]


def is_derived(image_type, words=_DERIVED):
    """Whether an ImageType or FrameType is that of a reformat, a projection, a localizer or phase.

    The real and imaginary parts and maps of the field count as phase.
    """
    parts = re.split(r"[\\ _]", image_type.upper())
    return any(part in words or part.startswith(("PHASE", "FIELD", "B0")) for part in parts)


def _without_repeats(slices, name):
    """One slice per position, in order along the normal of the first.

    Copies of one image count once. Where several images share positions (echoes, time points),
    those with the first value of the label, or of the two labels, that separate them are taken,
    with a warning: originals and magnitude if there are any.
    """
    # With the position, for some anonymisers give all images of a series one identifier.
    copies = {
        (image.instance or str(image.path), image.frame, *np.round(image.origin, 2)): image
        for image in slices
    }
    slices, places = places_of(list(copies.values()))
    count = places[-1] + 1
    if count == len(slices):
        return slices
    varied = {
        label: sorted({image.labels[label] for image in slices}, key=_rank) for label in LABELS
    }
    varied = {label: values for label, values in varied.items() if len(values) > 1}
    for number in (1, 2):
        for labels in combinations(varied, number):
            if part := _separated(slices, places, labels):
                kinds = "; ".join(_differences(label, varied[label]) for label in labels)
                taken = ", ".join(part[0].labels[label] for label in labels)
                rest = "; ".join(
                    f"{_differences(k, varied[k])}, taking {part[0].labels[k] or '-'}"
                    for k in varied
                    if k not in labels
                )
                text = "%s: several images per position; of %s taking %s (they differ in: %s)"
                _logger.warning(text, name, kinds, taken, rest or "nothing else")
                return part
    if len(single := _without_equals(slices)) == count:
        text = "%s: %d of %d slices are copies (same place, same pixels); taking each once"
        _logger.warning(text, name, len(slices) - count, len(slices))
        return single
    kinds = [_differences(label, values) for label, values in varied.items()]
    offsets = np.array([image.origin for image in slices]) @ slices[0].direction[:, :2]
    if (far := np.ptp(offsets, axis=0).max()) > max(slices[0].spacing[:2]):
        kinds.append(f"their place within the plane, by up to {far:.0f} mm")
    remedy = "put the files of one image into a folder of their own"
    if count == 1:
        remedy = "export the series again, with the position of each slice"
    raise VolumeError(
        f"{name}: expected one slice per position, received {len(slices)} slices in {count} "
        f"positions (ImagePositionPatient); what differs is "
        f"{'; '.join(kinds) or 'nothing that is known'}; {remedy}"
    )


def _without_equals(slices):
    """One slice of those with the same place, scale and pixels, whatever their identifiers."""
    files = {image.path: None for image in slices}
    pixels = {path: [hash(frame.tobytes()) for frame in read_pixels(path)[0]] for path in files}
    found = {
        (*np.round(image.origin, 2), image.scale, pixels[image.path][image.frame]): image
        for image in reversed(slices)
    }
    return places_of(list(found.values()))[0]


def _separated(slices, places, labels):
    """The slices of the first values of the labels that have one at each position, or None."""
    parts = {}
    for image, place in zip(slices, places, strict=True):
        parts.setdefault(tuple(image.labels[label] for label in labels), []).append((place, image))
    whole = [
        (any(_is_derived(image) for _, image in part), [_rank(value) for value in values], values)
        for values, part in parts.items()
        if len(part) == places[-1] + 1 == len({place for place, _ in part})
    ]
    return [image for _, image in parts[min(whole)[2]]] if whole else None


def _is_derived(image):
    return is_derived(image.labels["FrameType"] or image.labels["ImageType"])


def _rank(text):
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _differences(label, values):
    shown = [value or "-" for value in values[:_SHOWN]] + ["..."] * (len(values) > _SHOWN)
    return f"{dictionary_description(label).lower()} {', '.join(shown)}"


def _turned(first, slope, length, name):
    """The direction (3, 3) of slices, and how they go on (3,) in it for each mm of position.

    The slices move by `slope` (2,) in their plane, over `length` mm. Rounded cosines
    turn: the normal is where the positions lead, as far as the rounding allows.
    """
    cosines, direction = first.cosines.reshape(2, 3), first.direction
    step = np.array([*slope, 1.0])
    rounding = next((10.0**-d for d in (1, 2, 3) if np.allclose(cosines, cosines.round(d))), 0)
    if 0 < np.linalg.norm(slope) < 1.5 * rounding and not np.isin(np.abs(cosines), [0, 1]).all():
        direction = nearest_rotation(_turn(direction[:, 2], direction @ step) @ direction)
        step = np.array([0, 0, np.linalg.norm(step)])
    elif np.linalg.norm(slope) * length < _ROUNDED_POSITION:
        step = np.array([0, 0, 1])
    axes = cosines.T / np.linalg.norm(cosines, axis=1)
    turned = np.degrees(np.arccos(np.clip((axes * direction[:, :2]).sum(axis=0), -1, 1))).max()
    if turned > _TURNED:
        text = "%s: ImageOrientationPatient is rounded; taking the nearest rotation, %.2f degrees"
        _logger.warning(text + " from it", name, turned)
    return direction, step


def _turn(normal, line):
    """The smallest rotation (3, 3) that takes one direction into another."""
    line = line / np.linalg.norm(line)
    axis = np.cross(normal, line)
    skew = np.cross(np.eye(3), axis)
    return np.eye(3) + skew + skew @ skew / (1 + normal @ line)


def _straight(slices, name):
    """The slices but for a stray one, the slope of their line, and their positions (mm).

    The slope (2,) is in mm along x and y for each mm across.
    """
    offsets = np.array([image.origin for image in slices]) - slices[0].origin
    offsets = offsets @ slices[0].direction
    pixel = np.array(slices[0].spacing[:2])
    allowed = max(_TILTED, _ROUNDED_POSITION / pixel.min())
    keep, slope, error = np.ones(len(slices), bool), *_line(offsets, pixel)
    if error > allowed and len(slices) >= _STRAY:
        for k in range(len(slices)):
            rest = np.arange(len(slices)) != k
            other, remaining = _line(offsets[rest], pixel)
            if remaining < error:
                keep, slope, error = rest, other, remaining
    tilt = np.abs(slope * np.ptp(offsets[keep, 2]))
    is_upright = (tilt <= allowed * pixel).all()
    # A gantry tilts by 30 degrees at most; slices that move faster must be mostly in view.
    in_view = 1.0 if np.linalg.norm(slope) < _STEEPEST else 0.5
    out_of_view = (tilt > pixel * slices[0].size * in_view).any()
    if error > allowed or out_of_view or (keep.sum() < 3 and not is_upright):
        far = np.linalg.norm(np.ptp(offsets[:, :2], axis=0))
        raise VolumeError(
            f"{name}: the slices do not lie above each other, ImagePositionPatient differs by up "
            f"to {far:.3g} mm in their plane; give the slices of one stack (of one table station)"
        )
    if not keep.all():
        stray = int(np.argmin(keep))
        height = offsets[:, 2] - offsets[keep, 2].mean()
        line = offsets[keep, :2].mean(axis=0) + np.outer(height, slope)
        _leave_out(slices[stray], np.linalg.norm((offsets[:, :2] - line)[stray]), name)
    return [s for s, kept in zip(slices, keep, strict=True) if kept], slope, offsets[keep, 2]


def _line(offsets, pixel):
    """Slope (2,) of in-plane offsets over positions, and the largest residual in pixels."""
    height = offsets[:, 2] - offsets[:, 2].mean()
    plane = offsets[:, :2] - offsets[:, :2].mean(axis=0)
    slope = height @ plane / (height @ height)
    return slope, np.abs((plane - np.outer(height, slope)) / pixel).max()


def _leave_out(image, distance, name):
    text = "%s: leaving out %s, which lies %.1f mm off the line of the other slices"
    _logger.warning(text, name, image.path.name, distance)


def _even(slices, positions, name):
    """The slices, the weights (slice, new slice) that make their grid even or None, the spacing."""
    positions = positions - positions[0]
    gaps = np.diff(positions)
    count, spacing, error = _grid(positions)
    if not count and len(slices) > _STRAY:
        for k in range(len(slices)):
            rest = np.arange(len(slices)) != k
            if _grid(positions[rest])[0] and _grid(positions[rest])[2] <= _UNEVEN:
                beside = positions[rest] - positions[k]
                _leave_out(slices[k], np.abs(beside).min(), name)
                return _even(
                    [s for s, kept in zip(slices, rest, strict=True) if kept], positions[rest], name
                )
    found = f"{len(positions)} slices at distances of {gaps.min():.2f} to {gaps.max():.2f} mm"
    if not count:
        values = {label: {image.labels[label] for image in slices} for label in _STACKS}
        parts = [_differences(k, sorted(found)) for k, found in values.items() if len(found) > 1]
        remedy = (
            f"they differ in {'; '.join(parts)}: give one of them" if parts else "copy it again"
        )
        raise VolumeError(
            f"{name}: expected slices at even distances, at most {_MOST_MISSING} missing in a "
            f"row and a quarter of all, received {found} (ImagePositionPatient); {remedy}"
        )
    if count == len(positions) and error <= _UNEVEN:
        return slices, None, spacing
    text = "%s: %s (%d missing); interpolating linearly to %d slices every %.3f mm"
    _logger.warning(text, name, found, count - len(positions), count, spacing)
    grid = np.arange(count) * spacing
    weights = [np.interp(grid, positions, row) for row in np.eye(len(positions))]
    return slices, np.array(weights, dtype=np.float32), spacing


def _grid(positions):
    """Number of slices of an even grid from first to last, its spacing, the largest deviation.

    The deviation is relative to the spacing. The number is 0 if no grid fits.
    """
    number = len(positions)
    for missing, allowed in [(m, _UNEVEN) for m in range(number // 3 + 1)] + [(0, _INTERPOLATED)]:
        spacing = (positions[-1] - positions[0]) / (number - 1 + missing)
        exact = (positions - positions[0]) / spacing
        places = np.round(exact) if missing else np.arange(number)
        error = max(np.abs(exact - places).max(), np.abs(np.diff(exact - places)).max())
        steps = np.diff(places)
        if error <= allowed and steps.min() > 0 and steps.max() <= _MOST_MISSING + 1:
            return number + missing, spacing, error
    return 0, 0.0, 0.0


def _array(slices, name, labels):
    """Array (x, y, z) of the slices, padding set to the lowest value of the rest.

    It is float32, of `labels` of the stored type, float64 where they are scaled.
    """
    array = np.empty((*slices[0].size, len(slices)), np.float64 if labels else np.float32)
    padded, files, types = None, {}, set()
    for k, image in enumerate(slices):
        files.setdefault(image.path, []).append(k)
    for path, numbers in files.items():
        stored, padding = read_pixels(path)
        types.add(stored.dtype)
        for k in numbers:
            plane, (slope, intercept) = stored[slices[k].frame].T, slices[k].scale
            array[..., k] = plane.astype(np.float64) * slope + intercept
            if padding is not None:
                padded = np.zeros(array.shape, bool) if padded is None else padded
                padded[..., k] = (plane >= padding[0]) & (plane <= padding[1])
    if padded is not None and padded.any() and not padded.all():
        low, high = array[~padded].min(), array[~padded].max()
        margin = _PADDED * (high - low)
        # Zero as padding beside a background of 0 and 1 changes nothing.
        if array[padded].min() < low - margin or array[padded].max() > high + margin:
            text = "%s: %d voxels of padding (PixelPaddingValue, %g) are set to %g"
            _logger.warning(text, name, padded.sum(), array[padded].min(), low)
            array[padded] = low
    is_plain = labels and all(image.scale == (1, 0) for image in slices)
    return array.astype(np.result_type(*types)) if is_plain else array
