# SPDX-License-Identifier: MIT
"""Endless sources of training patches: `draw(rng)` returns a `Patch`.

Patches carry no memory of earlier draws: the same generator state gives the same patch.
"""

import io
import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import check_writable, write_bytes
from segsrgan.training.cases import LABEL, UNKNOWN, at_spacing
from segsrgan.training.degradation import change_contrast, scan
from segsrgan.training.painting import (
    LabelMap,
    nearest,
    paint,
    random_axes,
    random_frame,
    sample_points,
    share,
    surround,
    thin,
)
from segsrgan.training.settings import SYNTHETIC
from segsrgan.training.validation import contact_sheet, side_views
from segsrgan.volumes import Grid, Normalisation, Volume, foreground, resample_to, write_volume

SHEET = "samples.png"
_FINE = 0.9  # of a map's voxel: then a cortex of 2.5 voxels has nearly three
_USUAL = 0.6
_SIDES = 0.35  # of the sides of a cropped field of view, those where it ends
_CUBE = 1.01  # edges of a voxel that differ less count as equal
# Voxels simulated beyond the patch, so that its borders are as good as its middle.
_MARGIN = np.array([4, 4, 12])


class Patch(NamedTuple):
    """What a source draws; its last axis is the thick one, as at inference."""

    lr: np.ndarray  # (p, p, p) float32, interpolated
    # {head: (p, p, p) float32}: "sr" is the image, "cortex" the label, UNKNOWN where nobody drew it
    truth: dict
    resolution: float  # distance of the slices, where the in-plane edge of a voxel counts as 1 mm

    @classmethod
    def of(cls, lr, hr, label, resolution, size):
        """The middle, `size` voxels along each axis, of arrays with margins."""
        middle = tuple(slice(m, m + size) for m in _MARGIN)
        return cls(lr[middle], {"sr": hr[middle], "cortex": label[middle]}, resolution)


@dataclass(frozen=True)
class Acquisition:
    """Bounds of the random acquisitions, in voxels of the result.

    Three of four draws keep the in-plane voxel size; a quarter have no noise. Slices are mostly
    about as thick as they are apart, some much thinner; the interpolation does not always know.
    """

    ratio: tuple = (1.5, 7.0)  # slice distance over the result's voxel size
    usual: tuple = (0.8, 1.05)  # slice thickness over slice distance, 60 % of the draws
    thickness: tuple = (0.15, 1.05)  # of the others
    box: float = 0.3  # fraction whose slice profile is a box, not a Gaussian
    told: float = 0.7  # fraction whose interpolation knows the thickness
    in_plane: tuple = (1.0, 1.8)  # in-plane voxel size over the result's
    noise: float = 0.03  # largest standard deviation, as a fraction of the maximum
    interp: str = "scipy"  # of the interpolation back, see `segsrgan.volumes.resample_to`
    slice_voxels: int = 0  # see `segsrgan.networks.GeneratorSpec`

    def slices(self, rng):
        """The slices of a random acquisition: `(distance, height)`, in voxels of the result.

        The height is the edge of a patch's voxel across the slices. Other than 1 it makes a slice
        `slice_voxels` voxels of the patch, as inference does where slices are two voxels apart or
        more.
        """
        distance = float(np.exp(rng.uniform(*np.log(self.ratio))))
        apart = self.slice_voxels and distance >= 2
        return distance, distance / self.slice_voxels if apart else 1.0

    def simulate(self, image, slices, rng):
        """A random acquisition, interpolated back, and the distance of its slices.

        The image (x, y, z) is float32, its voxels have edges 1, 1 and the height, see `slices`.
        """
        distance, height = slices
        fine = rng.uniform(*self.in_plane) if rng.random() < 0.25 else 1.0
        resolution = np.array([fine, fine, max(distance, fine)])
        gap = rng.uniform(*(self.usual if rng.random() < _USUAL else self.thickness))
        thickness = resolution * [1, 1, gap]
        profile = "box" if rng.random() < self.box else "gaussian"
        noise = max(0.0, rng.uniform(-self.noise / 3, self.noise))
        hr = Volume(image, (1.0, 1.0, height))
        lr = scan(hr, tuple(resolution), rng, noise, tuple(thickness), profile)
        known = float(thickness[2]) if rng.random() < self.told else None
        lr = resample_to(lr, hr.grid, self.interp, thickness=known)
        return lr.array, float(resolution[2])


@dataclass(frozen=True)
class SyntheticSource:
    """Patches of random contrast painted on a label map.

    A thinner cortex is like a newborn's; only samples whose voxels are finer than the map's get it,
    so that something is left of it.
    """

    label_map: LabelMap
    patch: int = 64  # edge in voxels
    scale: tuple = (0.8, 1.25)  # bounds of the patch voxel's size in map voxels
    acquisition: Acquisition = field(default_factory=Acquisition)
    strip: float = SYNTHETIC["stripped"]  # fraction of the samples whose skull is stripped
    thin: float | None = None  # fraction whose cortex is a voxel thinner; None: the map's
    elastic: float = 4.0  # largest displacement, voxels, of the smooth deformation
    typical: float = 0.5  # fraction with the contrast of a common sequence, see `paint`
    upright: bool = True  # whether heads lie in their usual pose, see `random_axes`
    cropped: float = 0.0  # fraction whose field of view ends inside the patch; beyond it all is 0

    def draw(self, rng):
        """A `Patch`."""
        label_map = self.label_map
        shape = tuple(int(n) for n in self.patch + 2 * _MARGIN)
        slices = self.acquisition.slices(rng)
        frame = random_frame(rng, self.scale, upright=self.upright) * [1, 1, slices[1]]
        centre = _near(label_map.points, rng, self.patch / 5)
        points = sample_points(centre, frame, shape, rng, rng.uniform(0, self.elastic))
        labels = nearest(label_map.labels, points)
        cortex = share(label_map.labels, label_map.cortex, points)
        is_fine = np.linalg.det(frame) ** 2 < _FINE**6
        thinned = label_map.numbering.thin if self.thin is None else self.thin
        if rng.random() < thinned and is_fine:
            labels = thin(labels, label_map.cortex, label_map.white)
            cortex[np.isin(labels, label_map.white)] = 0
        strip = rng.random() < self.strip
        if not strip and (label_map.brain[1:].all() or rng.random() < 0.2):
            voxel = abs(float(np.linalg.det(frame))) ** (1 / 3)
            labels = surround(labels, label_map.brain, len(label_map.tissue), rng, voxel)
        hr, removed = paint(labels, label_map, rng, strip, self.typical)
        cortex[removed[labels]] = 0
        beyond = _beyond_field(shape, rng) if rng.random() < self.cropped else np.zeros(shape, bool)
        hr[beyond] = cortex[beyond] = 0
        lr, resolution = self.acquisition.simulate(hr, slices, rng)
        lr[beyond] = 0
        return Patch.of(lr, hr, cortex, resolution, self.patch)


@dataclass(frozen=True)
class ImageSource:
    """Patches of real images with a label, in random orientation and contrast.

    Each image is (image, label, points, upright): (x, y, z) float32 in [0, 1], (x, y, z) bool or
    float32 in [0, 1] or None, the indices (n, 3) of the label's voxels, of the foreground's where
    there is none, and whether the head lies in its usual pose, see `random_axes`.
    """

    images: tuple
    patch: int = 64  # edge in voxels
    power: tuple = (0.45, 2.2)  # bounds of the power of the contrast
    inverted: float = 0.3  # fraction whose intensities are turned over inside the object
    acquisition: Acquisition = field(default_factory=Acquisition)

    def draw(self, rng):
        """A `Patch`."""
        image, label, points, upright = self.images[rng.integers(len(self.images))]
        shape = self.patch + 2 * _MARGIN
        slices = self.acquisition.slices(rng)
        fine = Grid(shape, (1.0, 1.0, slices[1]))
        shape = np.ceil(shape * fine.spacing).astype(int)
        # Permuting axes and flipping moves whole voxels: the image is not interpolated.
        order, flips = random_axes(rng, upright)
        extent = np.empty(3, int)
        extent[order] = shape
        low = np.rint(_near(points, rng, self.patch / 5)).astype(int) - extent // 2

        def drawn(array, spline_order):
            turned = _window(array, low, extent).transpose(order)
            turned = np.flip(turned, tuple(np.flatnonzero(flips))).astype(np.float32)
            result = resample_to(Volume(turned, (1.0,) * 3), fine, spline_order=spline_order).array
            return np.maximum(result, 0, out=result)  # a spline overshoots

        hr = drawn(image, 3)
        cortex = np.full_like(hr, UNKNOWN) if label is None else drawn(label, 1)
        power = np.exp(rng.uniform(*np.log(self.power)))
        if rng.random() < self.inverted:
            hr = np.where(hr > 0.02, hr.max() * 1.1 - hr, 0).astype(np.float32)
        hr = change_contrast(hr, power)
        lr, resolution = self.acquisition.simulate(hr, slices, rng)
        return Patch.of(lr, hr, cortex, resolution, self.patch)

    @classmethod
    def of(cls, cases, **options):
        """A source of patches of the images of `Case`s, which are all kept in memory.

        Images whose voxels are not cubes are interpolated to their finest edge. The options are
        further attributes; a `VolumeError` says which file cannot be used.
        """
        images = []
        for case in cases:
            image, labels = case.load(case.labels.keys() & {LABEL})
            if max(image.spacing) > _CUBE * min(image.spacing):
                image, labels = at_spacing(image, labels, (min(image.spacing),) * 3)
            array = Normalisation.of(image.array).apply(image.array)
            label = labels.get(LABEL)
            inside = foreground(image.array) if label is None else label > 0.5
            points = np.argwhere(inside).astype(np.int16)
            images.append((array, label, points, case.upright))
        return cls(tuple(images), **options)


def _near(points, rng, spread):
    """A random cortex voxel, moved at random so that the cortex is not always in the middle."""
    return points[rng.integers(len(points))] + rng.uniform(-spread, spread, 3)


def _beyond_field(shape, rng):
    """Where a random field of view does not reach, bool: up to 0.4 of the shape at some sides."""
    ends = np.where(rng.random((3, 2)) < _SIDES, rng.uniform(0, 0.4, (3, 2)), 0)
    low, high = np.rint(ends * [[n] * 2 for n in shape]).astype(int).T
    beyond = np.ones(shape, bool)
    beyond[tuple(slice(a, n - b) for a, b, n in zip(low, high, shape, strict=True))] = False
    return beyond


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


def write_samples(sources, folder, number, seed=0, overwrite=False):
    """Draws patches from sources in turn and writes them, after the last a picture of all.

    The files are `sample_001_LR.nii.gz`, `…_HR`, `…_label` and so on, and `samples.png`; voxels are
    1 mm, the label is uint8. A sample follows from the seed and its number alone. Yields the number
    of its source, the distance of its slices in voxels, and the seconds that drawing it took. A
    `UserError` says if there is such a file already, unless it may be overwritten.
    """
    folder, rows = Path(folder), []
    files = [
        [folder / f"sample_{index:03d}_{part}.nii.gz" for part in ("LR", "HR", "label")]
        for index in range(1, number + 1)
    ]
    existing = [path for path in (*chain(*files), folder / SHEET) if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{existing[0]}: exists already; take another folder, or --overwrite to replace it"
        )
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for index, paths in enumerate(files):
        start, source = time.perf_counter(), index % len(sources)
        patch = sources[source].draw(np.random.default_rng([seed, index]))
        seconds = time.perf_counter() - start
        hr, label = patch.truth["sr"], patch.truth["cortex"]
        for path, array in zip(paths, (patch.lr, hr, np.uint8(label > 0.5)), strict=True):
            write_volume(Volume(array, (1.0, 1.0, 1.0)), path)
        rows.append(side_views(patch.lr, hr, label))
        yield source, patch.resolution, seconds
    from PIL import Image  # slow to import

    stream = io.BytesIO()
    Image.fromarray(contact_sheet(rows)).save(stream, "PNG")
    write_bytes(folder / SHEET, stream.getvalue())
