# SPDX-License-Identifier: MIT
"""The settings of a prediction, checked; needs no library that is slow to load."""

import math
from dataclasses import dataclass

from segsrgan.errors import UserError

ALIGNMENTS = ("alignnet", "classical", "none")
FUSIONS = ("gaussian", "vote", "nearest")
ORDERS = ("align", "segment")
ON = ("auto", "image", "mask")
PATCH = 128


@dataclass(frozen=True)
class Settings:
    """How views are aligned, segmented and fused.

    Attributes:
        alignment: one of `ALIGNMENTS`; None: alignnet if the weights have one, else classical.
        reference: name of the view that the others are aligned to; None: the axial one if there is.
        fusion: one of `FUSIONS`, see `supermask.fusion.fuse`.
        order: "align": an image is aligned, then segmented, as in the paper; "segment": its
            segmentation is aligned. Without effect on masks that are given.
        passes: of AlignNet.
        refine: whether the classical optimiser goes on from AlignNet's answer; None: it does.
        on: what the classical alignment registers, see `supermask.registration.Classical`.
        spacing: voxel size of the result, mm; None: the segmentor's, or where it makes no mask the
            smallest in-plane spacing of the views.
        size: edge of the result in voxels; None: as large as the object.
        threshold: probability from which a voxel belongs to a mask, a view's and the fused one; of
            votes a majority.
        width: factor of the confidences' Gaussian.
        least: total confidence below which a voxel is outside.
        patch: edge of what the segmentor sees at once, voxels.

    Raises:
        UserError: if a value is out of range.
    """

    alignment: str | None = None
    reference: str | None = None
    fusion: str = "gaussian"
    order: str = "align"
    passes: int = 1
    refine: bool | None = None
    on: str = "auto"
    spacing: float | None = None
    size: int | None = None
    threshold: float = 0.5
    width: float = 1.0
    least: float = 0.0
    patch: int = PATCH

    def __post_init__(self):
        for name, choices in (
            ("alignment", (None, *ALIGNMENTS)),
            ("fusion", FUSIONS),
            ("order", ORDERS),
            ("on", ON),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise UserError(f"{name} must be one of {known}, received {getattr(self, name)!r}")
        for name in ("passes", "size", "patch"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name} must be a whole number from 1, received {value!r}")
        for name in ("spacing", "width"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be positive, received {value:g}; try 1")
        if not 0 < self.threshold < 1:
            raise UserError(
                f"threshold must be between 0 and 1, received {self.threshold:g}; try 0.5"
            )
        if not 0 <= self.least <= 3:
            raise UserError(f"least must be between 0 and 3, received {self.least:g}; try 0")
        if self.refine and self.alignment in ("classical", "none"):
            raise UserError(
                f"refine goes on from AlignNet, received alignment {self.alignment}; leave it out"
            )
