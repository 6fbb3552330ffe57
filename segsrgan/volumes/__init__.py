# SPDX-License-Identifier: MIT
"""Volumes: geometry, files, resampling, intensities, patches and metrics.

Arrays are (x, y, z); geometry is ITK's patient space (LPS, mm). The names below are
loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "intensities": ["Normalisation", "foreground", "usual_range"],
        "labels": ["islands", "object_of", "select_labels"],
        "metrics": [
            *("OverlapErrors", "SurfaceDistances", "boundary_agreement", "connected_components"),
            *("dice", "overlap_errors", "psnr", "ssim", "surface_distances", "surface_voxels"),
        ],
        "nifti": ["write_volume"],
        "reading": ["read_finite", "read_volume"],
        "resampling": ["degrade", "legacy_resample", "resample", "resample_to"],
        "thickness": ["estimated_width"],
        "tiling": ["Accumulator", "Tiling", "plan"],
        "volume": ["Grid", "Volume"],
    },
)
