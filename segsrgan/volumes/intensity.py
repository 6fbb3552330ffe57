# SPDX-License-Identifier: MIT
"""Intensities to [0, 1] and back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Normalisation:
    """The linear map of an image's intensities to [0, 1] (SegSRGAN paper, section 3.1).

    Args:
        shift: subtracted first: the minimum where it is negative, else 0.
        scale: divisor: the maximum after the shift.
        floor: the image's minimum; no inverted value falls below it.

    Example:
        >>> normalisation = Normalisation.of(array)
        >>> same = normalisation.invert(normalisation.apply(array))
    """

    shift: float
    scale: float
    floor: float

    @classmethod
    def of(cls, array):
        """Return the normalisation of an array of any shape.

        Raises:
            ValueError: if voxels are NaN or infinite (the message counts them), or all equal.
        """
        lowest, highest = float(np.min(array)), float(np.max(array))
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            bad = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise ValueError(
                f"voxels must be finite numbers, received {bad} of {array.size} NaN or infinite; "
                "replace them, for instance with 0"
            )
        if lowest == highest:
            raise ValueError(
                f"the image must have contrast, received {array.size} voxels all equal to "
                f"{lowest:g}; check that it is the right file"
            )
        shift = min(0.0, lowest)
        scale = highest - shift
        if scale < np.finfo(np.float32).tiny:
            raise ValueError(
                f"the image's largest value must exceed 0 by more than {scale:g}; scale it up"
            )
        return cls(shift, scale, lowest)

    def apply(self, array):
        """Return (array - shift) / scale as a new float32 array."""
        result = np.subtract(array, self.shift, dtype=np.float32)
        result /= np.float32(self.scale)
        return result

    def invert(self, array):
        """Return array * scale + shift as a new float32 array, never below the floor."""
        result = np.multiply(array, self.scale, dtype=np.float32)
        result += np.float32(self.shift)
        return np.maximum(result, np.float32(self.floor), out=result)
