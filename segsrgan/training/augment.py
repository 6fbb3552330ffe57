# SPDX-License-Identifier: MIT
"""Random deformations of training images, on request."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.training.fields import bspline_basis

_NODES_MM = 32.0  # between the nodes of the displacement: about the size of a lobe
_NODES_PER_DISPLACEMENT = 2.5  # a cubic B-spline cannot fold while nodes are 2.1 of it apart
_SLAB = 2**18  # voxels whose coordinates are held at once by a thread
_SLAB_BYTES = 112  # per voxel of it


@dataclass(frozen=True)
class Deformation:
    """A small rotation about the middle and a smooth displacement, new at every draw.

    Attributes:
        rotation: largest angle about each axis, degrees.
        elastic: largest displacement, mm. It is a cubic B-spline (Rueckert et al. 1999) whose
            nodes are far enough apart that it never folds.

    Raises:
        ValueError: if a number is negative, or the angle above 180.
    """

    rotation: float = 0.0
    elastic: float = 0.0

    def __post_init__(self):
        if not 0 <= self.rotation <= 180 or not 0 <= self.elastic < np.inf:
            raise ValueError(
                "rotation must be 0 to 180 degrees and elastic 0 mm or more, "
                f"received {self.rotation} and {self.elastic}"
            )

    def memory(self, voxels):
        """Bytes that `apply` takes at most, the result included."""
        threads = os.cpu_count() or 1
        return voxels * 16 + min(voxels, threads * _SLAB) * _SLAB_BYTES

    def apply(self, image, label, mask, rng):
        """Deforms an image together with its label and mask.

        Args:
            image: a `Volume`; interpolated by cubic splines, within its own range of values.
            label: (x, y, z); bool: the indicator is interpolated linearly and cut at one half;
                any other type: interpolated linearly.
            mask: (x, y, z) of classes, nearest neighbour, or None.
            rng: a `numpy.random.Generator`.

        Returns:
            `(image, label, mask)` on the same grid, 0 where the deformation leads outside.
        """
        if not self.rotation and not self.elastic:
            return image, label, mask
        field = _Field.draw(self, image.array.shape, image.spacing, rng)
        low, high = image.array.min(), image.array.max()
        splines = ndimage.spline_filter(image.array, order=3, output=np.float32)
        indicator = label.view(np.uint8) if label.dtype == bool else label
        results = [np.empty(image.array.shape, np.float32), np.empty_like(label)]
        if mask is not None:
            results.append(np.empty_like(mask))

        def work(slab):
            points = field.coordinates(slab)
            array = ndimage.map_coordinates(splines, points, order=3, prefilter=False)
            np.clip(array, low, high, out=results[0][slab])
            array = ndimage.map_coordinates(indicator, points, np.float32, order=1)
            if label.dtype == bool:
                array = array >= 0.5
            elif label.dtype.kind in "ui":
                array = np.rint(array)
            results[1][slab] = array
            if mask is not None:
                ndimage.map_coordinates(mask, points, results[2][slab], order=0)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(work, _slabs(image.array.shape)))
        return image.with_array(results[0]), results[1], (results[2] if results[2:] else None)


@dataclass(frozen=True)
class _Field:
    """Where each voxel's value comes from: `middle + matrix (index - middle) + displacement`."""

    matrix: np.ndarray  # (3, 3), voxels to voxels
    middle: np.ndarray
    nodes: np.ndarray  # (a, b, c, 3) displacements, voxels
    bases: tuple  # per axis (size, nodes)

    @classmethod
    def draw(cls, deformation, shape, spacing, rng):
        angles = np.deg2rad(rng.uniform(-1, 1, 3) * deformation.rotation)
        spacing = np.asarray(spacing)
        distance = max(_NODES_MM, _NODES_PER_DISPLACEMENT * deformation.elastic)
        bases = tuple(
            bspline_basis(size, distance / mm) for size, mm in zip(shape, spacing, strict=True)
        )
        nodes = rng.standard_normal((*(basis.shape[1] for basis in bases), 3))
        nodes /= np.linalg.norm(nodes, axis=-1, keepdims=True)
        # The B-spline weighs its nodes with positive numbers of sum 1: none goes further.
        nodes *= deformation.elastic * rng.uniform(0, 1, (*nodes.shape[:3], 1)) / spacing
        matrix = rotation(angles) * spacing / spacing[:, None]
        return cls(matrix, (np.array(shape) - 1) / 2, nodes, bases)

    def coordinates(self, slab):
        """Source indices (3, n, y, z) of the voxels of a slab of the first axis."""
        bases = (self.bases[0][slab], *self.bases[1:])
        points = np.einsum("abcd,xa,yb,zc->dxyz", self.nodes, *bases, optimize=True)
        points = np.ascontiguousarray(points)
        ranges = (np.arange(basis.shape[0]) for basis in self.bases)
        x, y, z = (axis - middle for axis, middle in zip(ranges, self.middle, strict=True))
        for row, middle, out in zip(self.matrix, self.middle, points, strict=True):
            out += row[0] * x[slab, None, None]
            out += row[1] * y[:, None] + (row[2] * z + middle)
        return points


def _slabs(shape):
    rows = max(1, _SLAB // (shape[1] * shape[2]))
    return [slice(first, first + rows) for first in range(0, shape[0], rows)]


def rotation(angles):
    """The (3, 3) rotation about x, then y, then z by three angles, radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix
