# SPDX-License-Identifier: MIT
"""From a high-resolution volume to a low-resolution acquisition of it.

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


def scan(hr, resolution, rng, noise=0.0, thickness=None, profile="gaussian"):
    """The low-resolution scan of a `Volume`, on a coarser grid over the same field of view.

    `resolution` and `thickness`, which is the same by default, are mm; axes that do not get coarser
    stay as they are. For profile and noise see `degrade` and `add_noise`.
    """
    lr = degrade(hr, resolution, thickness, profile)
    return lr.with_array(add_noise(lr.array, noise, rng))


class Draw(NamedTuple):
    """One simulated acquisition, interpolated back to the image's grid; float32 (x, y, z).

    It lies in [0, 1] but for the overshoot of the interpolation.
    """

    lr: np.ndarray
    hr: np.ndarray  # the image, normalised as the scan is
    axis: int  # the scan's thick axis, 2 if there is none
    resolution: float  # distance of its slices, mm


@dataclass(frozen=True)
class Degradation:
    """How the low-resolution images are made.

    Each image and epoch draws a resolution between two bounds; the thickness, the drawn resolution
    by default, is the full width at half maximum of the slice profile along axes that get coarser.
    """

    resolution: tuple  # mm, three numbers, the lower bound
    upper: tuple | None = None  # the upper bound; None: the lower one
    contrast_max: float = 0.5  # the contrast's power is drawn from 1 - this to 1 + this
    noise: float = 0.03  # standard deviation, a fraction of the low-resolution maximum
    interp: str = "scipy"  # back to high resolution, see `resample_to`
    interpolation_type: str = "Spline"
    thickness: float | None = None  # mm
    slice_voxels: int = 0  # see `segsrgan.networks.GeneratorSpec` and `network_spacing`

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
        """The `Draw` of a high-resolution `Volume`.

        The resolution lies at a position, 0 to 1, between its bounds, by default a random one.
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
        """How many voxels, of a size in mm, blur and interpolation reach along each axis."""
        largest = self.upper or self.resolution
        reach = [2 * max(mm, self.thickness or 0) for mm in largest]
        return tuple(
            math.ceil(far / fine) if coarse > fine else 1
            for far, coarse, fine in zip(reach, largest, spacing, strict=True)
        )
