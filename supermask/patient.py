# SPDX-License-Identifier: MIT
"""The files of one patient, and what a set of patients has to fulfil."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from segsrgan.errors import UserError

MOST_VIEWS = 3


@dataclass(frozen=True)
class Patient:
    """The files of one patient; they need not exist.

    Attributes:
        name: can name a folder.
        views: paths of one to three stacks, files or DICOM folders, in any order.
        masks: as many paths of their masks, None where there is none.
        series: as many names of DICOM series, None where there is nothing to choose.
        truth: path of a high-resolution mask in the pose of the reference, or None.
        base: "Train", "Test" or None.

    Raises:
        UserError: if there are not one to three views, one is named twice, or masks or
            series are not as many.
    """

    name: str
    views: tuple[Path, ...]
    masks: tuple[Path | None, ...] = ()
    series: tuple[str | None, ...] = ()
    truth: Path | None = None
    base: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "name", safe_name(self.name))
        object.__setattr__(self, "views", tuple(Path(path) for path in self.views))
        if not 1 <= len(self.views) <= MOST_VIEWS:
            raise UserError(
                f"{self.name}: expected one to three stacks, received {len(self.views)}"
            )
        for name in ("masks", "series"):
            values = tuple(getattr(self, name)) or (None,) * len(self.views)
            if len(values) != len(self.views):
                raise UserError(
                    f"{self.name}: expected as many {name} as stacks, received {len(values)} and "
                    f"{len(self.views)}"
                )
            object.__setattr__(self, name, values)
        stacks = set(zip(self.views, self.series, strict=True))
        if len(stacks) < len(self.views):
            raise UserError(f"{self.name}: names one stack twice")


def safe_name(name):
    """A name without what a folder's cannot have."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "_", str(name)).strip(" .") or "patient"


def with_unique_names(patients):
    """The patients; of several with one name the later get a number: a, a_2, a_3."""
    taken, result = set(), []
    for patient in patients:
        name, number = patient.name, 1
        while name.lower() in taken:  # some file systems do not tell a from A
            number += 1
            name = f"{patient.name}_{number}"
        taken.add(name.lower())
        result.append(replace(patient, name=name))
    return result
