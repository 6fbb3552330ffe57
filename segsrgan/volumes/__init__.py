# SPDX-License-Identifier: MIT
"""Volumes: geometry, files, resampling, intensities, patches and metrics.

Arrays are (x, y, z); geometry is ITK's patient space (LPS, mm).
"""

from segsrgan.volumes.grid import Grid
from segsrgan.volumes.intensity import Normalisation
from segsrgan.volumes.metrics import connected_components, dice, psnr, ssim
from segsrgan.volumes.outline import (
    boundary_agreement,
    false_share,
    missed_share,
    share_rms,
)
from segsrgan.volumes.reading import SUFFIXES, read_volume
from segsrgan.volumes.resample import (
    INTERPS,
    SITK_INTERPOLATORS,
    degrade,
    legacy_resample,
    resample,
    resample_to,
)
from segsrgan.volumes.surface import SurfaceDistances, surface_distances, surface_voxels
from segsrgan.volumes.tiling import BLENDS, GEOMETRIES, Accumulator, Tiling, plan
from segsrgan.volumes.volume import Volume, VolumeError
from segsrgan.volumes.writing import write_volume

__all__ = [
    "BLENDS",
    "GEOMETRIES",
    "INTERPS",
    "SITK_INTERPOLATORS",
    "SUFFIXES",
    "Accumulator",
    "Grid",
    "Normalisation",
    "SurfaceDistances",
    "Tiling",
    "Volume",
    "VolumeError",
    "boundary_agreement",
    "connected_components",
    "degrade",
    "dice",
    "false_share",
    "legacy_resample",
    "missed_share",
    "plan",
    "psnr",
    "read_volume",
    "resample",
    "resample_to",
    "share_rms",
    "ssim",
    "surface_distances",
    "surface_voxels",
    "write_volume",
]
