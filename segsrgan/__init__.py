# SPDX-License-Identifier: MIT
"""Isotropic high-resolution images and segmentations from anisotropic MRI.

The public names are loaded when they are first used, so that ``import segsrgan`` costs nothing
and a program that only reads volumes never loads Keras.

Example:
    >>> from segsrgan import Predictor, write_volume
    >>> result = Predictor().predict("t2.nii.gz", patch=128, new_resolution=(0.5, 0.5, 0.5))
    >>> write_volume(result.sr, "t2_sr.nii.gz")
"""

import os
from importlib import import_module

__version__ = "3.0.0"

# Read by TensorFlow when it is imported, which every module of ours does after this line. On
# processors without AVX-512 TensorFlow leaves oneDNN off, and computes at a third of the speed.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOME = {
    "Predictor": "segsrgan.inference",
    "Volume": "segsrgan.volumes",
    "load_generator": "segsrgan.networks",
    "read_volume": "segsrgan.volumes",
    "segmentation": "segsrgan.inference",
    "write_volume": "segsrgan.volumes",
}

__all__ = [  # noqa: F822 - the names of _HOME, found by __getattr__
    "Predictor",
    "Volume",
    "__version__",
    "load_generator",
    "read_volume",
    "segmentation",
    "write_volume",
]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *_HOME})
