# SPDX-License-Identifier: MIT
"""Training of the segmentor and of AlignNet: apart first, then each helped by the other.

Example:
    >>> from supermask.training import Settings, fit
    >>> networks = fit(cases, Settings(grid_size=48, spacing=3, window=7), "run")
    >>> result = supermask.predict(["axial.nii.gz", "sagittal.nii.gz"], weights=networks)
"""

from importlib import import_module

# Loaded when they are used: most of them need Keras.
_HOME = {
    "Examination": "supermask.training.examinations",
    "Settings": "supermask.training.configuration",
    "fit": "supermask.training.run",
    "paint": "supermask.training.painting",
}
__all__ = ["Examination", "Settings", "fit", "paint"]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
