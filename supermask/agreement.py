# SPDX-License-Identifier: MIT
"""How well aligned views agree: what tells a user whether a result can be trusted."""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.volumes import dice
from supermask.pyramid import correlation

LEAST_DICE = 0.7
LEAST_CORRELATION = 0.3
_SURROUNDINGS = 3  # voxels around the masks in which images are compared
_LEAST_VOXELS = 100


class Agreement(NamedTuple):
    """Of two aligned views.

    Attributes:
        first, second: their names.
        dice: of their masks where both see; nan if they nowhere see together.
        correlation: of their images in and around the masks, Pearson's, likewise.
        overlap: share of the first's field of view, inside the grid, that the second sees, too.
    """

    first: str
    second: str
    dice: float
    correlation: float
    overlap: float

    @property
    def is_doubtful(self):
        """Whether the masks hardly overlap: nothing that other contrasts would explain."""
        return not self.dice >= LEAST_DICE

    def warnings(self):
        """What is wrong with it, a list of str."""
        names = f"{self.first} and {self.second}"
        if math.isnan(self.dice):
            return [f"{names} nowhere see the same part of the object once they are aligned"]
        result = []
        if self.dice < LEAST_DICE:
            result.append(
                f"{names} agree badly once they are aligned (Dice of their masks {self.dice:.2f}, "
                f"expected {LEAST_DICE:g} or more): are they of one patient and one object? Look "
                "at the aligned masks; another --alignment may help"
            )
        if self.correlation < LEAST_CORRELATION:
            result.append(
                f"{names}: their images hardly resemble each other once they are aligned "
                f"(correlation {self.correlation:.2f}, expected {LEAST_CORRELATION:g} or more); "
                "unless their contrasts differ, the alignment has failed"
            )
        return result


def agreements(names, masks, images, insides):
    """The `Agreement` of every two views.

    Args:
        names: of the views.
        masks: per view (x, y, z), bool or probabilities.
        images: per view (x, y, z).
        insides: per view bool (x, y, z), its field of view.

    Returns:
        A list of `Agreement`.
    """
    pairs = itertools.combinations(range(len(names)), 2)
    return [
        _agreement(
            *((names[k], masks[k] >= 0.5, images[k], insides[k]) for k in (first, second)),
        )
        for first, second in pairs
    ]


def _agreement(first, second):
    (name, mask, image, inside), (other_name, other_mask, other_image, other_inside) = first, second
    both = inside & other_inside
    overlap = np.count_nonzero(both) / max(1, np.count_nonzero(inside))
    a, b = mask & both, other_mask & both
    # Neither mask where both see, while there are masks: nothing to agree upon.
    if not (a.any() or b.any()):
        return Agreement(name, other_name, math.nan, math.nan, overlap)
    near = ndimage.binary_dilation(a | b, iterations=_SURROUNDINGS) & both
    resemblance = math.nan
    if np.count_nonzero(near) >= _LEAST_VOXELS:
        resemblance = correlation(image[near], other_image[near])
    return Agreement(name, other_name, dice(a, b), resemblance, overlap)
