# SPDX-License-Identifier: MIT
"""The volume of DICOM slices: one image per position, an even distance, a straight stack.

What scanners leave to be repaired (a tilted gantry, rounded cosines, a few missing slices, a stray
one) is repaired with a warning where what remains deviates little, all else is refused.
"""

import logging
import re
from collections import Counter
from itertools import combinations

import numpy as np
from pydicom.datadict import dictionary_description
from scipy import ndimage

from segsrgan.errors import VolumeError
from segsrgan.volumes.affine import volume_of
from segsrgan.volumes.dicom_files import LABELS, PER_SLICE
from segsrgan.volumes.dicom_pixels import read_pixels
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
_CONTRAST = (
    *("EffectiveEchoTime", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue"),
    *("SequenceName", "ContrastBolusAgent", "FrameType", "ImageType", "FrameOfReferenceUID"),
)
_CLOSE = 0.05  # of a number: scanners adjust it from slice to slice
_STRAY = 5  # slices that tell which of them is displaced
_PADDED = 0.05  # of the range
_TURNED = 0.05  # degrees
# Words of an ImageType; the first are Siemens's and Philips's, of phase and its like.
_PHASE = {"P", "R", "I", "REAL", "IMAGINARY", "VELOCITY"}
_PROJECTIONS = {"PROJECTION", "MIP", "MINIP"}
_DERIVED = {"DERIVED", "MPR", "REFORMATTED", "LOCALIZER", *_PROJECTIONS}
_FAT = {"FAT", "F", "OUT", "OPP", "OPPOSED", "OP"}  # and where it cancels water
_DIXON = re.compile(r"\b(IN|OUT|OPP|OPPOSED)[_ ]?PHASE\b")
_SHOWN = 6  # values of an element, in messages


def assembled(stack, name, labels=False):
    """The float32 volume of a `Stack`, of `labels` as stored; `name` stands in messages.

    The spacing across comes from their positions. Missing slices and uneven distances are
    interpolated linearly (`labels`: nearest) onto an even grid, each with a warning; the stack
    says so, and which slices were used, from then on.
    """
    if lost := [image for image in stack.slices if image.problem]:
        raise VolumeError(f"{lost[0].path}: {lost[0].problem}")
    slices = _without_repeats(stack.slices, name)
    slope, weights, spacing = np.zeros(2), None, slices[0].spacing[2]
    if len(slices) > 1:
        count = len(slices)
        slices, slope, places = _straight(slices, name)
        slices, weights, spacing = _even(slices, places, name, labels)
        stack.missing = 0 if weights is None else weights.shape[1] - len(slices)
        stack.is_uneven = len(slices) < count or (weights is not None and not stack.missing)
        _check_gaps(slices, spacing, name)
    elif not spacing > 0:
        raise VolumeError(
            f"{name}: a single slice must say how thick it is (SliceThickness), received nothing; "
            "give the folder of the whole series"
        )
    stack.used, first = slices, slices[0]
    direction, step = _turned(first, slope, spacing * len(slices), name)
    _check_kinds(slices, name)
    _check_contrast(slices, name)
    array = _array(slices, name, labels)
    if weights is not None:
        array = _on_even_grid(array, slices, weights, step[:2], spacing, labels)
    affine = np.column_stack(
        [direction[:, :2] * first.spacing[:2], direction @ step * spacing, first.origin]
    )
    return volume_of(array, affine, name, labels, across=2)


def _check_kinds(slices, name):
    """Refuse images of several kinds in one stack; report values that are not a scan's."""
    for element, value_of, is_of_kind, words in _KINDS:
        found = [image for image in slices if is_of_kind(value_of(image))]
        if not found:
            continue
        value = value_of(found[0])
        if len(found) < len(slices):
            raise VolumeError(
                f"{found[0].path}: {element} is {value} ({len(found)} of {len(slices)} slices): "
                f"{words}; that of the others is not; give the files of one image"
            )
        text = "%s: %s is %s: %s; taking the values as they are stored"
        _logger.warning(text, name, element, value, words)


def _check_contrast(slices, name):
    """Warn of slices at different positions that can hardly be of one image."""
    for label in _CONTRAST:
        counts = Counter(image.labels[label] for image in slices)
        if label != "ContrastBolusAgent":
            counts.pop("", None)
        numbers = [_rank(value)[1] for value in counts if not _rank(value)[0]]
        is_close = len(numbers) == len(counts) and np.ptp(numbers or [0]) <= _CLOSE * max(
            np.abs(numbers), default=0
        )
        if len(counts) > 1 and not is_close:
            shown = [f"{value or '-'} ({n} slices)" for value, n in counts.most_common(_SHOWN)]
            _logger.warning(
                "%s: its slices differ in %s: %s; are they of several images?",
                *(name, dictionary_description(label).lower(), ", ".join(shown)),
            )
    plain = [image for image in slices if not image.is_scaled]
    scaled = {image.scale for image in slices if image.is_scaled} - {(1, 0)}
    if plain and scaled:
        text = "%s: RescaleSlope is missing in %d of %d slices; taking their values as stored"
        _logger.warning(text, name, len(plain), len(slices))


def _check_gaps(slices, spacing, name):
    image, declared = slices[0], slices[0].spacing[2]
    is_said = _rank(image.labels["SpacingBetweenSlices"])[1] == declared
    is_mixed = len({image.labels["AcquisitionNumber"] for image in slices}) > 1
    if 0 < _GAPS * declared < spacing:
        doubt = "(SpacingBetweenSlices, else SliceThickness); are slices missing?"
    elif declared > _GAPS * spacing and (is_said or is_mixed):
        element = "SpacingBetweenSlices" if is_said else "SliceThickness"
        doubt = f"({element}); are they of several acquisitions?"
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


def is_derived(image_type):
    """Whether an ImageType or FrameType is that of a reformat, a projection, a localizer or phase.

    The real and imaginary parts and maps of the field count as phase.
    """
    return bool(_parts(image_type) & _DERIVED) or _is_phase(image_type)


def is_fat(image_type):
    """Whether an ImageType is that of fat, or of water less fat, by Dixon's method."""
    return bool(_parts(image_type) & _FAT)


def _is_phase(image_type):
    parts = _parts(image_type)
    return bool(parts & _PHASE) or any(part.startswith(("PHASE", "FIELD", "B0")) for part in parts)


def _is_projection(image_type):
    return bool(_parts(image_type) & _PROJECTIONS)


def _parts(image_type):
    return set(re.split(r"[\\ _]", _DIXON.sub(r"\1", image_type.upper())))


def _kind(image):
    kind, component = (image.labels[k] for k in ("ImageType", "ComplexImageComponent"))
    return "\\".join(filter(None, [image.labels["FrameType"] or kind, component]))


# The element, its value in a slice, whether that is of the kind, and what it means.
_KINDS = (
    (
        "PhotometricInterpretation",
        lambda image: image.labels["PhotometricInterpretation"],
        lambda value: value == "MONOCHROME1",
        "low values are meant to be bright",
    ),
    (
        "ImageType",
        _kind,
        _is_phase,
        "phase or a part of complex numbers, not a scan's magnitude",
    ),
    ("ImageType", _kind, _is_projection, "projections, not a scan's slices"),
)


def _without_repeats(slices, name):
    """One slice per position, in order along the normal of the first.

    Copies of one image count once. Where several images share positions (echoes, time points),
    those with the first value of the label, or of the two labels, that separate them are taken,
    with a warning: originals, magnitude and water if there are any.
    """
    # By their content, too, for some anonymisers give all images of a series one identifier.
    slices = _without_copies(
        slices,
        lambda image: (image.instance or image.path, image.frame, *image.labels.values()),
    )
    slices, places = places_of(slices)
    count = places[-1] + 1
    if count == len(slices):
        return slices
    varied = {
        label: sorted({image.labels[label] for image in slices}, key=_rank) for label in LABELS
    }
    varied = {label: values for label, values in varied.items() if len(values) > 1}
    # In one position each slice has a time of its own.
    separating = [label for label in varied if count > 1 or label not in PER_SLICE]
    for number in (1, 2):
        for labels in combinations(separating, number):
            if part := _separated(slices, places, labels):
                kinds = "; ".join(_differences(label, varied[label]) for label in labels)
                taken = ", ".join(part[0].labels[label] or "-" for label in labels)
                rest = "; ".join(
                    f"{_differences(k, varied[k])}, taking {part[0].labels[k] or '-'}"
                    for k in varied
                    if k not in labels and len({image.labels[k] for image in part}) == 1
                )
                text = "%s: several images per position; of %s taking %s (they differ in: %s)"
                _logger.warning(text, name, kinds, taken, rest or "nothing else")
                return part
    if len(single := _without_copies(slices)) == count:
        text = "%s: %d of %d slices are copies (same place, same pixels); taking each once"
        _logger.warning(text, name, len(slices) - count, len(slices))
        return places_of(single)[0]
    kinds = [_differences(label, values) for label, values in varied.items()]
    shared = places.index(next(k for k in places if places.count(k) > 1))
    offsets = np.array([image.origin for image in slices]) @ slices[0].direction[:, :2]
    if (far := np.ptp(offsets, axis=0).max()) > max(slices[0].spacing[:2]):
        kinds.append(f"their place within the plane, by up to {far:.0f} mm")
    remedy = "put the files of one image into a folder of their own"
    if count == 1:
        remedy = "export the series again, with the position of each slice"
    raise VolumeError(
        f"{name}: expected one slice per position, received {len(slices)} slices in {count} "
        f"positions (ImagePositionPatient), such as {slices[shared].path.name} and "
        f"{slices[shared + 1].path.name}; what differs is "
        f"{'; '.join(kinds) or 'nothing that is known'}; {remedy}"
    )


def _without_copies(slices, key=lambda image: ()):
    """One slice of those with the same key, place, scale and pixels."""
    alike = {}
    for image in slices:
        place = (*np.round(image.origin, 2), image.scale, *key(image))
        alike.setdefault(place, []).append(image)
    files = {image.path for images in alike.values() for image in images if len(images) > 1}
    pixels = {path: [hash(frame.tobytes()) for frame in read_pixels(path)[0]] for path in files}
    found = [
        {pixels[image.path][image.frame]: image for image in reversed(images)}
        if len(images) > 1
        else {0: images[0]}
        for images in alike.values()
    ]
    return [image for images in found for image in images.values()]


def _separated(slices, places, labels):
    """The slices of the first values of the labels that have one at each position, or None."""
    parts = {}
    for image, place in zip(slices, places, strict=True):
        parts.setdefault(tuple(image.labels[label] for label in labels), []).append((place, image))
    whole = [
        (
            any(is_derived(_kind(image)) for _, image in part),
            any(is_fat(_kind(image)) for _, image in part),
            [_rank(value) for value in values],
            values,
        )
        for values, part in parts.items()
        if len(part) == places[-1] + 1 == len({place for place, _ in part})
    ]
    return [image for _, image in parts[min(whole)[-1]]] if whole else None


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


def _even(slices, positions, name, labels):
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
                kept = [s for s, kept in zip(slices, rest, strict=True) if kept]
                return _even(kept, positions[rest], name, labels)
    found = f"{len(positions)} slices at distances of {gaps.min():.2f} to {gaps.max():.2f} mm"
    if not count:
        values = {k: {image.labels[k] for image in slices} for k in (*_STACKS, *_CONTRAST)}
        parts = [_differences(k, sorted(found)) for k, found in values.items() if len(found) > 1]
        remedy = (
            f"they differ in {'; '.join(parts)}: give a folder with the files of one image"
            if parts
            else "copy it again"
        )
        raise VolumeError(
            f"{name}: expected slices at even distances, at most {_MOST_MISSING} missing in a "
            f"row and a quarter of all, received {found} (ImagePositionPatient); {remedy}"
        )
    if count == len(positions) and error <= _UNEVEN:
        return slices, None, spacing
    how = "taking the nearest ones for" if labels else "interpolating linearly to"
    text = "%s: %s (%d missing); %s %d slices every %.3f mm"
    _logger.warning(text, name, found, count - len(positions), how, count, spacing)
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


def _on_even_grid(array, slices, weights, slope, spacing, labels):
    """Array (x, y, new slice); of a tilted stack each slice is moved to where the new one lies.

    The stack moves by `slope` (2,) within its plane for each mm across.
    """
    first, nearest = slices[0], weights.argmax(axis=0)
    if not slope.any():
        return array[..., nearest] if labels else array @ weights
    if labels:
        weights = np.eye(len(slices), dtype=array.dtype)[:, nearest]
    heights = [(image.origin - first.origin) @ first.direction[:, 2] for image in slices]
    result = np.zeros((*array.shape[:2], weights.shape[1]), array.dtype)
    for k, new in np.argwhere(weights):
        moved = slope * (heights[k] - new * spacing) / first.spacing[:2]
        options = {"mode": "grid-constant", "cval": 0 if labels else array.min()}
        plane = ndimage.shift(array[..., k], moved, order=0 if labels else 1, **options)
        result[..., new] += plane * weights[k, new]
    return result


def _array(slices, name, labels):
    """Array (x, y, z) of the slices, padding set to the lowest value of the rest.

    It is float64, of `labels` without a scale of the stored type.
    """
    array = np.empty((*slices[0].size, len(slices)))
    paddings, files, types = [None] * len(slices), {}, set()
    for k, image in enumerate(slices):
        files.setdefault(image.path, []).append(k)
    for path, numbers in files.items():
        stored, padding = read_pixels(path)
        types.add(stored.dtype)
        for k in numbers:
            slope, intercept = slices[k].scale
            array[..., k] = stored[slices[k].frame].T.astype(np.float64) * slope + intercept
            paddings[k] = padding
    _fill_padding(array, slices, paddings, name)
    is_plain = labels and all(image.scale == (1, 0) for image in slices)
    return array.astype(np.result_type(*types)) if is_plain else array


def _fill_padding(array, slices, paddings, name):
    """Set padding to the lowest value of the rest.

    `paddings` are the lowest and highest stored number for each slice, None where it says nothing.
    Where the others agree, their padding is that of such a slice, too.
    """
    if not (said := set(paddings) - {None}):
        return
    usual = said.pop() if len(said) == 1 else None
    padded = np.zeros(array.shape, bool)
    for k, image in enumerate(slices):
        if padding := paddings[k] or usual:
            low, high = sorted(end * image.scale[0] + image.scale[1] for end in padding)
            padded[..., k] = (array[..., k] >= low) & (array[..., k] <= high)
    if not padded.any() or padded.all():
        return
    low, high = array[~padded].min(), array[~padded].max()
    margin = _PADDED * (high - low)
    # Zero as padding beside a background of 0 and 1 changes nothing.
    if array[padded].min() < low - margin or array[padded].max() > high + margin:
        text = "%s: %d voxels of padding (PixelPaddingValue, %g) are set to %g"
        _logger.warning(text, name, padded.sum(), array[padded].min(), low)
        has_padding = padded.any(axis=(0, 1))
        silent = sum(has_padding[k] for k, padding in enumerate(paddings) if padding is None)
        if silent:
            text = "%s: PixelPaddingValue is missing in %d of %d slices with such voxels"
            _logger.warning(text, name, silent, has_padding.sum())
        array[padded] = low
