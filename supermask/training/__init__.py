# SPDX-License-Identifier: MIT
"""Training of the segmentor and of AlignNet: apart first, then each helped by the other.

Examples:
    >>> from supermask.training import TrainingSettings, fit
    >>> networks = fit(cases, TrainingSettings(grid_size=48, spacing=3, window=7), "run")
    >>> result = supermask.predict(["axial.nii.gz", "sagittal.nii.gz"], weights=networks)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "examinations": ["Examination"],
        "painting": ["paint"],
        "run": ["fit"],
        "settings": ["TrainingSettings"],
    },
)
