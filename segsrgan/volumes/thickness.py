# SPDX-License-Identifier: MIT
"""How thick the slices of a scan are: what its files say, and what its voxels show."""

import json
import logging

import numpy as np
from scipy import optimize

from segsrgan.errors import UserError
from segsrgan.tables import stem
from segsrgan.volumes.resampling import apply_matrices, profile_matrix
from segsrgan.volumes.volume import Volume

_logger = logging.getLogger(__name__)

_WIDTHS = (0.2, 2.0)  # over the distance of the slices, within which the width is looked for
_BANDS = np.linspace(0.15, 0.5, 6)  # cycles per slice distance, over which spectra are compared
_FEWEST = 8  # slices, and in-plane lines' samples after decimation, that make a spectrum
_POINTS = 64  # of a spectrum, at least: lines are padded to as many
_UNCLEAR = 0.03  # mean square difference of the log spectra, from which on they do not match
_DOUBT = 0.25  # relative difference of the estimate from the thickness that is taken
_ROUNDED = 0.02  # relative, by which headers round


def slice_thickness(volume, name, width=None, declared=None, thickness=None, gap=None):
    """The thickness that a scan is processed with, mm; None: the distance of its slices.

    That is what is asked for; else what is declared, if it is less than the distance: slices that
    overlap are mostly interpolated ones; else what the voxels show, if that is clearly less. A
    warning says if the voxels show another one than is asked for or declared.

    Args:
        volume: the scan.
        name: of the scan, for messages.
        width: that the voxels show, see `estimated_width`, or None.
        declared: by its files, mm or None.
        thickness: asked for, mm or None.
        gap: asked for, between the slices, mm or None.

    Raises:
        UserError: if the thickness asked for is more than twice the distance, or the gap as wide.
    """
    axis = volume.grid.thick_axis
    asked = thickness is not None or gap is not None
    if axis is None:
        if asked:
            _logger.warning("%s: no axis has thicker slices; its thickness is not used", name)
        return None
    distance = volume.spacing[axis]
    if gap is not None and gap >= distance:
        raise UserError(
            f"{name}: gap must be less than the distance of the slices, {distance:g} mm, received "
            f"{gap:g}; a gap is what lies between them"
        )
    if (thickness or 0) > 2 * distance:
        raise UserError(
            f"{name}: thickness must be at most twice the distance of the slices, {distance:g} mm, "
            f"received {thickness:g}"
        )
    if gap is not None:
        thickness = distance - gap
    elif not asked and declared is not None and 0 < declared < distance * (1 - _ROUNDED):
        thickness = declared
        _logger.info("%s: slices of %g mm, %g mm apart", name, declared, distance)
    if width is None or abs(width * distance / (thickness or distance) - 1) <= _DOUBT:
        return thickness
    look = f"{name}: its slices look {width * distance:.2g} mm thick"
    if not asked and declared is None and width < 1:
        _logger.warning(
            "%s, %.2g mm apart; they are taken as that thick, thickness or gap says otherwise",
            look,
            distance,
        )
        return width * distance
    what = "are asked for" if asked else "by its header" if declared else "is their distance"
    _logger.warning(
        "%s, %.2g mm %s; thickness or gap corrects it", look, thickness or distance, what
    )
    return thickness


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
        values = json.loads(sidecar.read_bytes())
        thickness = float(values.get("SliceThickness", np.nan))
        distance = float(values.get("SpacingBetweenSlices", volume.spacing[axis]))
    except (OSError, ValueError, TypeError, AttributeError):
        _logger.warning("%s: is not a BIDS sidecar; its slice thickness is not used", sidecar)
        return None
    is_same = np.isclose(distance, volume.spacing[axis], rtol=_ROUNDED)
    return thickness if is_same and 0 < thickness < np.inf else None


def estimated_width(volume):
    """The width of the slice profile over the distance of the slices, from the voxels alone.

    Heads look alike along all axes. So lines in the plane, blurred by the right Gaussian and
    decimated to the distance of the slices, have the power spectrum of the lines across the slices
    (of an image blurred as much along the other axis in the plane). The full width at half maximum
    with which the shapes of the spectra differ least is a float of 0.2 to 2; None where they differ
    with any, as of motion and of images that do differ by direction, or where slices are few or
    less than twice as far apart as voxels in the plane.
    """
    axis, array = volume.grid.thick_axis, _object(volume.array)
    spacing = volume.spacing
    if axis is None or array is None or spacing[axis] < 2 * min(spacing):
        return None
    scan, distance = Volume(array, spacing), spacing[axis]
    plane = [k for k in range(3) if k != axis]
    if min(array.shape[k] * spacing[k] / distance for k in range(3)) < _FEWEST:
        return None

    def misfit(width):
        blurred = {k: _blurred(scan, k, distance, width * distance) for k in plane}
        total = 0.0
        for line, other in (plane, plane[::-1]):
            ratios = _spectrum(blurred[line], line) - _spectrum(blurred[other], axis)
            total += np.var(ratios)
        return total / 2

    widths = np.linspace(*_WIDTHS, 10)
    nearest = widths[np.argmin([misfit(width) for width in widths])]
    bounds = np.clip((nearest - 0.2, nearest + 0.2), *_WIDTHS)
    found = optimize.minimize_scalar(misfit, bounds=bounds, options={"xatol": 0.02})
    return float(found.x) if found.fun < _UNCLEAR else None


def _object(array):
    """The part of an image that is not all background; None where all is."""
    inside = array > array.min()
    if not inside.any():
        return None
    box = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(places[0], places[-1] + 1))
    return np.ascontiguousarray(array[tuple(box)])


def _blurred(scan, axis, distance, thickness):
    """The array of an image blurred along an axis and decimated to the distance of the slices."""
    spacing = [distance if k == axis else size for k, size in enumerate(scan.spacing)]
    grid = scan.grid.corner_aligned(spacing)
    matrices = [np.eye(size) for size in scan.array.shape]
    matrices[axis] = profile_matrix(scan.grid, grid, axis, thickness)
    return apply_matrices(matrices, scan.array)


def _spectrum(array, axis):
    """The logarithm of the lines' mean power spectrum in each band."""
    lines = np.moveaxis(array, axis, -1)
    lines = lines - lines.mean(axis=-1, keepdims=True)
    size = lines.shape[-1]
    points = max(size, _POINTS)
    power = np.abs(np.fft.rfft(lines * np.hanning(size + 2)[1:-1], points, axis=-1)) ** 2
    power, places = power.reshape(-1, power.shape[-1]).mean(0), np.fft.rfftfreq(points)
    bands = zip(_BANDS[:-1], _BANDS[1:], strict=True)
    means = [power[(places >= low) & (places <= high)].mean() for low, high in bands]
    return np.log(np.maximum(means, np.finfo(float).tiny))
