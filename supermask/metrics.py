# SPDX-License-Identifier: MIT
"""The paper's scores of a mask, under the paper's names (Gu et al. 2023, section 3.3)."""

from typing import NamedTuple

from segsrgan.volumes import boundary_agreement, dice, overlap_errors


class Scores(NamedTuple):
    """The paper's scores of a mask.

    Attributes:
        dsc: Dice, 0 to 1, better high.
        us: "under-segmentation", the fraction of the prediction that is false, better low.
        os: "over-segmentation", the fraction of the truth that is missed, better low.
        rms: root of the mean square of both, better low.
        mba: boundary accuracy, slice by slice as in the paper's code, 0 to 1, better high.
        mba_3d: boundary accuracy in space, with a ball, 0 to 1, better high.
    """

    dsc: float
    us: float
    os: float
    rms: float
    mba: float
    mba_3d: float


def score(prediction, truth):
    """All `Scores` of a mask.

    Args:
        prediction: (x, y, z), every voxel other than 0 belongs to the object.
        truth: (x, y, z), every voxel other than 0, on the same isotropic grid.

    Returns:
        `Scores`; nan where the prediction or the truth is empty and a score therefore undefined.

    Raises:
        ValueError: if the shapes differ or are not 3-D.

    Example:
        >>> truth = np.zeros((8, 8, 8), bool)
        >>> truth[2:6, 2:6, 2:6] = True
        >>> score(truth, truth).dsc
        1.0
    """
    errors = overlap_errors(prediction, truth)
    return Scores(
        dice(prediction, truth),
        errors.false,
        errors.missed,
        errors.rms,
        boundary_agreement(prediction, truth),
        boundary_agreement(prediction, truth, flat=False),
    )
