# SPDX-License-Identifier: MIT
"""Where the brain is in a head, found on voxels of 3 mm by a generator of its own.

Its probability is that of the brain with the fluid around it. It has learnt from heads painted in
random contrast alone, as SynthStrip has (Hoopes et al. 2022), so the contrast does not matter.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.inference.measures import background_of
from segsrgan.volumes.intensities import Normalisation, usual_range
from segsrgan.volumes.labels import islands
from segsrgan.volumes.resampling import degrade, resample_to
from segsrgan.volumes.volume import Volume

WEIGHTS = "brain"  # their name in the registry

_SPACING = 3.0  # mm
_THRESHOLD = 0.2  # below 0.5: brain that is cut off is a worse error than fluid that is kept
_SURE = 0.8
_MARGIN = 42.0  # mm of nothing that are put around the image: brains alone may touch its borders
_LEAST = 20.0  # ml; a smaller one is no brain, not even that of a fetus of 20 weeks
_BESIDE = 4.0  # mm around the brain that do not tell a head from a brain alone
_HEAD = 0.4  # of the brain's volume: heads have 0.85 and more around it, brains alone 0.2 and less
_DARK = 0.1  # of the range of intensities; what differs less from the background is background
_ML = 1e-3  # of a cubic millimetre


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain that was found.

    Attributes:
        probability: float32 `Volume` in [0, 1] of voxels of 3 mm. It reaches 0.2 in one part
            without holes, connected by faces, edges or corners; nowhere if no brain was found.
        is_inside_head: whether the scan shows more than the brain.
    """

    probability: Volume
    is_inside_head: bool

    @property
    def volume(self):
        """In ml."""
        voxel = float(np.prod(self.probability.spacing)) * _ML
        return float(np.count_nonzero(self.probability.array >= _THRESHOLD) * voxel)

    @property
    def unsure(self):
        """The fraction of the brain whose probability is below 0.8; 0 if none was found."""
        found = self.probability.array[self.probability.array >= _THRESHOLD]
        return float(np.mean(found < _SURE)) if found.size else 0.0

    def on(self, grid):
        """The voxels of a `Grid` in the brain, a bool array."""
        return resample_to(self.probability, grid, spline_order=1).array >= _THRESHOLD


def find_brain(volume, predictor):
    """The `Brain` in a `Volume`, a scan of whatever contrast.

    `predictor` is a `segsrgan.inference.predictor.Predictor` with weights that find the brain.
    Raises `ValueError` if the scan is constant or has NaN or infinite voxels.
    """
    Normalisation.of(volume.array)  # says what is wrong with the scan's voxels, not with others
    coarse = _with_margin(degrade(volume, _SPACING))
    found = predictor.predict(coarse, patch=None, new_resolution=_SPACING).cortex
    array = found.array
    mask = array >= _THRESHOLD
    small, _ = islands(mask, 1.0)
    mask &= ~small
    filled = ndimage.binary_fill_holes(mask)
    array = np.where(small, 0, np.where(filled & ~mask, 1, array)).astype(np.float32)
    brain = Brain(found.with_array(array), _is_inside_head(volume, filled, found.grid))
    if brain.volume < _LEAST:
        return Brain(found.with_array(np.zeros_like(array)), False)
    return brain


def _with_margin(volume):
    sizes = np.ceil(_MARGIN / np.array(volume.spacing)).astype(int)
    array = np.pad(volume.array, [(n, n) for n in sizes], constant_values=volume.array.min())
    origin = volume.grid.index_to_physical(-sizes)
    return Volume(array, volume.spacing, origin, volume.direction)


def _is_inside_head(volume, brain, grid):
    """Whether a scan shows more than a brain, a bool array on a grid."""
    if not brain.any():
        return False
    distance = ndimage.distance_transform_edt(~brain, grid.spacing)
    low, high = usual_range(volume.array)
    bright = np.abs(volume.array - background_of(volume.array)) > _DARK * (high - low)
    shown = resample_to(volume.with_array(bright.astype(np.uint8)), grid, spline_order=0).array > 0
    outside = shown & (distance > _BESIDE)
    return bool(outside.sum() > _HEAD * brain.sum())
