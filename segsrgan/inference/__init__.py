# SPDX-License-Identifier: MIT
"""One or many low-resolution images in, high-resolution images and segmentations out.

Importing this package loads nothing; the names below are loaded at their first use.
"""

from importlib import import_module

_HOMES = {
    "Predictor": "predictor",
    "Prediction": "predictor",
    "Prepared": "predictor",
    "InferenceError": "errors",
    "Job": "job",
    "Outcome": "outcome",
    "run_job": "job",
    "segmentation": "one_image",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
