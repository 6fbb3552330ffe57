# SPDX-License-Identifier: MIT
"""Simulation of a low-resolution acquisition from a high-resolution volume.

Delannoy et al. 2020, Eq. 1 (blur, decimation, noise), Eq. 13 (slice profile) and section 4.4.3
(augmentation by contrast and noise). Every random draw comes from the generator passed in.
"""

import numpy as np

from segsrgan.volumes import degrade


def change_contrast(array, power):
    """Raises intensities, scaled to [0, 1], to a power; the range stays as it was.

    Args:
        array: (x, y, z) float32.
        power: 1 changes nothing; the paper draws it from [0.5, 1.5].
    """
    low, high = float(array.min()), float(array.max())
    if power == 1 or high <= low:
        return array
    return ((array - low) / (high - low)) ** power * (high - low) + low


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
    """The low-resolution scan of a volume: slice profile, decimation, noise.

    Args:
        hr: the high-resolution `Volume`.
        resolution: three numbers in mm; axes that are not coarser stay as they are.
        rng: a `numpy.random.Generator`.
        noise: standard deviation of the noise as a fraction of the low-resolution maximum.
        thickness: slice thickness in mm, by default `resolution`.

    Returns:
        A float32 `Volume` on a coarser grid over the same field of view.
    """
    lr = degrade(hr, resolution, thickness)
    return lr.with_array(add_noise(lr.array, noise, rng))
