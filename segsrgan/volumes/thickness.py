# SPDX-License-Identifier: MIT
"""How thick the slices of a scan are: what its files say, and what its voxels show."""

import json
import logging
import math

import numpy as np
from scipy import fft, optimize

from segsrgan.errors import UserError
from segsrgan.tables import stem
from segsrgan.volumes.resampling import apply_matrices, profile_matrix
from segsrgan.volumes.volume import Grid

_logger = logging.getLogger(__name__)

_WIDTHS = (0.2, 2.0)  # over the distance of the slices, within which the width is looked for
_BANDS = np.linspace(0.15, 0.5, 6)  # cycles per slice distance, over which spectra are compared
_FEWEST = 8  # slices, and in-plane lines' samples after decimation, that make a spectrum
_LINES = 96  # along an axis, at most
_POINTS = 64  # of a spectrum, at least: lines are padded to as many
_AT_BOUND = 0.05  # so near one of them there is no minimum
_UNCLEAR = 0.03  # mean square difference of the log spectra, from which on they do not match
DOUBT = 0.25  # relative difference of the estimate from the thickness that is taken
_ROUNDED = 0.02  # relative, by which headers round


def stated_thickness(volume, name, declared=None, thickness=None, gap=None):
    """The thickness of a scan's slices that somebody says, mm; None where nobody does.

    That is the one asked for, else the one declared, but at most the distance of the slices:
    slices that overlap are mostly interpolated ones.

    Args:
        volume: the scan.
        name: of the scan, for messages.
        declared: by its files, mm or None.
        thickness: asked for, mm or None.
        gap: asked for, between the slices, mm or None.

    Raises:
        UserError: if the thickness asked for is more than twice the distance, or the gap as wide.
    """
    axis = volume.grid.thick_axis
    if axis is None:
        if thickness is not None or gap is not None:
            _logger.warning("%s: no axis has thicker slices; its thickness is not used", name)
        return None
    distance = volume.spacing[axis]
    if gap is not None and gap >= distance:
        raise UserError(
            f"{name}: gap must be less than the distance of the slices, {distance:g} mm, received "
            f"{gap:g}; a gap is what lies between them"
        )
    if (thickness or 0) > 2 * distance * (1 + 1e-4):  # headers round
        raise UserError(
            f"{name}: thickness must be at most twice the distance of the slices, {distance:g} mm, "
            f"received {thickness:g}"
        )
    if gap is not None:
        return distance - gap
    if thickness is not None or declared is None:
        return thickness
    if not 0 < declared <= 2 * distance * (1 + _ROUNDED):
        text = "%s: a SliceThickness of %g mm is not used, its slices are %g mm apart"
        _logger.warning(text, name, declared, distance)
        return None
    if declared < distance * (1 - _ROUNDED):
        _logger.info("%s: slices of %g mm, %g mm apart", name, declared, distance)
    return min(declared, distance)


def taken_thickness(volume, name, stated=None, width=None):
    """The thickness that a scan is processed with, mm; None: the distance of its slices.

    That is what is stated; where nothing is, what the voxels show, if that is clearly less than
    the distance. A warning says if they show another one than is stated.

    Args:
        volume: the scan.
        name: of the scan, for messages.
        stated: see `stated_thickness`.
        width: that the voxels show, see `estimated_width`, or None.
    """
    if width is None:
        return stated
    distance = volume.spacing[volume.grid.thick_axis]
    seen, taken = width * distance, stated or distance
    if abs(seen / taken - 1) <= DOUBT:
        return stated
    if stated is None and width < 1:
        taken = seen
    _logger.warning(
        "%s: its slices look %.2g mm thick, %.2g mm apart; they are taken as %.2g mm thick, "
        "set thickness or gap if that is wrong",
        name,
        seen,
        distance,
        taken,
    )
    return taken


def sidecar_thickness(path, volume):
    """The SliceThickness in the BIDS sidecar of an image, mm; None without one that fits.

    A sidecar whose SpacingBetweenSlices is not the distance of the slices describes the image from
    which this one was made.
    """
    sidecar = path.with_name(f"{stem(path)}.json")
    axis = volume.grid.thick_axis
    if axis is None or not sidecar.is_file():
        return None
    try:
        values = dict(json.loads(sidecar.read_bytes()))
    except (OSError, ValueError, TypeError):
        _logger.warning("%s: is not a BIDS sidecar; its slice thickness is not used", sidecar)
        return None
    thickness = values.get("SliceThickness", np.nan)
    distance = values.get("SpacingBetweenSlices", volume.spacing[axis])
    if not all(isinstance(value, (int, float)) for value in (thickness, distance)):
        _logger.warning(
            "%s: SliceThickness and SpacingBetweenSlices must be numbers of mm, received %r and "
            "%r; they are not used",
            sidecar,
            thickness,
            distance,
        )
        return None
    is_same = np.isclose(distance, volume.spacing[axis], rtol=_ROUNDED)
    return thickness if is_same and 0 < thickness < np.inf else None


def estimated_width(volume):
    """The width of the slice profile over the distance of the slices, from the voxels alone.

    Heads look alike along all axes. So lines in the plane, blurred by the right Gaussian and
    decimated to the distance of the slices, have the power spectrum of the lines across the slices
    (of an image blurred as much along the other axis in the plane). Either axis in the plane has a
    full width at half maximum with which the shapes of the spectra differ least. Heads are not
    quite alike, so the width nearer to 1 counts: most slices are as thick as they lie apart. It
    is a float of 0.2 to 2; None where the spectra of an axis differ with any, as of motion, or
    where slices are few or less than twice as far apart as voxels in the plane.
    """
    axis, array = volume.grid.thick_axis, _object(volume.array)
    spacing = volume.spacing
    if axis is None or array is None or spacing[axis] < 2 * min(spacing):
        return None
    grid, distance = Grid(array.shape, spacing), spacing[axis]
    if min(np.multiply(array.shape, spacing)) < _FEWEST * distance:
        return None
    coarse = grid.corner_aligned(distance)
    first, second = (k for k in range(3) if k != axis)

    def width(line, other):
        inner, through = _thinned(array, {axis, other}), _thinned(array, {line})

        def misfit(width):
            decimated = profile_matrix(grid, coarse, line, width * distance)
            few = profile_matrix(grid, coarse, other, width * distance)
            few = few[:: _step(len(few))]
            expected = _spectrum(_along(line, decimated, inner), line)
            return np.var(expected - _spectrum(_along(other, few, through), axis))

        return _least(misfit)

    widths = width(first, second), width(second, first)
    return None if None in widths else min(widths, key=lambda width: abs(math.log(width)))


def _least(misfit):
    """The width of the least misfit; None where there is none, or it is too large."""
    widths = np.linspace(*_WIDTHS, 10)
    nearest = min(widths, key=misfit)
    bounds = np.clip((nearest - 0.2, nearest + 0.2), *_WIDTHS)
    found = optimize.minimize_scalar(misfit, bounds=bounds, options={"xatol": 0.02})
    # At a bound of the search there is no minimum.
    is_inside = _WIDTHS[0] + _AT_BOUND < found.x < _WIDTHS[1] - _AT_BOUND
    return float(found.x) if found.fun < _UNCLEAR and is_inside else None


def _object(array):
    """The part of an image that is not all background; None where all is."""
    inside = array > array.min()
    if not inside.any():
        return None
    box = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(places[0], places[-1] + 1))
    return array[tuple(box)]


def _step(size):
    """Every how many of so many lines are enough for a spectrum."""
    return -(-size // _LINES)


def _thinned(array, axes):
    steps = [_step(size) if k in axes else 1 for k, size in enumerate(array.shape)]
    return array[tuple(slice(None, None, step) for step in steps)]


def _along(axis, matrix, array):
    """An array blurred and decimated along one axis by its matrix."""
    matrices = [matrix if k == axis else np.eye(size) for k, size in enumerate(array.shape)]
    return apply_matrices(matrices, array)


def _spectrum(array, axis):
    """The logarithm of the lines' mean power spectrum in each band."""
    lines = np.moveaxis(array, axis, -1)
    lines = lines - lines.mean(axis=-1, keepdims=True)
    size = lines.shape[-1]
    points = max(size, _POINTS)
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    power = np.abs(fft.rfft(lines * window, points, axis=-1)) ** 2
    power, places = power.reshape(-1, power.shape[-1]).mean(0), fft.rfftfreq(points)
    bands = zip(_BANDS[:-1], _BANDS[1:], strict=True)
    means = [power[(places >= low) & (places <= high)].mean() for low, high in bands]
    return np.log(np.maximum(means, np.finfo(float).tiny))
