# SPDX-License-Identifier: MIT
"""Isotropic high-resolution images and segmentations from anisotropic MRI.

The public names are loaded when they are first used, so that ``import segsrgan`` costs nothing
and a program that only reads volumes never loads Keras.

Examples:
    >>> from segsrgan import Predictor, write_volume
    >>> result = Predictor().predict("t2.nii.gz", patch=128, new_resolution=(0.5, 0.5, 0.5))
    >>> write_volume(result.sr, "t2_sr.nii.gz")
"""

import os

import lazy_loader

__version__ = "3.1.0.dev0"

# Read by TensorFlow when it is imported, which every module of ours does after this line. On
# processors without AVX-512 TensorFlow leaves oneDNN off, and computes at a third of the speed.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference": ["Predictor", "segmentation"],
        "networks": ["load_generator"],
        "volumes": ["Volume", "read_volume", "write_volume"],
    },
)
__all__ += ["__version__"]
