# SPDX-License-Identifier: MIT
"""The settings of predictions and simulations; needs no library that is slow to load."""

from dataclasses import dataclass

from segsrgan.config import check, setting
from segsrgan.errors import UserError

ALIGNMENTS = ("alignnet", "classical", "none")
FUSIONS = ("gaussian", "vote", "nearest")
ORDERS = ("align", "segment")
ON = ("auto", "image", "mask")
# Of the slice normal: the patient's left-right, front-back and feet-head axis.
PLANES = ("sagittal", "coronal", "axial")
PATCH = 128


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How views are aligned, segmented and fused; the help of a field says what it is.

    None stands for a default that depends on the views and networks.

    Raises:
        UserError: if a value is out of range, or two contradict each other.
    """

    alignment: str | None = setting(
        None,
        "none: trust the headers (default: alignnet if the weights have one, else classical)",
        choices=ALIGNMENTS,
    )
    reference: str | None = setting(
        None, "view that gives the pose (default: axial)", metavar="VIEW"
    )
    passes: int = setting(1, "passes of AlignNet, each on what the last has aligned", ">= 1")
    refine: bool | None = setting(
        None, "go on classically from AlignNet's answer, keep the better (default: True)"
    )
    on: str = setting("auto", "what is registered classically", choices=ON)
    order: str = setting(
        "align", "align images, then segment; or segment, then align masks", choices=ORDERS
    )
    fusion: str = setting("gaussian", "of masks and images", choices=FUSIONS)
    consistency: str = setting(
        "on", "the fused image agrees with the slices of all views", choices=("on", "off")
    )
    width: float = setting(1.0, "factor of the confidences' Gaussian", "> 0")
    least: float = setting(0.0, "total confidence below which a voxel is outside", "[0, 3]")
    spacing: float | None = setting(
        None,
        "voxel size of the result (default: the segmentor's, or the views' smallest in plane)",
        "> 0",
        metavar="MM",
    )
    size: int | None = setting(
        None, "edge of the result in voxels (default: as large as the object)", ">= 1"
    )
    threshold: float = setting(
        0.5, "probability from which a voxel belongs to a view's mask and the fused one", "(0, 1)"
    )
    patch: int = setting(PATCH, "edge of what the segmentor sees at once, voxels", ">= 1")

    def __post_init__(self):
        check(self)
        if self.refine and self.alignment in ("classical", "none"):
            raise UserError(
                f"refine goes on from AlignNet, received alignment {self.alignment}; leave it out"
            )


@dataclass(frozen=True)
class Simulation:
    """How examinations are simulated; the help of a field says what it is.

    Attributes:
        slices: distance of the slices, mm; one for all planes, or one for each.
        planes: of the stacks; the first does not move and has the pose of the truth.
        contrast: whether the extremes of each view's intensities are cut at random and it is
            scaled to [0, 1].

    Raises:
        UserError: if a value is out of range, or two contradict each other.
    """

    slices: tuple[float, ...] = setting((8.0,))
    planes: tuple[str, ...] = setting(tuple(reversed(PLANES)), choices=PLANES)
    spacing: float = setting(1.0, "of the truth, and of the views in plane", "> 0", metavar="MM")
    size: int | None = setting(
        None, "edge of the cube, voxels (default: 1.5 times the object, plus the shifts)", ">= 16"
    )
    angle: float = setting(45.0, "largest turn about each axis", "[0, 90]", metavar="DEGREES")
    shift: float = setting(30.0, "largest shift along each axis", ">= 0", metavar="VOXELS")
    contrast: bool = setting(True)
    noise: float = setting(
        0.0, "standard deviation of Gaussian noise, as a fraction of a view's range", ">= 0"
    )

    def __post_init__(self):
        check(self)
        if len(set(self.planes)) < len(self.planes):
            raise UserError(
                f"planes must differ, received {', '.join(self.planes)}; name each once"
            )
        count = len(self.planes)
        if len(self.slices) not in (1, count) or min(self.slices) <= self.spacing:
            raise UserError(
                f"slices must be one distance or {count}, above the spacing of "
                f"{self.spacing:g} mm, received {self.slices}; try 8"
            )
        object.__setattr__(self, "slices", self.slices * (count // len(self.slices)))
