# SPDX-License-Identifier: MIT
"""One or many low-resolution images in, high-resolution images and segmentations out.

Importing this package loads nothing; the names below are loaded at their first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "one_call": ["segmentation"],
        "prediction": ["Prediction"],
        "predictor": ["Predictor"],
        "settings": ["PredictorSettings"],
    },
)
