# SPDX-License-Identifier: MIT
"""The original's module of `segmentation`, for code that imports it from here."""

from segsrgan.inference.one_call import segmentation

__all__ = ["segmentation"]
