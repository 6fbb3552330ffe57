# SPDX-License-Identifier: MIT
"""The CSV of a training: one row per image, checked as a whole before anything starts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.volumes import Volume, VolumeError, read_volume

COLUMNS = ("HR_image", "Label_image", "Base")
BASES = ("Train", "Test")


class TableError(ValueError):
    """A training CSV with problems; the message lists them all."""


@dataclass(frozen=True)
class Case:
    """One row: the paths of a high-resolution image and its label, and its part.

    Attributes:
        image: path of the image.
        label: path of the label; a voxel above 0.5 is inside.
        base: "Train" or "Test".
    """

    image: Path
    label: Path
    base: str

    def load(self):
        """Reads the case.

        Returns:
            `(image, label)`: a float32 `Volume` and a bool (x, y, z) array on its grid.

        Raises:
            VolumeError: if a file is unreadable or the grids differ.
        """
        image, label = read_volume(self.image), read_volume(self.label)
        _check_same_grid(image, label, self)
        if not np.isfinite(image.array).all():
            raise VolumeError(
                f"{self.image}: has voxels that are NaN or infinite; repair the image"
            )
        if image.array.max() <= 0:
            raise VolumeError(f"{self.image}: has no positive voxel; expected an MR image")
        inside = label.array > 0.5
        if not inside.any():
            raise VolumeError(f"{self.label}: the label is empty; expected voxels above 0.5")
        return image, inside


def _check_same_grid(image: Volume, label: Volume, case):
    if image.array.shape != label.array.shape:
        raise VolumeError(
            f"{case.label}: the label's shape {label.array.shape} differs from the image's "
            f"{image.array.shape} ({case.image}); resample the label onto the image"
        )
    corners = np.array([(0, 0, 0), np.array(image.array.shape) - 1])
    apart = image.grid.index_to_physical(corners) - label.grid.index_to_physical(corners)
    shift = float(np.linalg.norm(apart, axis=-1).max())
    if shift > 0.1 * min(image.spacing):
        raise VolumeError(
            f"{case.label}: the label lies up to {shift:.2f} mm beside the image ({case.image}); "
            "both headers must describe the same grid"
        )


def read_table(path, base_path=None):
    """Reads a training CSV and checks all of it.

    Args:
        path: of the CSV with the columns HR_image, Label_image and Base (Train or Test).
        base_path: folder that relative paths start from; the CSV's own by default.

    Returns:
        `(train, test)`: lists of `Case`, neither empty.

    Raises:
        TableError: one message with every problem found: columns, parts, files, grids, labels.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such CSV; expected columns {', '.join(COLUMNS)}")
    try:
        table = pd.read_csv(path, dtype=str, skip_blank_lines=True, encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise TableError(f"{path}: not a readable CSV ({error})") from error
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise TableError(
            f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}, "
            f"received {', '.join(map(str, table.columns))}"
        )
    cases, problems = _cases(table, Path(base_path) if base_path else path.parent)
    for case in cases:
        try:
            case.load()
        except (VolumeError, OSError) as error:
            problems.append(str(error))
    train, test = ([case for case in cases if case.base == base] for base in BASES)
    problems += [
        f"no row has {base} in the column Base; one at least is needed"
        for base, group in zip(BASES, (train, test), strict=True)
        if not group and not problems
    ]
    if problems:
        raise TableError(f"{path}: {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    return train, test


def _cases(table, base_path):
    cases, problems = [], []
    for number, row in enumerate(table.itertuples(index=False), start=2):
        values = {name: str(getattr(row, name)).strip() for name in COLUMNS}
        empty = [name for name, value in values.items() if value in ("", "nan")]
        if empty:
            problems.append(f"line {number}: {', '.join(empty)} is empty")
        elif values["Base"] not in BASES:
            problems.append(f"line {number}: Base must be Train or Test, received {values['Base']}")
        else:
            paths = (base_path / values["HR_image"], base_path / values["Label_image"])
            cases.append(Case(*paths, values["Base"]))
    return cases, problems
