# SPDX-License-Identifier: MIT
"""The intensities of an image: the range that its voxels use, its background, its normalisation.

Padding outside the field of view and single voxels that overflowed belong to no tissue. They must
not set the range to which networks see everything else.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_logger = logging.getLogger(__name__)

_SAMPLE = 2**18  # voxels of which percentiles are taken
_FEWEST = 100  # voxels that make a percentile
_BRIGHT = 99.5  # percentile of what is brighter than the background
_FAR = 4  # times that percentile; real scans reach 2.9
_KEPT = 2  # times that percentile, up to which voxels still count where some lie far beyond
_DARK = 5  # percentile of what is brighter than the minimum
_MARGIN = 0.1  # of the range from that percentile on
_PADDED = 0.01  # fraction of the voxels; so many equal ones were written by a program
_AIR = (-1100, -900)  # Hounsfield units
_FULL = 0.7  # of the fullest slice; an object does not end beside a slice so full
_LITTLE = 1  # % of a slice that an object fills at least
_ALTERNATING = 2  # times the contrast of those beside them, in three of four slices
_HOT = 3  # times its neighbours' brightness, and 2 times that of any other slice
_GREY = 0.15  # of the range; a background above it is not dark
_LARGE = 0.2  # fraction of the voxels that only a background fills with one value
_LEVEL = 1e-3  # of the range; background may deviate so much
_ZEROS = 0.05  # fraction of the voxels; so many zeros are the background


def usual_range(array, name=None, across=None):
    """The lowest and highest intensity, isolated extremes and padding aside.

    They are the minimum and the maximum, unless

    - one or two slices are 3 times as bright as their neighbours and twice as bright as any other:
      they do not count;
    - the maximum lies more than 4 times as far above 0 (or a negative minimum) as the 99.5th
      percentile of what is brighter than the most frequent value; then voxels beyond twice that
      percentile do not count;
    - the minimum is padding. At least 1 % of the voxels have it, and it lies further below 0 (or
      the 5th percentile of the rest, if negative) than the 99.5th percentile lies above, or below
      the air of a CT; or fewer have it, 4 times as far.

    Args:
        array: of any shape, finite.
        name: of the image, for warnings of such voxels, of slices that are empty or alternately
            bright and dark, and of a background that is not dark; None: no warnings.
        across: the axis across the slices, if there is one: a lost slice may be its last.
    """
    sample = array.flat[:: array.size // _SAMPLE | 1].astype(np.float64)
    values, counts = np.unique(sample, return_counts=True)
    usual = values[counts.argmax()]
    above = sample[sample > usual]
    lowest, highest = float(np.min(array)), float(np.max(array))
    top = np.percentile(above, _BRIGHT, method="lower") if above.size >= _FEWEST else highest
    low, high = lowest, highest
    if values.size > 1:
        bottom = min(0, np.percentile(sample[sample > values[0]], _DARK, method="lower"))
        spread = top - bottom
        is_block = counts[0] >= max(_FEWEST, _PADDED * sample.size)
        is_far = lowest < bottom - spread * (1 if is_block else _FAR)
        is_below_air = is_block and lowest < _AIR[0] < bottom < _AIR[1]
        if spread > 0 and (is_far or is_below_air):
            kept = array >= bottom - _MARGIN * spread  # not what interpolation left at the padding
            low = float(np.min(array, where=kept, initial=highest))
    base = min(0.0, low)
    axis, hot = _hot_slices(array, base)
    if hot.size:
        low, high = usual_range(np.delete(array, hot, axis), name, across)
        if name:
            text = (
                "%s: %s far brighter than what lies beside, left out of the range and clipped at "
            )
            text += "%.6g"
            _logger.warning(text, name, _slice_numbers(array, axis, hot), high)
        return low, high
    if highest - base > _FAR * (top - base):
        high = float(np.max(array, where=array <= base + _KEPT * (top - base), initial=low))
    if name:
        for text in (
            *_doubtful_slices(array, across),
            *_extremes(array, (lowest, low), (highest, high), top),
            *_backgrounds(array, sample, usual, (base, top, high)),
        ):
            _logger.warning("%s: %s", name, text)
    return low, high


def _slices(array):
    """For each axis it and the slices along it, with some of their voxels in large images."""
    step = math.isqrt(array.size // _SAMPLE) + 1
    for axis in range(3 if array.ndim == 3 and min(array.shape) > 3 else 0):
        yield axis, np.moveaxis(array, axis, 0)[:, ::step, ::step].astype(np.float64)


def _hot_slices(array, base):
    """The axis along which brightness jumps for a slice or two, and their indices, mostly none."""
    for axis, slices in _slices(array):
        bright = np.percentile(slices, 95, axis=(1, 2)) - base
        hot = bright > _HOT * ndimage.median_filter(bright, 5, mode="constant")
        if 0 < hot.sum() <= bright.size / 4 and bright[hot].min() > 2 * bright[~hot].max() > 0:
            return axis, np.flatnonzero(hot)
    return 0, np.empty(0, int)


def lost_slices(array, across=None):
    """Yields axis and indices of slices of one value, one or two beside others of many.

    Of an array (x, y, z), for each axis that has some. `across` the slices there may be any number
    between others, and one or two at either end.
    """
    for axis, slices in _slices(array):
        is_filled = _contrast(slices) > 0
        is_lost = _closed(slices, is_filled, axis == across) & (np.ptp(slices, axis=(1, 2)) == 0)
        if is_lost.any():
            yield axis, np.flatnonzero(is_lost)


def alternating_slices(array):
    """Yields axis and ratio where every second slice has over twice the contrast of the others.

    Of an array (x, y, z).
    """
    for axis, slices in _slices(array):
        contrast = _contrast(slices)
        steps = np.diff(np.log(contrast[contrast > 0]))
        steps[1::2] *= -1
        low, middle, high = np.percentile(steps, (25, 50, 75)) if steps.size > 3 else (0, 0, 0)
        if max(low, -high) > np.log(_ALTERNATING):
            yield axis, float(np.exp(abs(middle)))


def _contrast(slices, tail=5):
    return np.ptp(np.percentile(slices, (tail, 100 - tail), axis=(1, 2)), axis=0)


def _doubtful_slices(array, across):
    """Texts on slices that are empty beside others, or of another scale than those beside them."""
    for axis, indices in lost_slices(array, across):
        numbers = _slice_numbers(array, axis, indices)
        yield f"{numbers} empty beside others: if anything was lost, give the whole scan"
    for axis, ratio in alternating_slices(array):
        yield (
            f"every second slice along axis {axis + 1} has about {ratio:.0f} times the contrast of "
            "those beside it: if they are of two images, give one"
        )


def _closed(slices, is_filled, is_stack):
    """Which slices are one or two between filled ones, filled ones included.

    Of a stack also any number between these, and one or two where it ends at a slice that is full.
    """
    ends = False, False
    if is_stack and is_filled.any():
        values, least = slices[[0, -1], 0, 0], _LEVEL * np.ptp(slices)
        full = np.array([np.mean(np.abs(slices - v) > least, axis=(1, 2)) for v in values])
        ends = full[[0, 1], np.flatnonzero(is_filled)[[0, -1]]] >= _FULL * full.max(axis=1)
        shown = is_filled | (_contrast(slices, _LITTLE) > 0)
        before, after = (np.logical_or.accumulate(s) for s in (shown, shown[::-1]))
        is_filled = before & after[::-1]
    # Closing fills gaps of one or two.
    padded = np.pad(is_filled, 3, constant_values=tuple(ends))
    return ndimage.binary_closing(padded, np.ones(3))[3:-3]


def _slice_numbers(array, axis, indices):
    """The subject of a sentence on some slices, and its verb: `slices 3, 7-9 of 20 ... are`."""
    runs = np.split(indices + 1, np.flatnonzero(np.diff(indices) > 1) + 1)
    texts = (f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
    noun, verb = ("slices", "are") if len(indices) > 1 else ("slice", "is")
    return f"{noun} {', '.join(texts)} of {array.shape[axis]} along axis {axis + 1} {verb}"


def _extremes(array, minima, maxima, top):
    """Texts on voxels that do not count; minimum and maximum with and without them."""
    (lowest, low), (highest, high) = minima, maxima
    if low > lowest:
        yield (
            f"{np.mean(array < low):.2%} of its voxels lie far below all others ({lowest:.6g}; "
            f"others from {low:.6g}): taken for padding, that is, for background"
        )
    if high < highest:
        times = np.rint((highest - min(0, low)) / (top - min(0, low)))
        yield (
            f"{np.count_nonzero(array > high)} of its voxels are up to {times:.6g} times as bright "
            f"as the {_BRIGHT}th percentile ({top:.6g}): they do not set the range, and come back "
            f"as {high:.6g} at most"
        )


def _backgrounds(array, sample, usual, ends):
    """Texts on backgrounds that are not dark.

    `usual` is the most frequent value; `ends` are 0 or the minimum below it, the 99.5th percentile
    and the highest value that counts.
    """
    (base, top, highest), candidates = ends, [(usual, 0.0)]
    if array.ndim == 3:
        corners = [0, 0, -1, -1], [0, -1, 0, -1]
        edges = [np.moveaxis(array, axis, 0)[:, *corners].ravel() for axis in range(3)]
        low, value, high = np.percentile(np.concatenate(edges), (10, 50, 90)).tolist()
        candidates.append((value, high - low))
    for value, deviation in candidates:
        fraction, place = np.mean(np.abs(sample - value) <= deviation), value - base
        if fraction > _LARGE and place > _GREY * (top - base) > deviation:
            yield (
                f"{fraction:.0%} of its voxels are {'about ' if deviation else ''}{value:.6g}, a "
                f"background that is not dark ({place / (top - base):.0%} of the range), as after "
                "z-scoring or inverting; networks know a dark background: give the image before "
                "that step, or set the background to the minimum"
            )
            break
    rest = sample[sample < highest]
    tissue = rest[rest > usual] if usual < highest else rest
    if tissue.size >= _FEWEST:
        top = np.percentile(tissue, _BRIGHT)
        if base < top and highest - base > _FAR * (top - base):
            yield (
                f"{1 - rest.size / sample.size:.2%} of its voxels are {highest:.6g}, far above all "
                f"others (up to {top:.6g}); if that is padding, set it to 0, for it sets the range"
            )


def foreground(array):
    """Which voxels are not background, bool, of an array of any shape.

    Background is 0 where at least 5 % of the voxels are. Where fewer are, it is the most frequent
    value, give or take a thousandth of the range, if a fifth of the voxels have it; else 0. So is
    padding, see `usual_range`.
    """
    low, high = usual_range(array)
    if np.mean(array == 0) >= _ZEROS:
        return (array != 0) & (array >= low)
    near = _LEVEL * (high - low)
    sample = array.flat[:: array.size // _SAMPLE | 1].astype(np.float64)
    counts, edges = np.histogram(sample, bins=int(1 / _LEVEL), range=(low, high))
    inside = sample[np.abs(sample - edges[counts.argmax()] - near / 2) <= near / 2 * (1 + 1e-6)]
    if low == high or inside.size < _LARGE * sample.size:
        return (array != 0) & (array >= low)
    return (np.abs(array - np.median(inside)) > near) & (array >= low)


@dataclass(frozen=True)
class Normalisation:
    """The linear map of an image's intensities to [0, 1] (SegSRGAN paper, section 3.1).

    Examples:
        >>> normalisation = Normalisation.of(array)
        >>> same = normalisation.invert(normalisation.apply(array))
    """

    shift: float  # subtracted first: the lowest intensity where it is negative, else 0
    scale: float  # divisor: the highest intensity after the shift
    floor: float  # the image's minimum; no inverted value falls below it
    clips: bool = False  # whether there are intensities beyond, see `usual_range`

    @classmethod
    def of(cls, array, name=None, across=None):
        """The normalisation of an array of any shape; `name` and `across` as in `usual_range`.

        Raises `ValueError` if voxels are NaN or infinite (the message counts them), or all equal.
        """
        lowest, highest = float(np.min(array)), float(np.max(array))
        start = f"{name}: " if name else ""
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            bad = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise ValueError(
                f"{start}voxels must be finite numbers, received {bad} of {array.size} NaN or "
                "infinite; replace them, for instance with 0"
            )
        if lowest == highest:
            raise ValueError(
                f"{start}expected contrast, received {array.size} voxels all equal to {lowest:g}; "
                "check that it is the right file"
            )
        low, high = usual_range(array, name, across)
        shift = min(0.0, low)
        scale = high - shift
        if not float(np.finfo(np.float32).tiny) <= scale <= 1e38:
            raise ValueError(
                f"{start}values must reach from 0, or a negative minimum, 1e-38 to 1e38 upwards, "
                f"received {scale:.3g}; scale it to ordinary numbers"
            )
        # Padding becomes 0, as the background of an MR image is.
        return cls(shift, scale, low if low == lowest else shift, (low, high) != (lowest, highest))

    def apply(self, array):
        """Subtract shift and divide by scale: a new float32 array, clipped where `clips` says."""
        with np.errstate(over="ignore"):  # beyond float32 is clipped
            result = np.subtract(array, self.shift, dtype=np.float32)
            result /= np.float32(self.scale)
        return np.clip(result, 0, 1, out=result) if self.clips else result

    def invert(self, array):
        """Multiply by scale and add shift: a new float32 array, never below the floor."""
        result = np.multiply(array, self.scale, dtype=np.float32)
        result += np.float32(self.shift)
        return np.maximum(result, np.float32(self.floor), out=result)


def grey(array, low, high):
    """Intensities as uint8, `low` black and `high` white, what is not a number black."""
    scaled = np.nan_to_num((array - low) / max(high - low, 1e-12), nan=0, posinf=1, neginf=0)
    return (255 * scaled.clip(0, 1)).round().astype(np.uint8)
