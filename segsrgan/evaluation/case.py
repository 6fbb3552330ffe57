# SPDX-License-Identifier: MIT
"""A case, what is compared with what, and its row, what was measured."""

from dataclasses import dataclass, field
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.tables import stem

# Which file is of no use without which others.
NEEDS = {
    "image": ("reference_image",),
    "reference_image": ("image",),
    "label": ("reference_label",),
    "reference_label": ("label",),
    "mask": ("image", "reference_image"),
    "baseline": ("image", "reference_image"),
}


@dataclass(frozen=True)
class Case:
    """The files of a case, as paths; text becomes a `Path`. Either pair, or both, must be there.

    Attributes:
        image: the predicted, super-resolved image.
        reference_image: what it should be.
        label: the predicted segmentation: labels or probabilities.
        reference_label: what it should be.
        mask: the region, such as the brain, in which images are compared: every voxel but 0.
        baseline: the image of low resolution, measured beside `image` after interpolation.
        name: of the case; the stem of its reference by default.
    """

    image: Path | None = None
    reference_image: Path | None = None
    label: Path | None = None
    reference_label: Path | None = None
    mask: Path | None = None
    baseline: Path | None = None
    name: str = ""

    def __post_init__(self):
        for kind in NEEDS:
            if (path := getattr(self, kind)) is not None:
                object.__setattr__(self, kind, Path(path))
        reference = self.reference_image or self.reference_label or self.image or self.label
        if not self.name and reference:
            object.__setattr__(self, "name", stem(reference))

    @property
    def files(self):
        """Kind -> path, of the files that the case has."""
        return {kind: path for kind in NEEDS if (path := getattr(self, kind)) is not None}

    @property
    def kinds(self):
        """What can be compared: "label" and "image", as far as both of a pair are there."""
        return tuple(
            kind for kind in ("label", "image") if {kind, f"reference_{kind}"} <= self.files.keys()
        )

    def check(self):
        """Make sure that something can be compared and nothing lacks its partner.

        Raises:
            UserError: if not.
        """
        files = self.files
        lacking = {
            kind: [need for need in NEEDS[kind] if need not in files]
            for kind in files
            if not files.keys() >= set(NEEDS[kind])
        }
        for kind, needs in lacking.items():
            raise UserError(
                f"{kind} ({files[kind]}) is given without {' and '.join(needs)}; "
                f"give that too, or leave {kind} out"
            )
        if not files:
            raise UserError(
                "names no file; expected image and reference_image, or label and reference_label"
            )


@dataclass(frozen=True)
class Row:
    """What was measured of a case.

    Attributes:
        case: the `Case`.
        values: name of the metric -> float, nan where it is not defined; empty if it failed.
        region: where images were compared: "mask", "reference not 0", or "" without images.
        notes: what a reader must know, such as "label resampled".
        error: why the case failed, in one line, or "".
    """

    case: Case
    values: dict = field(default_factory=dict)
    region: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""
