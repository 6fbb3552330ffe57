# SPDX-License-Identifier: MIT
"""SuperMask: one high-resolution mask from two or three unaligned stacks of a patient.

Importing this package loads nothing; the names below are loaded at their first use.
"""

import lazy_loader

from segsrgan import __version__  # noqa: F401 - the version of both packages

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignnet": ["AlignNetSpec", "build_alignnet"],
        "metrics": ["score"],
        "patients": ["read_patients"],
        "prediction": ["Prediction"],
        "registration": ["register"],
        "results": ["predict", "write_results"],
        "rigid": ["Rigid", "read_transform"],
        "segmentation": ["SegmentorSpec", "build_segmentor"],
        "settings": ["PredictionSettings", "Simulation"],
        "simulation": ["simulate"],
        "views": ["View", "read_view"],
        "weights": ["load_networks"],
    },
)
__all__ += ["__version__"]
