# SPDX-License-Identifier: MIT
"""Endless sources of training patches: `draw(rng)` returns a `Patch`.

Patches carry no memory of earlier draws: the same generator state gives the same patch.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from segsrgan.training.cases import at_spacing
from segsrgan.training.simulation import change_contrast, scan
from segsrgan.training.synthetic.painting import (
    LabelMap,
    nearest,
    paint,
    random_frame,
    sample_points,
    surround,
    thin,
)
from segsrgan.volumes import Grid, Normalisation, Volume, resample_to

_FINE = 0.9  # of a map's voxel: then a cortex of 2.5 voxels has nearly three
_CUBE = 1.01  # edges of a voxel that differ less count as equal
# Voxels simulated beyond the patch, so that its borders are as good as its middle.
_MARGIN = np.array([4, 4, 12])


class Patch(NamedTuple):
    """What a source draws.

    Attributes:
        lr: (p, p, p) float32, the interpolated low-resolution image; the last axis is the thick
            one, as at inference.
        truth: `{head: (p, p, p) float32}` of the heads "sr" (the image) and "cortex" (the label).
        resolution: distance of the slices, where the in-plane edge of a voxel counts as 1 mm.
    """

    lr: np.ndarray
    truth: dict
    resolution: float

    @classmethod
    def of(cls, lr, hr, label, resolution, size):
        """The middle, `size` voxels along each axis, of arrays with margins."""
        middle = tuple(slice(m, m + size) for m in _MARGIN)
        return cls(lr[middle], {"sr": hr[middle], "cortex": label[middle]}, resolution)


@dataclass(frozen=True)
class Acquisition:
    """Bounds of the random acquisitions, in voxels of the result.

    Attributes:
        ratio: slice distance over the result's voxel size.
        gap: slice thickness over slice distance.
        in_plane: in-plane voxel size over the result's; three of four draws keep 1.
        noise: largest standard deviation of the noise, as a fraction of the maximum; a quarter of
            the draws have none.
        interp: of the interpolation back, see `segsrgan.volumes.resample_to`.
        slice_voxels: see `segsrgan.networks.GeneratorSpec`.
    """

    ratio: tuple = (1.5, 7.0)
    gap: tuple = (0.8, 1.05)
    in_plane: tuple = (1.0, 1.8)
    noise: float = 0.03
    interp: str = "scipy"
    slice_voxels: int = 0

    def slices(self, rng):
        """The slices of a random acquisition.

        Args:
            rng: a `numpy.random.Generator`.

        Returns:
            `(distance, height)`: their distance, and the edge of a patch's voxel across them,
            both in voxels of the result. A height other than 1 makes a slice `slice_voxels`
            voxels of the patch, as inference does where slices are two voxels apart or more.
        """
        distance = float(np.exp(rng.uniform(*np.log(self.ratio))))
        apart = self.slice_voxels and distance >= 2
        return distance, distance / self.slice_voxels if apart else 1.0

    def simulate(self, image, slices, rng):
        """A random acquisition of an image.

        Args:
            image: (x, y, z) float32, voxels of edges 1, 1 and the height.
            slices: as the method `slices` returns.
            rng: a `numpy.random.Generator`.

        Returns:
            `(lr, resolution)`: the acquisition interpolated back, of the same shape, and the
            distance of its slices.
        """
        distance, height = slices
        fine = rng.uniform(*self.in_plane) if rng.random() < 0.25 else 1.0
        resolution = np.array([fine, fine, max(distance, fine)])
        thickness = resolution * [1, 1, rng.uniform(*self.gap)]
        noise = max(0.0, rng.uniform(-self.noise / 3, self.noise))
        hr = Volume(image, (1.0, 1.0, height))
        lr = scan(hr, tuple(resolution), rng, noise, tuple(thickness))
        return resample_to(lr, hr.grid, self.interp).array, float(resolution[2])


def _near(points, rng, spread):
    """A random cortex voxel, moved at random so that the cortex is not always in the middle."""
    return points[rng.integers(len(points))] + rng.uniform(-spread, spread, 3)


@dataclass(frozen=True)
class SyntheticSource:
    """Patches of random contrast painted on a label map.

    Attributes:
        label_map: a `LabelMap`.
        patch: edge in voxels.
        scale: bounds of the patch voxel's size in map voxels.
        acquisition: bounds of the simulated acquisitions.
        strip: fraction of the samples whose skull is stripped.
        thin: fraction of the samples whose cortex is a voxel thinner, like a newborn's; only of
            those whose voxels are finer than the map's, so that something is left of it. None:
            the map's.
        elastic: largest displacement, voxels, of the smooth deformation.
        typical: fraction of the samples with the contrast of a common sequence, see `paint`.
    """

    label_map: LabelMap
    patch: int = 64
    scale: tuple = (0.8, 1.25)
    acquisition: Acquisition = field(default_factory=Acquisition)
    strip: float = 0.6
    thin: float | None = None
    elastic: float = 4.0
    typical: float = 0.5

    def draw(self, rng):
        """A `Patch`."""
        label_map = self.label_map
        shape = tuple(int(n) for n in self.patch + 2 * _MARGIN)
        slices = self.acquisition.slices(rng)
        frame = random_frame(rng, self.scale) * [1, 1, slices[1]]
        centre = _near(label_map.points, rng, self.patch / 5)
        elastic = rng.uniform(0, self.elastic)
        labels = nearest(label_map.labels, sample_points(centre, frame, shape, rng, elastic))
        is_fine = np.linalg.det(frame) ** 2 < _FINE**6
        if (
            rng.random() < (label_map.numbering.thin if self.thin is None else self.thin)
            and is_fine
        ):
            labels = thin(labels, label_map.cortex, label_map.white)
        cortex = np.isin(labels, label_map.cortex).astype(np.float32)
        strip = rng.random() < self.strip
        if not strip and (label_map.brain[1:].all() or rng.random() < 0.2):
            labels = surround(labels, label_map.brain, len(label_map.tissue), rng)
        hr = paint(labels, label_map, rng, strip, self.typical)
        lr, resolution = self.acquisition.simulate(hr, slices, rng)
        return Patch.of(lr, hr, cortex, resolution, self.patch)


@dataclass(frozen=True)
class ImageSource:
    """Patches of real images with a label, in random orientation and contrast.

    Attributes:
        images: sequence of (image in [0, 1], label, points): (x, y, z) float32, (x, y, z) bool or
            float32 in [0, 1], and the indices (n, 3) of the label's voxels.
        patch: edge in voxels.
        power: bounds of the power of the contrast.
        inverted: fraction of the patches whose intensities are turned over inside the object.
        acquisition: bounds of the simulated acquisitions.
    """

    images: tuple
    patch: int = 64
    power: tuple = (0.45, 2.2)
    inverted: float = 0.3
    acquisition: Acquisition = field(default_factory=Acquisition)

    def draw(self, rng):
        """A `Patch`."""
        image, label, points = self.images[rng.integers(len(self.images))]
        shape = self.patch + 2 * _MARGIN
        slices = self.acquisition.slices(rng)
        fine = Grid(shape, (1.0, 1.0, slices[1]))
        shape = np.ceil(shape * fine.spacing).astype(int)
        # Permuting axes and flipping moves whole voxels: the image is not interpolated.
        order, flips = rng.permutation(3), rng.random(3) < 0.5
        extent = np.empty(3, int)
        extent[order] = shape
        low = np.rint(_near(points, rng, self.patch / 5)).astype(int) - extent // 2
        hr, cortex = (
            _along_slices(_orient(_window(a, low, extent), order, flips), fine, spline)
            for a, spline in ((image, 3), (label, 1))
        )
        power = np.exp(rng.uniform(*np.log(self.power)))
        if rng.random() < self.inverted:
            hr = np.where(hr > 0.02, hr.max() * 1.1 - hr, 0).astype(np.float32)
        hr = change_contrast(hr, power)
        lr, resolution = self.acquisition.simulate(hr, slices, rng)
        return Patch.of(lr, hr, cortex, resolution, self.patch)

    @classmethod
    def of(cls, cases, column, **options):
        """A source of patches of the images of `Case`s, which are all kept in memory.

        Images whose voxels are not cubes are interpolated to their finest edge.

        Args:
            cases: sequence of `Case`.
            column: of the label.
            **options: further attributes.

        Raises:
            VolumeError: if a file cannot be used.
        """
        images = []
        for case in cases:
            image, labels = case.load([column])
            if max(image.spacing) > _CUBE * min(image.spacing):
                image, labels = at_spacing(image, labels, (min(image.spacing),) * 3)
            array = Normalisation.of(image.array).apply(image.array)
            points = np.argwhere(labels[column] > 0.5).astype(np.int16)
            images.append((array, labels[column], points))
        return cls(tuple(images), **options)


def _along_slices(array, grid, spline_order):
    """An array of voxels of edge 1, float32, on a grid that differs along the last axis."""
    volume = Volume(array.astype(np.float32), (1.0, 1.0, 1.0))
    result = resample_to(volume, grid, spline_order=spline_order).array
    return np.maximum(result, 0, out=result)  # a spline overshoots


def _window(array, low, extent):
    """A box of an array, 0 where it lies outside."""
    result = np.zeros(tuple(extent), array.dtype)
    first = np.maximum(low, 0)
    last = np.minimum(low + extent, array.shape)
    if (last > first).all():
        source = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        target = tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))
        result[target] = array[source]
    return result


def _orient(array, order, flips):
    array = array.transpose(order)
    return np.flip(array, [axis for axis in range(3) if flips[axis]])
