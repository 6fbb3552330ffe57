# SPDX-License-Identifier: MIT
"""SuperMask: one high-resolution mask from two or three unaligned stacks of a patient.

Importing this package loads nothing; the names below are loaded at their first use.
"""

import lazy_loader

from segsrgan import __version__  # noqa: F401 - the version of both packages

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "geometry": ["Rigid", "read_transform"],
        "networks": [
            *("AlignNetSpec", "SegmentorSpec", "build_alignnet", "build_segmentor"),
            "load_networks",
        ],
        "patients": ["read_patients"],
        "prediction": ["Prediction"],
        "registration": ["register"],
        "results": ["predict", "write_results"],
        "settings": ["PredictionSettings", "Simulation"],
        "simulation": ["simulate"],
        "views": ["View", "read_view"],
    },
)
__all__ += ["__version__"]
