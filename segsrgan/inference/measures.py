# SPDX-License-Identifier: MIT
"""What can be measured of a scan and its segmentation without any truth; `verdict` judges it."""

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from segsrgan.inference.consistency import DARK, SURE, noise_of

POSSIBLE = 0.05  # probability from which on a voxel is not ruled out

_COARSE = 2.0  # mm, of the voxels on which a head is measured
_FINE = 1.0  # mm, of the pixels in which slices are compared
_CONSTANT = 1e-3  # of the range
_SKULL = (8.0, 20.0)  # mm below the surface of a head
_FILLED = 0.25  # of the largest slice's area; smaller ones have little to compare
_SUBPIXEL = 10  # parts of a pixel
_WIDE = 1.6  # mm, of voxels too large for a sheet as thin as the cortex
_UNSURE = (0.25, 0.75)  # probabilities
_ML, _CM2 = 1e-3, 1e-2  # of a cubic and a square millimetre
# Of the surface over the two-thirds power of the head's volume: a fetus's, an adult's; the volume
# in ml from which on brains fold.
_FOLDING, _SMOOTH = (10, 19), 400


def scan_measures(scan):
    """What a scan shows, a dict of floats.

    Args:
        scan: `Volume`, its intensities in [0, 1] by `Normalisation`.

    Returns:
        - `noise_fraction`: standard deviation of the noise over the range, see `noise_of`.
        - `values`: how many different intensities, of voxels up to 2 mm apart.
        - `background`: median along the edges of the volume, of the range.
        - `slice_shift`: median over the slices along the thickest axis of how far, in mm, each lies
          beside the mean of its two neighbours (phase correlation); where there are such slices.
        - of the largest object that is not background, holes in its planes filled:
          `head_volume` in ml, `head_length`, the longest edge of its box in mm,
          `head_elongation`, that over the shortest, `head_cut`, the largest fraction of its
          cross-section that lies in the first or last plane of an axis, `head_dark`, the fraction
          as dark as the background 8 to 20 mm below its surface, and `background_constant`, the
          fraction of what is not near it that has the background's value.
    """
    noise, array = noise_of(scan), scan.array
    background = background_of(array)
    measures = {"noise_fraction": noise, "background": background, **slice_shift(scan)}
    steps = _steps(scan.spacing, _COARSE)
    coarse = array[tuple(slice(None, None, step) for step in steps)]
    measures["values"] = int(np.unique(coarse).size)
    bright = np.abs(coarse - background) > max(DARK, SURE * noise)
    if not bright.any():
        return measures | {"head_volume": 0.0}
    spacing = np.multiply(scan.spacing, steps)
    return measures | _head_measures(coarse, bright, background, spacing)


def background_of(array):
    """The median of the twelve edges of an array (x, y, z)."""
    edges = [
        np.moveaxis(array, axis, 0)[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel() for axis in range(3)
    ]
    return float(np.median(np.concatenate(edges)))


def _head_measures(coarse, bright, background, spacing):
    head = _filled(_largest(bright))
    sections = [head.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    places = [np.flatnonzero(section) for section in sections]
    size = sorted((p[-1] - p[0] + 1) * mm for p, mm in zip(places, spacing, strict=True))
    cut = max(max(section[0], section[-1]) / section.max() for section in sections)
    box = tuple(slice(p[0], p[-1] + 1) for p in places)
    depth = ndimage.distance_transform_edt(np.pad(head[box], 1), spacing)[1:-1, 1:-1, 1:-1]
    inner = (depth > _SKULL[0]) & (depth <= _SKULL[1])
    measures = {
        "head_volume": float(head.sum() * np.prod(spacing) * _ML),
        "head_length": float(size[-1]),
        "head_elongation": float(size[-1] / size[0]),
        "head_cut": float(cut),
    }
    if inner.any():
        measures["head_dark"] = float(1 - bright[box][inner].mean())
    ground = coarse[~ndimage.binary_dilation(head, iterations=2)]
    if ground.size:
        equal = np.abs(ground - background) < _CONSTANT
        measures["background_constant"] = float(equal.mean())
    return measures


def _largest(binary):
    """The largest part, connected by faces, of a mask (x, y, z) that is not empty."""
    parts, _ = ndimage.label(binary)
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _filled(binary):
    """A mask (x, y, z) with the holes in the planes across each axis filled."""
    filled = binary.copy()
    for axis in range(3):
        plane = np.zeros((3, 3, 3), bool)
        np.moveaxis(plane, axis, 0)[1] = True
        filled |= ndimage.binary_fill_holes(binary, plane)
    return filled


def slice_shift(scan):
    """`slice_shift` of `scan_measures`, a dict; empty with fewer than three slices to compare."""
    axis = int(np.argmax(scan.spacing))
    plane = np.delete(scan.spacing, axis)
    steps = _steps(plane, _FINE)
    slices = np.moveaxis(scan.array, axis, 0)[:, :: steps[0], :: steps[1]]
    areas, shifts = (slices > DARK).sum((1, 2)), []
    for k in range(1, len(slices) - 1):
        if areas[k - 1 : k + 2].min() > _FILLED * areas.max():
            beside = (slices[k - 1] + slices[k + 1]) / 2
            options = {"upsample_factor": _SUBPIXEL, "normalization": None}
            pixels, *_ = phase_cross_correlation(beside, slices[k], **options)
            shifts.append(np.linalg.norm(pixels * plane * steps))
    return {"slice_shift": float(np.median(shifts))} if shifts else {}


def _steps(spacing, least):
    """Every how many voxels are taken along each axis, so that they are at most `least` mm."""
    return [max(1, int(least / size + 0.01)) for size in spacing]


def mask_measures(probability, mask, small, parts, spacing, head_volume=0.0):
    """What a segmentation looks like, a dict of numbers.

    Args:
        probability: float (x, y, z) in [0, 1].
        mask: bool (x, y, z), where that reaches the threshold.
        small: bool (x, y, z), the islands of the mask, see `islands`.
        parts: how many islands there are.
        spacing: of the voxels, mm.
        head_volume: of the scan, ml, see `scan_measures`.

    Returns:
        - `volume` in ml, without islands; `islands`, how many.
        - of voxels up to 1.6 mm, `in_islands`, the fraction of the mask in islands; where there is
          a mask, `thickness` in mm, twice the volume over the surface; where there is a head, too,
          `folding`: that surface in cm^2 over the two-thirds power of the head's volume in ml, over
          what it usually is: 10 up to 400 ml, from there on in proportion to the root of the
          volume, up to 19.
        - `unsure`: of the voxels whose probability is above 0.05 the fraction for which it lies
          between 0.25 and 0.75.
    """
    whole, possible = mask & ~small, np.count_nonzero(probability > POSSIBLE)
    unsure = np.count_nonzero((probability > _UNSURE[0]) & (probability < _UNSURE[1]))
    volume, surface = whole.sum() * float(np.prod(spacing)), 0.0
    for axis in range(3):
        faces = np.count_nonzero(np.diff(np.pad(whole, 1), axis=axis))
        surface += faces * float(np.prod(np.delete(spacing, axis)))
    # Over all directions the faces of voxels have 3/2 of the surface that they approximate.
    surface *= 2 / 3
    found = {"volume": float(volume * _ML), "islands": parts, "unsure": unsure / max(1, possible)}
    if max(spacing) > _WIDE:
        return found
    found["in_islands"] = float(small.sum() / max(1, mask.sum()))
    if surface:
        found["thickness"] = float(2 * volume / surface)
    if surface and head_volume:
        usual = min(max(_FOLDING[0], _FOLDING[0] * (head_volume / _SMOOTH) ** 0.5), _FOLDING[1])
        found["folding"] = float(surface * _CM2 / head_volume ** (2 / 3) / usual)
    return found
