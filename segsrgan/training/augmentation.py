# SPDX-License-Identifier: MIT
"""Random deformations of training images, by cubic B-splines (Rueckert et al. 1999)."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

_NODES_MM = 32.0  # between the nodes of the displacement: about the size of a lobe
_NODES_PER_DISPLACEMENT = 2.5  # a cubic B-spline cannot fold while nodes are 2.1 of it apart
_SLAB = 2**18  # voxels whose coordinates are held at once by a thread
_SLAB_BYTES = 112  # per voxel of it


@dataclass(frozen=True)
class Deformation:
    """A small rotation about the middle and a smooth displacement that never folds, drawn anew."""

    rotation: float = 0.0  # largest angle about each axis, degrees
    elastic: float = 0.0  # largest displacement, mm

    def __bool__(self):
        return self.rotation > 0 or self.elastic > 0

    def memory(self, voxels):
        """Bytes that `apply` takes at most, the result included."""
        if not self:
            return 0
        threads = os.cpu_count() or 1
        return voxels * 16 + min(voxels, threads * _SLAB) * _SLAB_BYTES

    def apply(self, image, labels, rng, classes=()):
        """Deforms a `Volume` and labels `{name: (x, y, z)}`; 0 where it leads outside.

        The image is interpolated by cubic splines, within its own range of values; labels linearly,
        those of type bool cut at one half, those named as classes by nearest neighbours.
        """
        if not self:
            return image, labels
        field = _Field.draw(self, image.array.shape, image.spacing, rng)
        low, high = image.array.min(), image.array.max()
        splines = ndimage.spline_filter(image.array, order=3, output=np.float32)
        moved_image = np.empty(image.array.shape, np.float32)
        moved = {name: np.empty_like(label) for name, label in labels.items()}

        def move(slab):
            points = field.coordinates(slab)
            array = ndimage.map_coordinates(splines, points, order=3, prefilter=False)
            np.clip(array, low, high, out=moved_image[slab])
            for name, label in labels.items():
                moved[name][slab] = _sampled(label, points, name in classes)

        size, *others = image.array.shape
        rows = max(1, _SLAB // math.prod(others))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(move, (slice(n, n + rows) for n in range(0, size, rows))))
        return image.with_array(moved_image), moved


STILL = Deformation()


@dataclass(frozen=True)
class _Field:
    """Where each voxel's value comes from: `middle + matrix (index - middle) + displacement`."""

    matrix: np.ndarray  # (3, 3), voxels to voxels
    middle: np.ndarray
    nodes: np.ndarray  # (a, b, c, 3) displacements, voxels
    bases: tuple  # per axis (size, nodes)

    @classmethod
    def draw(cls, deformation, shape, spacing, rng):
        angles = rng.uniform(-1, 1, 3) * deformation.rotation
        spacing = np.asarray(spacing)
        distance = max(_NODES_MM, _NODES_PER_DISPLACEMENT * deformation.elastic)
        bases = tuple(
            bspline_basis(size, distance / mm) for size, mm in zip(shape, spacing, strict=True)
        )
        nodes = rng.standard_normal((*(basis.shape[1] for basis in bases), 3))
        nodes /= np.linalg.norm(nodes, axis=-1, keepdims=True)
        # The B-spline weighs its nodes with positive numbers of sum 1: none goes further.
        nodes *= deformation.elastic * rng.uniform(0, 1, (*nodes.shape[:3], 1)) / spacing
        rotation = Rotation.from_euler("XYZ", angles, degrees=True).as_matrix()
        matrix = rotation * spacing / spacing[:, None]
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


def _sampled(label, points, nearest):
    """The values of a label at points."""
    if nearest:
        return ndimage.map_coordinates(label, points, label.dtype, order=0)
    indicator = label.view(np.uint8) if label.dtype == bool else label
    array = ndimage.map_coordinates(indicator, points, np.float32, order=1)
    if label.dtype == bool:
        return array >= 0.5
    return np.rint(array) if label.dtype.kind in "ui" else array


def bspline_basis(size, distance):
    """Weights (size, nodes) of uniform cubic B-splines, positive, those of a voxel of sum 1."""
    cell, t = np.divmod(np.arange(size) / distance, 1)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    basis = np.zeros((size, int(cell[-1]) + 4))
    for k, weight in enumerate(weights):
        basis[np.arange(size), cell.astype(int) + k] = weight / 6
    return basis


def smooth_field(shape, distance, rng):
    """A random field (x, y, z), float32 in [-1, 1], with nodes `distance` voxels apart."""
    bases = [bspline_basis(n, distance).astype(np.float32) for n in shape]
    nodes = rng.uniform(-1, 1, [basis.shape[1] for basis in bases]).astype(np.float32)
    return np.einsum("abc,xa,yb,zc->xyz", nodes, *bases, optimize=True)
