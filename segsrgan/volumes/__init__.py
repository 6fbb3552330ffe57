# SPDX-License-Identifier: MIT
"""Volumes: geometry, files, resampling, intensities, patches and metrics.

Arrays are (x, y, z); geometry is ITK's patient space (LPS, mm). The names below are
loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "grid": ["Grid"],
        "intensity": ["Normalisation"],
        "metrics": ["connected_components", "dice", "psnr", "ssim"],
        "outline": ["boundary_agreement", "false_share", "missed_share", "share_rms"],
        "reading": ["SUFFIXES", "read_volume"],
        "resampling": ["degrade", "legacy_resample", "resample", "resample_to"],
        "surface": ["SurfaceDistances", "surface_distances", "surface_voxels"],
        "tiling": ["Accumulator", "Tiling", "plan"],
        "volume": ["Volume"],
        "writing": ["write_volume"],
    },
)
