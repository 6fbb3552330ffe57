# SPDX-License-Identifier: MIT
"""How far apart the surfaces of two binary arrays lie, in mm."""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.volumes.grid import check_spacing


class SurfaceDistances(NamedTuple):
    """Distances between two surfaces, in mm; both arrays are empty if either surface is.

    Attributes:
        forward: float64 (n,), from each surface voxel of the first to the nearest of the second.
        backward: float64 (m,), from each of the second to the nearest of the first.
    """

    forward: np.ndarray
    backward: np.ndarray

    def hausdorff(self, percentile=95):
        """The larger of the two directed percentiles, in mm; 100 is the Hausdorff distance.

        Two are taken and not the one of both pooled, so that a large surface does not outvote
        a small one (Maier-Hein et al., Metrics reloaded, Nature Methods 2024; also MONAI's
        definition, while MedPy pools).

        Args:
            percentile: 0 to 100, interpolated linearly between distances.

        Returns:
            mm; nan without distances.

        Raises:
            ValueError: if the percentile lies outside 0 to 100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be between 0 and 100, received {percentile!r}")
        if not self.forward.size:
            return math.nan
        return float(max(np.percentile(distances, percentile) for distances in self))

    def mean(self):
        """The average symmetric surface distance, in mm: the mean over all voxels of both.

        (Heimann et al., IEEE Transactions on Medical Imaging 2009.)

        Returns:
            mm; nan without distances.
        """
        count = self.forward.size + self.backward.size
        return float((self.forward.sum() + self.backward.sum()) / count) if count else math.nan


def surface_voxels(binary):
    """The surface voxels: those less the erosion by the six neighbours that share a face.

    What lies beyond the array counts as outside.

    Args:
        binary: (x, y, z); every voxel other than 0 belongs to it.

    Returns:
        A bool array (x, y, z).

    Raises:
        ValueError: if the array has not three axes.
    """
    binary = np.asarray(binary) != 0
    if binary.ndim != 3:
        raise ValueError(f"a binary array has three axes (x, y, z), received {binary.shape}")
    return binary & ~ndimage.binary_erosion(binary)


def surface_distances(a, b, spacing):
    """Distances between the surfaces of two binary arrays, exact for any spacing.

    Measured between voxel centres, `surface_voxels` says which. The arrays are cropped to the box
    around both; each of its voxels takes 12 bytes.

    Args:
        a: (x, y, z); every voxel other than 0 belongs to it.
        b: likewise.
        spacing: mm, one number or three.

    Returns:
        A `SurfaceDistances`, without distances if `a` or `b` is empty.

    Raises:
        ValueError: if the shapes differ or the spacing is not positive and finite.

    Example:
        >>> a, b = np.zeros((2, 9, 9, 9), bool)
        >>> a[2, 4, 4] = b[5, 4, 4] = True
        >>> surface_distances(a, b, (0.5, 0.5, 3.0)).hausdorff()
        1.5
    """
    a, b, spacing = np.asarray(a) != 0, np.asarray(b) != 0, np.array(check_spacing(spacing))
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"arrays must have one shape (x, y, z), received {a.shape}, {b.shape}")
    if not (a.any() and b.any()):
        return SurfaceDistances(np.empty(0), np.empty(0))
    (box,) = ndimage.find_objects((a | b).view(np.uint8))
    a, b = surface_voxels(a[box]), surface_voxels(b[box])
    return SurfaceDistances(_directed(a, b, spacing), _directed(b, a, spacing))


def _directed(source, target, spacing):
    """Distance in mm from each voxel of one surface to the nearest of the other."""
    # Where the nearest voxel lies, not how far: as exact, and a third of the memory.
    nearest = ndimage.distance_transform_edt(
        ~target, sampling=spacing, return_distances=False, return_indices=True
    )
    points = np.nonzero(source)
    squares = sum(
        (step * (there[points] - here)) ** 2
        for step, there, here in zip(spacing, nearest, points, strict=True)
    )
    return np.sqrt(squares)
