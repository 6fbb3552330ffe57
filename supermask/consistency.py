# SPDX-License-Identifier: MIT
"""A fused image whose slices, blurred and decimated again, are those of all views.

The acquired slices x_v of a view came about from the true image: x_v = A_v y + noise, where A_v
turns and shifts the image as the patient has moved, blurs it by the slice profile and decimates it.
The fused image y, whose error has the deviation e, is corrected to the y' of the least

    sum_v |x_v - A_v y'|^2 / n_v^2 + |y' - y|^2 / e^2,

n_v being the deviation of the view's noise. All slices count alike, since in the fusion every view
is sure of itself on its slices. Conjugate gradients lead there from y. Where every A_v is right and
there is no noise, no step is further from the truth than the one before.

Two steps show what is not known beforehand: how thick the slices are (the width of the profile with
which they leave least to explain), how wrong the fused image was (what they change), and what no
image explains, such as the rest of the motion, which counts as noise. A single view is explained
by too many images to tell; there it is what `segsrgan.inference.consistency` solves in closed form.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

from segsrgan.inference.consistency import noise_of
from segsrgan.volumes import Grid, resample_to
from segsrgan.volumes.resampling import profile_matrix
from supermask.geometry import affine, coordinate, corners

STEPS = 12  # of the conjugate gradients, at most
TOLERANCE = 3e-3  # of the gradient's norm, relative to the first, at which they stop
BYTES = 150  # of a voxel of the image and a view, at most: all known, turned by 45 degrees
_TRIED = 2  # steps that show the profile's width, the image's error and what stays unexplained
_WIDTHS = (0.6, 0.85, 1.1)  # of the profile over the thickness, that are tried
_RANGE = (0.5, 1.25)  # of those that may come out
_LEAST = 1e-6  # of a view's squared noise over what the error makes in its slices, at least
_EDGE = 1e-4  # voxels; headers round
_ENOUGH = 0.9  # fraction of a slice's profile that must lie in the image
_REACH = 2  # voxels of a view beyond which profiles end
_NEGLIGIBLE = 1e-6  # weight in a profile, of all of them
_SLAB = 2**18  # voxels whose coordinates are held at once


class Acquisition:
    """A_v: from an image to the slices that a view has of it, and the transpose.

    Slices lie on `grid`, the part of the view's that shows what is known of the image; where the
    view is finer than the image, they are interpolated there. A slice's voxel counts where its
    profile lies almost wholly in what is known; elsewhere it is 0, and so is the scan's.

    Args:
        source: the `Grid` of the view as acquired.
        image: the `Grid` of the image, isotropic.
        transform: the `Rigid` from the image to the view.
        known: bool (x, y, z) on the image's grid.
        thickness: of the slices, mm; None: the distance of their centres.
        width: full width at half maximum of the Gaussian profile, over the thickness and, along
            other axes where the image is finer, over the voxel size.
    """

    def __init__(self, source, image, transform, known, thickness=None, width=1.0):
        spacing, self._shape = image.spacing[0], image.shape
        coarse = source.corner_aligned(np.maximum(source.spacing, spacing))
        self.grid = _common(coarse, _box(image, known), transform)
        self.is_finer = [size > spacing * (1 + 1e-6) for size in self.grid.spacing]
        self._widths = np.array(self.grid.spacing)
        if thickness is not None and source.thick_axis is not None:
            self._widths[source.thick_axis] = thickness
        self._fine = self.grid.corner_aligned(spacing)
        found = _interpolation(self._fine, image, transform, known)
        self._interpolation, self._inside = found
        self._counts = self._covered(width) >= _ENOUGH
        self.count = int(np.count_nonzero(self._counts))
        self.set_width(width)

    def set_width(self, width):
        """Takes another width of the profile; the voxels that count stay the same."""
        covered = self._covered(width)
        self._scale = np.divide(1, covered, np.zeros_like(covered), where=self._counts)

    def _covered(self, width):
        """The fraction of each voxel's profile that lies in the image."""
        matrices = {}
        for axis in np.flatnonzero(self.is_finer):
            size = width * self._widths[axis]
            matrix = profile_matrix(self._fine, self.grid, axis, size).astype(np.float32)
            matrices[axis] = sparse.csr_array(np.where(matrix < _NEGLIGIBLE, 0, matrix))
        # Axes that shrink most go first, so that the later products are small.
        self._profiles = sorted(matrices.items(), key=lambda m: m[1].shape[0] / m[1].shape[1])
        return self._blurred(self._inside.astype(np.float32))

    def _blurred(self, fine):
        for axis, matrix in self._profiles:
            fine = _along(axis, matrix, fine)
        return fine

    def of_image(self, image):
        """The slices (x, y, z) of an image (x, y, z), float32."""
        fine = (self._interpolation @ image.ravel()).reshape(self._fine.shape)
        return self._scale * self._blurred(fine)

    def transposed(self, slices):
        """The transpose: an image (x, y, z) of slices (x, y, z), float32."""
        fine = self._scale * slices
        for axis, matrix in reversed(self._profiles):
            fine = _along(axis, matrix.T, fine)
        return (fine.ravel() @ self._interpolation).reshape(self._shape)

    def of_scan(self, scan):
        """The slices (x, y, z) that were acquired, of the view's `Volume`."""
        return np.where(self._counts, resample_to(scan, self.grid).array, np.float32(0))


def _along(axis, matrix, array):
    """A sparse matrix (m, n) applied along an axis, of n, of an array (x, y, z)."""
    # Not a dense one: threads of BLAS cost more than they bring in so many small products.
    first = np.moveaxis(array, axis, 0)
    result = matrix @ first.reshape(len(first), -1)
    return np.moveaxis(result.reshape(-1, *first.shape[1:]), 0, axis)


def _box(grid, known):
    """The part of a grid that holds what is known, bool (x, y, z)."""
    spans = [known.any(axis=tuple({0, 1, 2} - {axis})).nonzero()[0] for axis in range(3)]
    if not all(span.size for span in spans):
        return grid
    low = [span[0] for span in spans]
    shape = [span[-1] - span[0] + 1 for span in spans]
    return Grid(shape, grid.spacing, grid.index_to_physical(low), grid.direction)


def _common(grid, box, transform):
    """The part of a view's grid whose profiles reach into a box, a `Grid`."""
    index = grid.physical_to_index(transform.apply(corners(box)))
    last = np.array(grid.shape) - 1
    low = np.clip(np.floor(index.min(axis=0)) - _REACH, 0, last).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + _REACH, 0, last).astype(int)
    return Grid(high - low + 1, grid.spacing, grid.index_to_physical(low), grid.direction)


def _interpolation(grid, image, transform, known):
    """The sparse matrix (grid's voxels, image's) that interpolates the image at the grid's voxels.

    It is linear and takes what is known alone. Also where it has rows, bool (x, y, z) of the grid;
    the others are empty.
    """
    matrix, offset = affine(image, grid, transform.inverse())
    known, inside = known.ravel(), np.empty(grid.shape, bool)
    indices, weights, counts = [], [], []
    rows = max(1, _SLAB // (grid.shape[1] * grid.shape[2]))
    for first in range(0, grid.shape[0], rows):
        part = inside[first : first + rows]
        points = [
            coordinate(matrix[k], offset[k] + matrix[k, 0] * first, part.shape).ravel()
            for k in range(3)
        ]
        place, weight = _neighbours(points, image.shape)
        weight *= known[place]
        total = weight.sum(axis=0)
        part.flat = total >= 0.5
        weight *= np.divide(1, total, np.zeros_like(total), where=total >= 0.5)
        taken = weight.T > 0
        indices.append(place.T[taken])
        weights.append(weight.T[taken])
        counts.append(taken.sum(axis=1, dtype=np.uint8))
    weights = np.concatenate(weights)  # frees the parts before the indices are joined
    indices = np.concatenate(indices)
    starts = np.zeros(inside.size + 1, np.int32 if indices.size < 2**31 else np.int64)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    shape = inside.size, math.prod(image.shape)
    return sparse.csr_array((weights, indices, starts), shape), inside


def _neighbours(points, shape):
    """The eight voxels about points of continuous indices, and their weights, (8, n) each.

    The points are three arrays (n,); the weights of those beyond the voxels' edges are 0.
    """
    place, weight = np.zeros((8, points[0].size), np.int32), np.ones((8, points[0].size), "f4")
    for axis, (point, size) in enumerate(zip(points, shape, strict=True)):
        outside = (point < -0.5 - _EDGE) | (point > size - 0.5 + _EDGE)
        nearest = np.rint(point)
        point = np.clip(np.where(np.abs(point - nearest) < _EDGE, nearest, point), 0, size - 1)
        lower = point.astype(np.int32)
        above = (point - lower).astype(np.float32)
        ends = np.where(outside, 0, 1 - above), np.where(outside, 0, above)
        for corner in range(8):
            upper = corner >> axis & 1
            weight[corner] *= ends[upper]
            place[corner] *= size
            place[corner] += np.minimum(lower + upper, size - 1)
    return place, weight


class Residual(NamedTuple):
    """By how much a view's slices differ from those of the image, in its intensities."""

    noise: float  # standard deviation of the view's
    before: float  # root mean square of x_v - A_v y
    after: float  # of x_v - A_v y'; `before` where y is kept
    width: float  # of the profile that was taken, over the slices' thickness
    kept: bool  # whether y is kept, since the slices of some view would agree less with y'


def make_consistent(
    image,
    scans,
    transforms,
    known,
    thicknesses=None,
    width=None,
    noises=None,
    steps=STEPS,
    tolerance=TOLERANCE,
):
    """Corrects a fused image by the scans that it was made of.

    Args:
        image: `Volume` on an isotropic grid.
        scans: the `Volume` of each view as acquired, in the image's intensities.
        transforms: the `Rigid` from the image to each view.
        known: bool (x, y, z), the part of the image that is corrected; some view must see it.
        thicknesses: of each view's slices, mm, or None: the distance of their centres.
        width: full width at half maximum of the Gaussian profile, over the thickness; None: the
            likeliest of several views, 1 of one.
        noises: standard deviation of each view's noise; None: `noise_of` it, or what stays
            unexplained in several views if that is more.
        steps: of the conjugate gradients, at most.
        tolerance: of the gradient's norm, relative to the first, at which they stop.

    Returns:
        The image corrected, a float32 `Volume`, and the `Residual` of each view. It is
        the image received, and the list empty, where that is nowhere finer than a view; it is
        the image, too, with more noise than contradiction, and where the slices of a view would
        then agree less: such views contradict each other.
    """
    scale = float(np.abs(image.array).max()) or 1.0  # squares of large intensities overflow
    parts = zip(scans, transforms, thicknesses or [None] * len(scans), strict=True)
    seen = [Acquisition(s.grid, image.grid, t, known, mm) for s, t, mm in parts]
    if not any(any(item.is_finer) for item in seen):
        return image, []
    slices = [item.of_scan(s) / np.float32(scale) for item, s in zip(seen, scans, strict=True)]
    estimated = [noise_of(scan) for scan in scans] if noises is None else noises
    start = image.array / np.float32(scale)
    problem = _Problem(seen, slices, start, [noise / scale for noise in estimated])
    several = len(scans) > 1
    if width is None:
        width = problem.likeliest_width() if several else 1.0
    problem.set_width(width)
    if several and noises is None:
        problem.learn(known)
    change, after = problem.solved(steps, tolerance)
    # Views of which one would then agree less contradict each other: they show unlike things.
    kept = bool((after > problem.before).any())
    if kept:
        after = problem.before
    elif change is not None:
        image = image.with_array(image.array + np.float32(scale) * change)
    found = zip(estimated, scale * problem.before, scale * after, strict=True)
    return image, [Residual(*map(float, values), float(width), kept) for values in found]


class _Problem:
    """The sum to be minimised, of `Acquisition`s, their slices, the image and the noise of each."""

    def __init__(self, seen, slices, image, noises):
        self._seen, self._slices, self._image = seen, slices, image
        self._noises = np.array(noises)
        self._probe = np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)

    def set_width(self, width):
        """Takes a width of the profile, over the thickness, and e that explains the residuals."""
        for item in self._seen:
            item.set_width(width)
        pairs = zip(self._slices, self._seen, strict=True)
        self._residuals = [slices - item.of_image(self._image) for slices, item in pairs]
        self.before = self._deviations(self._residuals)
        # The mean square that an error of deviation 1, unlike from voxel to voxel, makes in slices.
        self._powers = self._deviations([item.of_image(self._probe) for item in self._seen]) ** 2
        counts = [item.count for item in self._seen]
        surplus = np.dot(counts, self.before**2 - self._noises**2)
        self._error = max(surplus, 0.0) / max(np.dot(counts, self._powers), 1e-30)  # e^2

    def likeliest_width(self):
        """The one at the vertex of the parabola through what the widths tried leave."""
        left = []
        for width in _WIDTHS:
            self.set_width(width)
            left.append(math.sqrt(np.mean(self.solved(_TRIED)[1] ** 2)))
        square, linear, _ = np.polyfit(_WIDTHS, left, 2)
        if square <= 0:
            return _WIDTHS[int(np.argmin(left))]
        return float(np.clip(-linear / (2 * square), *_RANGE))

    def learn(self, known):
        """Takes for e what a few steps change, and for noise what they leave, if that is more."""
        change, left = self.solved(_TRIED)
        if change is not None:
            self._error = _square(change) / max(1, np.count_nonzero(known))
            self._noises = np.maximum(self._noises, left)

    def solved(self, steps, tolerance=0.0):
        """The change y' - y, None without any, and the deviation that it leaves in each view."""
        if self._error <= 0:
            return None, self.before
        floors = _LEAST * self._powers * self._error
        weights = self._error / np.maximum(self._noises**2, np.maximum(floors, 1e-30))
        residuals = [residual.copy() for residual in self._residuals]
        change, direction = np.zeros_like(self._image), np.zeros_like(self._image)
        size, first = math.inf, None
        for _ in range(steps):
            slope = self._pulled(residuals, weights) - change
            size, last = _square(slope), size
            first = size if first is None else first
            if size <= tolerance**2 * first:
                break
            direction *= np.float32(size / last)
            direction += slope
            moved = [item.of_image(direction) for item in self._seen]
            squares = np.dot(weights, [_square(part) for part in moved])
            length = np.float32(size / (squares + _square(direction)))
            change += length * direction
            for residual, part in zip(residuals, moved, strict=True):
                residual -= length * part
        return change, self._deviations(residuals)

    def _pulled(self, residuals, weights):
        terms = zip(self._seen, residuals, weights.astype(np.float32), strict=True)
        return sum(item.transposed(weight * residual) for item, residual, weight in terms)

    def _deviations(self, arrays):
        pairs = zip(arrays, self._seen, strict=True)
        return np.array([math.sqrt(_square(a) / max(1, item.count)) for a, item in pairs])


def _square(array):
    return float(np.vdot(array, array))
