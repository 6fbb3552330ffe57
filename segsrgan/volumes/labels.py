# SPDX-License-Identifier: MIT
"""What the voxels of label maps and masks stand for: chosen labels, or an object on a background.

Masks come as 0 and 1, 0 and 255, probabilities, per cent, with the ringing of an interpolation or
a floor that rounding left. They all show the same object.
"""

import logging

import numpy as np
from scipy import ndimage

from segsrgan.errors import VolumeError

_logger = logging.getLogger(__name__)

_ROUNDING = 1e-3  # of label values: scaled headers round
_RINGING = 0.5  # beyond 0 and 1; splines overshoot by 0.4 at most in corners
# Least and largest maximum of per cent and of 8 bits.
_FULL = ((90, 105, 100), (230, 270, 255))
_MOST = 250  # labels of a map; images have more values
_BINS, _TOP = 100, 67
_MANY = 20  # values; of fewer each may be a label
_ZEROS = 0.05  # fraction of the voxels, of a background
_LISTED = 12


def select_labels(array, values, name):
    """The voxels of the label `values`, bool (x, y, z); `name` is of the file, for messages.

    Whole numbers are compared exactly, others within a thousandth of a label. A warning says
    where there is none. Raises `VolumeError` where fractions show that these are no labels, or
    for labels of which floating point has merged neighbours: float32 above 2^24, float64 2^53.
    """
    if array.dtype.kind in "biu":
        kind = np.uint8 if array.dtype.kind == "b" else array.dtype
        bounds = np.iinfo(kind)
        possible = [value for value in values if bounds.min <= value <= bounds.max]
        result = np.isin(array, np.array(possible, kind))
    else:
        _check_labels(array, values, name)
        result = np.empty(array.shape, bool)
        for inside, plane in zip(result, array, strict=True):  # no copies as large as the image
            inside[...] = np.isin(np.rint(plane), values)
    if not result.any():
        found = listed(np.unique(np.rint(array)))
        _logger.warning("%s: has none of the labels %s, only %s", name, listed(values), found)
    return result


def _check_labels(array, values, name):
    if not are_whole(array):
        low, high = float(array.min()), float(array.max())
        raise VolumeError(
            f"{name}: expected the labels {listed(values)}, received fractions between {low:.4g} "
            f"and {high:.4g}; choose no labels if these are probabilities, and check that the "
            "label map was not interpolated"
        )
    exact, largest = 2 ** (np.finfo(array.dtype).nmant + 1), max(values, key=abs)
    if abs(largest) > exact:
        raise VolumeError(
            f"{name}: its voxels are {array.dtype.name}, in which labels above {exact} such as "
            f"{largest} cannot be told apart; save the label map as whole numbers (int64, uint64)"
        )


def are_whole(array):
    """Whether all voxels (x, y, z) are whole numbers, but for the rounding of a scaled header."""
    if array.dtype.kind in "biu":
        return True
    return all(np.all(np.abs(plane - np.rint(plane)) <= _ROUNDING) for plane in array)


def object_of(array, name):
    """The object of a mask (x, y, z), finite: float32 from 0 (outside) to 1 (inside).

    Of two values the larger is the object. Of whole numbers all but 0 are. Others are
    probabilities from 0 to 1, which stay, or have two levels, that of the background and that of
    the object, between which they are scaled; or they are per cent, or 0 to 255. Raises
    `VolumeError` with the values where none of that is clear; `name` is of the file.
    """
    values, counts = np.unique(array, return_counts=True)
    values = values.astype(np.float64)
    whole = np.rint(values)
    if np.abs(values - whole).max() > _ROUNDING:
        return _of_fractions(array, values, counts, name)
    labels = np.unique(whole)
    zeros = counts[whole == 0].sum()
    if labels.size == 2 and labels[1] > 0:
        inside = array >= labels.mean()
        if inside[np.ix_(*[[0, -1]] * 3)].all():
            text = "%s: its object, %g, fills all corners of the image; check that the mask is not "
            _logger.warning(text + "inverted", name, labels[1])
        return inside.astype(np.float32)
    if labels.size > _MANY and not _is_patchy(array, labels):
        return _of_fractions(array, values, counts, name)  # rounded to 8 bits
    if labels.size > _MOST:
        raise _unclear(labels, name, "as an image has")
    if labels[0] < 0:
        raise _unclear(labels, name, "labels below 0, which may be the object's or not")
    if labels.size > 1 and zeros < _ZEROS * array.size:
        raise _unclear(labels, name, "of which 0 is not the background")
    if labels.size > 2:
        text = "%s: all its labels but 0 are taken for the object: %s; --labels chooses"
        _logger.info(text, name, listed(labels[labels > 0]))
    return (np.abs(array) > 0.5).astype(np.float32)


def _of_fractions(array, values, counts, name):
    low, high = values[0], values[-1]
    levels = _levels(values, counts)
    if -_RINGING <= low < 0.5 and high <= 1 + _RINGING:
        # Without a level of the object it may be an object that is nowhere probable.
        if levels is None or not levels[0] < 0.5 <= levels[1]:
            levels = 0.0, 1.0
        elif levels[0] < 0.02 and levels[1] > 0.98:
            levels = 0.0, 1.0
        return _scaled(array, *levels)
    if levels and levels[1] > 0:
        if _has_labels(values, counts, levels):
            raise _unclear(values, name, "labels and fractions, as after an interpolation")
        return _scaled(array, *levels)
    for least, most, full in _FULL:
        inside, sure = (counts[values >= part * full].sum() for part in (0.5, 0.9))
        if -0.05 * full <= low and least <= high <= most and sure > 0.1 * inside:
            return _scaled(array, 0.0, full)
    raise _unclear(values, name, "as an image has")


def _has_labels(values, counts, levels):
    """Whether many of the values beside the levels are whole numbers, and others are not."""
    beside = np.abs(values[:, None] - levels).min(axis=1) > np.ptp(values) / _BINS
    whole = beside & (np.abs(values - np.rint(values)) <= _ROUNDING)
    number, inside = counts[whole].sum(), counts[values >= np.mean(levels)].sum()
    return whole.sum() < beside.sum() and number > max(0.2 * counts[beside].sum(), 0.01 * inside)


def _is_patchy(array, labels):
    """Whether neighbours are mostly equal, as in label maps, where they are not an extreme."""
    for axis in range(3):
        moved = np.moveaxis(array, axis, 0)
        first, second = moved[:-1], moved[1:]
        between = (first > labels[0] + 0.5) & (first < labels[-1] - 0.5)
        if np.count_nonzero(between & (first == second)) > 0.5 * np.count_nonzero(between):
            return True
    return False


def _levels(values, counts):
    """The most frequent value of the lower half of the range, and of the upper.

    None unless half of either half lies within a hundredth of the range of it, and the latter in
    the last third of the range; what lies beyond is ringing.
    """
    low, high = values[0], values[-1]
    if low == high:
        return None
    bins = np.rint((values - low) / (high - low) * _BINS).astype(int)
    sizes = np.bincount(bins, counts, _BINS + 1)
    levels, middle = [], _BINS // 2
    for half, first in ((sizes[:middle], 0), (sizes[middle:], middle)):
        peak = int(half.argmax())
        if half[max(0, peak - 1) : peak + 2].sum() < 0.5 * half.sum():
            return None
        inside = bins == first + peak
        if first and peak + first < _TOP:
            return None
        levels.append(float(values[inside][counts[inside].argmax()]))
    return levels


def _scaled(array, background, top):
    result = (array.astype(np.float32) - np.float32(background)) / np.float32(top - background)
    return np.clip(result, 0, 1, out=result)


def _unclear(values, name, what):
    """A `VolumeError` that lists the values."""
    number = f"{values.size} different values from {values[0]:.6g} to {values[-1]:.6g}"
    held = listed(values) if values.size <= _LISTED else number
    return VolumeError(
        f"{name}: holds {held}, {what}; expected a mask: 0 and another value, or probabilities; "
        "name the values of the object if it is a label map (--labels)"
    )


def islands(binary, fraction):
    """The voxels of a mask (bool) in parts below a fraction of the largest one's volume.

    Parts are connected by 26 neighbours, as `connected_components` counts them. Returns a bool
    array, and how many such parts there are.
    """
    parts, _ = ndimage.label(binary, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    small = sizes < fraction * sizes.max()
    small[0] = False
    return small[parts], int(small.sum())


def listed(values):
    """Values separated by commas; of many the first, the last and how many there are."""
    shown = [*values[:_LISTED], *values[-1:]]
    texts = [f"{value:.6g}" if value % 1 else str(int(value)) for value in shown]
    more = f" ... {texts[-1]} ({len(values)} values)" if len(values) > _LISTED else ""
    return ", ".join(texts[:-1]) + more
