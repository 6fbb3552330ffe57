# SPDX-License-Identifier: MIT
"""SuperMask: one high-resolution mask from two or three unaligned stacks of a patient.

Importing this package loads nothing; the names below are loaded at their first use.
"""

from importlib import import_module

from segsrgan import __version__

_HOME = {
    "AlignNetSpec": "supermask.alignnet",
    "Prediction": "supermask.prediction",
    "Rigid": "supermask.rigid",
    "SegmentorSpec": "supermask.unet",
    "Settings": "supermask.settings",
    "Simulation": "supermask.simulation",
    "SupermaskError": "supermask.errors",
    "View": "supermask.views",
    "build_alignnet": "supermask.alignnet",
    "build_segmentor": "supermask.unet",
    "load_networks": "supermask.weights",
    "predict": "supermask.api",
    "read_patients": "supermask.table",
    "read_transform": "supermask.rigid",
    "read_view": "supermask.views",
    "register": "supermask.registration",
    "score": "supermask.metrics",
    "simulate": "supermask.simulation",
    "write_results": "supermask.results",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
