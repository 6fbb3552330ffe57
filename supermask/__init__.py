# SPDX-License-Identifier: MIT
"""SuperMask: one high-resolution mask from two or three unaligned stacks of a patient."""

from segsrgan import __version__

__all__ = ["__version__"]
