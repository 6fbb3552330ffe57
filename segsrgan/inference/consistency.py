# SPDX-License-Identifier: MIT
"""A super-resolved image whose slices, blurred and decimated again, are those of the scan.

The scan x is known, and so is how it came about from the true image: x = A y + noise, where A is
the slice profile and the decimation along each axis. Of all images the one nearest to the network's
y that explains the scan is

    y' = y + A^T (A A^T + s^2 I)^-1 (x - A y),

where s^2 is the variance of the noise over that of the network's error. Where A is right and the
noise 0, this is a projection onto a set that holds the truth: no error grows. A is separable, so
the eigenvectors of one small matrix per axis solve it exactly, for all voxels at once.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from segsrgan.volumes.resampling import apply_matrices, profile_matrix, resample_to
from segsrgan.volumes.volume import Volume

DARK = 0.05  # of the range; what differs less from the background belongs to it
SURE = 3  # times the noise; from there on a difference is no noise

_WIDTHS = (0.3, 1.3)  # of the profile over the thickness, within which the likeliest is looked for
_LEAST = 1e-6  # s^2 over the mean of A A^T's eigenvalues, at least: beyond float32's precision
_RESPONSE = 6.0  # of Immerkaer's mask to a deviation of 1
_SAMPLE, _SLICES = 2**21, 16  # voxels, and slices, of which the noise is estimated
_MEDIAN = 0.6745  # of the absolute value of a normal variable


@dataclass(frozen=True, eq=False)
class Consistent:
    """A corrected image, and how well the network's agreed with the scan before."""

    volume: Volume  # float32, on the grid of the network's image
    scan: Volume  # x, interpolated where the image is coarser
    contradiction: Volume | None  # x - A y before, on that grid; None where nothing is finer
    noise: float  # standard deviation, in the scan's intensities
    width: float | None = None  # of the profile that was taken, over the slices' distance
    correction: float = 0.0  # fraction of the contradiction that is taken back, of 0 to 1

    @property
    def residual(self):
        """Root mean square of the contradiction, in the scan's intensities; 0 without any."""
        return 0.0 if self.contradiction is None else rms(self.contradiction.array)


def make_consistent(image, scan, thickness=None, width=None, noise=None):
    """Corrects a super-resolved image by the scan that it was made of.

    Axes along which the image is not finer are left as they are: the scan is interpolated there.

    Args:
        image: `Volume` in the scan's intensities; its grid is one of `scan.grid.corner_aligned`.
        scan: the `Volume` as acquired.
        thickness: of the slices, mm; None: the distance of their centres.
        width: full width at half maximum of the Gaussian profile, over the thickness and, along
            other axes where the image is finer, over the scan's voxel size; None: the one of 0.3
            to 1.3 with which the image contradicts the scan least.
        noise: standard deviation of the scan's noise; None: `noise_of` it.

    Returns:
        A `Consistent`. With more noise than contradiction the image is the one received.
    """
    noise = noise_of(scan) if noise is None else noise
    sizes = zip(image.grid.spacing, scan.grid.spacing, strict=True)
    fine = [axis for axis, (new, old) in enumerate(sizes) if new < old * (1 - 1e-6)]
    if not fine:
        return Consistent(image, scan, None, noise)
    grid = scan.grid.corner_aligned(np.maximum(image.grid.spacing, scan.grid.spacing))
    seen = scan if grid.is_close(scan.grid) else resample_to(scan, grid)
    profile = np.array(grid.spacing)
    if thickness is not None and scan.grid.thick_axis in fine:
        profile[scan.grid.thick_axis] = thickness
    width = width or _likeliest_width(image, seen, fine, profile)
    matrices = _acquisition(image.grid, grid, fine, width * profile)
    residual = seen.array - apply_matrices(matrices, image.array)
    values, vectors = zip(*(np.linalg.eigh(m @ m.T) for m in matrices), strict=True)
    power = math.prod(np.ix_(*values)).astype(np.float32)
    mean = float(power.mean())
    # What the scan contradicts is the network's error, seen through A, and the noise.
    error = max(rms(residual) ** 2 - noise**2, 0.0) / mean
    share = max(noise**2 / error, _LEAST * mean) if error > 0 else math.inf
    contradiction = Volume.from_grid(residual, grid)
    if math.isinf(share):
        return Consistent(image, seen, contradiction, noise, width)
    change = apply_matrices([v.T for v in vectors], residual)
    change /= power + np.float32(share)
    change = apply_matrices([m.T @ v for m, v in zip(matrices, vectors, strict=True)], change)
    change += image.array
    volume = Volume.from_grid(change, image.grid)
    return Consistent(volume, seen, contradiction, noise, width, mean / (mean + share))


def noise_of(scan):
    """The standard deviation of a scan's noise, from its slices; 0 without any.

    Immerkaer's mask (1996), which does not see constants, ramps and straight edges, where there is
    no background; the median, because fine anatomy remains. Of more than 2 million voxels every
    n-th slice is taken, at least 16 slices.
    """
    array, thick = scan.array, scan.grid.thick_axis
    dark = float(array.min()) + DARK * float(np.ptp(array))
    slices = np.moveaxis(array, 2 if thick is None else thick, 0)
    step = max(1, min(array.size // _SAMPLE, len(slices) // _SLICES))
    values = slices[step // 2 :: step].astype(np.float32)
    inside = values > dark
    for _ in range(2):
        if values.shape[1] < 3:
            return 0.0
        # The mask is separable: 1, -2, 1 along one axis, then, the axes exchanged, the other.
        before, middle, after = values[:, :-2], values[:, 1:-1], values[:, 2:]
        values = (before - 2 * middle + after).swapaxes(1, 2)
        inside = (inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]).swapaxes(1, 2)
    values = np.abs(values[inside])
    return float(np.median(values)) / _MEDIAN / _RESPONSE if values.size else 0.0


def rms(array):
    """Root mean square of an array."""
    return math.sqrt(np.mean(np.square(array, dtype=np.float64)))


def _acquisition(image, scan, fine, widths):
    """A: a matrix (scan's size, image's size) per axis; ones where the image is not finer."""
    return [
        profile_matrix(image, scan, axis, widths[axis])
        if axis in fine
        else np.eye(scan.shape[axis])
        for axis in range(3)
    ]


def _likeliest_width(image, scan, fine, profile):
    def misfit(width):
        matrices = _acquisition(image.grid, scan.grid, fine, width * profile)
        return rms(scan.array - apply_matrices(matrices, image.array))

    options = {"xatol": 0.02}
    return float(optimize.minimize_scalar(misfit, bounds=_WIDTHS, options=options).x)
