# SPDX-License-Identifier: MIT
"""Simulation of a low-resolution acquisition from a high-resolution volume.

Delannoy et al. 2020, Eq. 1 (blur, decimation, noise), Eq. 13 (slice profile) and section 4.4.3
(augmentation by contrast and noise). Every random draw comes from the generator passed in.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segsrgan.volumes import Normalisation, degrade, resample_to


def change_contrast(array, power):
    """Raises intensities, scaled to [0, 1], to a power; the range stays as it was.

    The paper draws the power from [0.5, 1.5]; 1 changes nothing.
    """
    low, high = float(array.min()), float(array.max())
    if power == 1 or high <= low:
        return array
    result = np.subtract(array, low, dtype=np.float32)
    result /= np.float32(high - low)
    np.power(result, np.float32(power), out=result)
    result *= np.float32(high - low)
    result += np.float32(low)
    return result


def add_noise(array, fraction, rng):
    """Adds Gaussian noise of standard deviation `fraction * max(array)`, clipped at 0.

    A volume that is negative somewhere is not clipped.
    """
    if not fraction:
        return array
    noise = rng.standard_normal(array.shape, dtype=np.float32)
    noisy = array + noise * np.float32(fraction * array.max())
    return np.maximum(noisy, 0) if array.min() >= 0 else noisy


def scan(hr, resolution, rng, noise=0.0, thickness=None):
    """The low-resolution scan of a `Volume`, on a coarser grid over the same field of view.

    Args:
        hr: the high-resolution `Volume`.
        resolution: three numbers in mm; axes that are not coarser stay as they are.
        rng: a `numpy.random.Generator`.
        noise: standard deviation of the noise as a fraction of the low-resolution maximum.
        thickness: slice thickness in mm, by default `resolution`.
    """
    lr = degrade(hr, resolution, thickness)
    return lr.with_array(add_noise(lr.array, noise, rng))


class Draw(NamedTuple):
    """One simulated acquisition.

    Attributes:
        lr: (x, y, z) float32, interpolated back to the image's grid, in [0, 1] but for the
            overshoot of the interpolation.
        hr: (x, y, z) float32, the image, normalised as the scan is.
        axis: the scan's thick axis, 2 if there is none.
        resolution: distance of its slices, mm.
    """

    lr: np.ndarray
    hr: np.ndarray
    axis: int
    resolution: float


@dataclass(frozen=True)
class Simulation:
    """How the low-resolution images are made.

    Attributes:
        resolution: mm, three numbers, the lower bound when `upper` is given.
        upper: the upper bound; each image and epoch draws in between. None: `resolution`.
        contrast_max: the contrast's power is drawn from [1 - contrast_max, 1 + contrast_max].
        noise: standard deviation of the noise as a fraction of the low-resolution maximum.
        interp, interpolation_type: of the interpolation back to high resolution.
        thickness: full width at half maximum of the slice profile in mm, along the axes that get
            coarser. None: the drawn resolution.
        slice_voxels: see `segsrgan.networks.GeneratorSpec` and `network_spacing`.
    """

    resolution: tuple
    upper: tuple | None = None
    contrast_max: float = 0.5
    noise: float = 0.03
    interp: str = "scipy"
    interpolation_type: str = "Spline"
    thickness: float | None = None
    slice_voxels: int = 0

    def network_spacing(self, spacing):
        """Voxel size, mm, at which an image of another voxel size is to be given to `draw`.

        It differs along the axis that gets coarsest if it does so twice or more: then a slice of
        `resolution` is `slice_voxels` voxels (if that is not 0).
        """
        axis = max(range(3), key=lambda k: self.resolution[k])
        if not self.slice_voxels or self.resolution[axis] < 2 * spacing[axis]:
            return spacing
        slices = self.resolution[axis] / self.slice_voxels
        return tuple(slices if k == axis else size for k, size in enumerate(spacing))

    def draw(self, image, rng, position=None):
        """One low-resolution image and its target, a `Draw`.

        Args:
            image: the high-resolution `Volume`.
            rng: a `numpy.random.Generator`.
            position: where between the bounds the resolution lies, 0 to 1. None: drawn.
        """
        position = rng.random() if position is None else position
        low = np.asarray(self.resolution, float)
        resolution = low + position * (np.asarray(self.upper or self.resolution, float) - low)
        power = rng.uniform(1 - self.contrast_max, 1 + self.contrast_max)
        image = image.with_array(change_contrast(image.array, power))
        lr = scan(image, tuple(resolution), rng, self.noise, self.thickness)
        thick, spacing = lr.grid.thick_axis, max(lr.spacing)
        # As at inference: the scan is normalised, then interpolated.
        normalisation = Normalisation.of(lr.array)
        lr = resample_to(
            lr.with_array(normalisation.apply(lr.array)),
            image.grid,
            interp=self.interp,
            interpolation_type=self.interpolation_type,
        )
        hr = normalisation.apply(image.array)
        return Draw(lr.array, hr, 2 if thick is None else thick, spacing)

    def margin(self, spacing):
        """How many voxels of a size in mm the scan's blur and interpolation reach along each axis.

        1 where the axis does not get coarser.
        """
        largest = self.upper or self.resolution
        reach = [2 * max(mm, self.thickness or 0) for mm in largest]
        return tuple(
            math.ceil(far / fine) if coarse > fine else 1
            for far, coarse, fine in zip(reach, largest, spacing, strict=True)
        )
