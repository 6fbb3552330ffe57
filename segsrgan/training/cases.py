# SPDX-License-Identifier: MIT
"""The images of a training: the rows of its CSV file, read and checked before anything starts."""

import logging
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.errors import TableError, VolumeError, problems_error
from segsrgan.networks.outputs import HEADS
from segsrgan.tables import read_table, resolved
from segsrgan.volumes import Grid, foreground, read_finite, resample, select_labels, usual_range
from segsrgan.volumes.comparison import UPRIGHT, match, reordered
from segsrgan.volumes.labels import listed

_logger = logging.getLogger(__name__)

IMAGE, LABEL, BASE, MASK = "HR_image", "Label_image", "Base", "Mask_image"
POSE, POSES = "Pose", ("upright", "any")
BASES = ("Train", "Test")
# Columns whose files hold whole numbers of classes; those of the others hold probabilities.
CLASSES = frozenset(head.target for head in HEADS if head.activation == "softmax") | {MASK}
UNKNOWN = -1.0  # a voxel's label where nobody drew one, which no loss counts
_THREADS = 2  # each holds the volumes of one case
_TOLERANCE = 1e-3  # of labels, which scaling and interpolation round


class Cases(NamedTuple):
    """Lists of `Case`, and the number of classes of their masks, 0 unless they are learnt."""

    train: list
    test: list
    classes: int = 0


class Extent(NamedTuple):
    """What is known of an image without its voxels; boxes are `(first, last + 1)` per axis."""

    grid: Grid
    positive: tuple  # box around the voxels above 0
    content: tuple  # box around the voxels that are not background

    @classmethod
    def of(cls, image):
        """The extent of a `Volume`."""
        content = foreground(image.array)
        boxes = filled_box(content & (image.array > 0)), filled_box(content)
        return cls(image.grid, *boxes)

    @property
    def shape(self):
        """Voxels along (x, y, z)."""
        return self.grid.shape

    @property
    def spacing(self):
        """Voxel size, mm."""
        return self.grid.spacing

    def at(self, spacing):
        """The extent of the image interpolated to another voxel size in mm, see `resample`."""
        if spacing == self.spacing:
            return self
        grid = self.grid.corner_aligned(spacing)
        factors = np.divide(self.spacing, spacing)

        def scaled(box):
            return tuple(
                (math.floor(first * factor), min(math.ceil(last * factor), size))
                for (first, last), factor, size in zip(box, factors, grid.shape, strict=True)
            )

        return Extent(grid, scaled(self.positive), scaled(self.content))


@dataclass(frozen=True)
class Case:
    """One row.

    A label holds 0 and 1, probabilities, where a voxel above 0.5 is inside, or several `values`
    that are inside; a mask holds the classes 0, 1, ...
    """

    image: Path  # of high resolution
    labels: dict  # {column: path} of labels and masks
    base: str  # "Train" or "Test"
    values: tuple = ()  # of Label_image
    extent: Extent | None = None  # of the image, once it has been checked
    upright: bool = True  # whether the head lies in its usual pose

    def load(self, columns=()):
        """The image, a float32 `Volume`, and labels `{column: (x, y, z)}`.

        Their axes lead to the patient's right, front and top, as networks see them. Masks are uint8
        classes; labels bool, or float32 in [0, 1] where they are probabilities. A `VolumeError`
        names a file that is unreadable, has values it must not have, or lies on another grid than
        the image.
        """
        image = _read_image(self.image)
        return image, {column: self.load_label(column, image.grid) for column in columns}

    def load_label(self, column, grid=None):
        """One of the labels, see `load`; the grid of the image is that of its extent by default."""
        grid = grid or (self.extent and self.extent.grid)
        path, kind = self.labels[column], "mask" if column in CLASSES else "label"
        label = read_finite(path, labels=True)
        if grid is not None:  # the image can be read
            label = _on_grid(label, grid, path, kind, self.image)
        if column == LABEL and self.values:
            label = label.with_array(select_labels(label.array, self.values, path))
        return (_classes if kind == "mask" else _probabilities)(label.array, path)

    def checked(self):
        """Reads everything: the case with its extent, the set of the mask's values, problems."""
        problems, extent, grid, values = [], None, None, set()
        try:
            image = _read_image(self.image)
            usual_range(image.array, str(self.image), image.grid.thick_axis)  # for its warnings
            extent, grid = Extent.of(image), image.grid
        except (VolumeError, OSError) as error:
            problems.append(str(error))
        for column in self.labels:
            try:
                label = self.load_label(column, grid)
            except (VolumeError, OSError) as error:
                problems.append(str(error))
            else:
                if column == MASK:
                    values = set(np.flatnonzero(np.bincount(label.ravel())).tolist())
        return replace(self, extent=extent), values, problems


def is_upright(row):
    """What a row's optional column Pose says of a head: upright (the default) or any.

    Upright is a head whose axes are the patient's as its file says, give or take 15 degrees; of a
    fetus they say nothing, and in training it is turned at random. A `ValueError` else.
    """
    pose = row.get(POSE) or POSES[0]
    if pose not in POSES:
        raise ValueError(f"{POSE} must be {' or '.join(POSES)}, received {pose}")
    return pose == POSES[0]


def filled_box(inside):
    """The box around the True voxels (x, y, z), `(first, last + 1)` per axis; (0, 1) if none is."""
    box = ndimage.find_objects(inside.view(np.uint8), 1)[0]
    return tuple((part.start, part.stop) for part in box) if box else ((0, 1),) * 3


def at_spacing(image, labels, spacing):
    """An image and its labels, as `Case.load` returns them, interpolated to a voxel size in mm."""
    if spacing == image.spacing:
        return image, labels
    fine = resample(image, spacing)
    if image.array.min() >= 0:  # splines overshoot
        np.maximum(fine.array, 0, out=fine.array)

    def fit(column, label):
        if column in CLASSES:
            return resample(image.with_array(label), spacing, spline_order=0).array
        values = resample(image.with_array(label.astype(np.float32)), spacing, spline_order=1).array
        return values > 0.5 if label.dtype == bool else values

    return fine, {column: fit(column, label) for column, label in labels.items()}


def read_cases(
    path,
    base_path=None,
    fit_mask=False,
    crop_to_mask=False,
    test_alone=False,
    label_values=(),
    heads=(),
    unlabelled=False,
):
    """Reads the CSV file of a training and checks all of it, the images included.

    Args:
        path: of the CSV file with the columns HR_image, Label_image and Base (Train or Test), and
            optionally Pose, see `is_upright`.
        base_path: folder that relative paths start from; the CSV's own by default.
        fit_mask: whether the classes of the column Mask_image are learnt: 0, 1, ... up to the same
            number in all images.
        crop_to_mask: whether patches are taken where the masks are, see `overlapping_starts`.
        test_alone: whether there may be test images alone.
        label_values: values of Label_image that are inside, see `Case`.
        heads: names of further heads of the network, whose columns are needed.
        unlabelled: whether Label_image may be empty in rows of Train.

    Raises:
        TableError: one message with every problem found: columns, parts, files, grids, values.
    """
    reasons = ["--fit_mask"] * fit_mask
    reasons += ["--image_cropping_method overlapping_with_mask"] * crop_to_mask
    columns = [
        head.target
        for head in HEADS
        if head.name in ("cortex", *heads) or (head.activation == "softmax" and fit_mask)
    ]
    columns += [MASK] * (crop_to_mask and MASK not in columns)
    table = _table(Path(path), (IMAGE, *columns, BASE), " and ".join(reasons), base_path)
    base_path = Path(base_path or table.path.parent).absolute()
    cases, problems = _rows(table, columns, base_path, label_values, unlabelled)
    needed = () if problems else BASES[1:] if test_alone else BASES
    groups, values, classes = {base: [] for base in BASES}, {}, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for case, found, wrong in pool.map(Case.checked, cases):
            groups[case.base].append(case)
            values |= {case.labels[MASK]: found} if found else {}
            problems += wrong
    problems += _problems_of_bases(groups, needed, path)
    if fit_mask:
        classes, wrong = _count_classes(values)
        problems += wrong
    if problems:
        raise problems_error(path, problems)
    return Cases(*groups.values(), classes)


def _table(path, columns, mask_reason, base):
    """The CSV's `Table`, which has the columns."""
    expected = f"columns {', '.join(columns)}"
    table = read_table(path, expected, base)
    missing = [name for name in columns if not table.has(name)]
    if missing:
        reason = f" ({MASK} because of {mask_reason})" if MASK in missing else ""
        raise TableError(
            f"{path}: no column {', '.join(missing)}; expected {expected}{reason}, "
            f"received {', '.join(table.columns)}"
        )
    return table


def _rows(table, columns, base_path, label_values, unlabelled):
    """The `Case` of each row, and what is wrong with the others."""
    cases, problems = [], []
    for row in table.rows:
        base, given = row.get(BASE), columns
        if unlabelled and base == "Train":
            given = [name for name in columns if name != LABEL or row.get(name)]
        empty = [name for name in (IMAGE, *given, BASE) if not row.get(name)]
        if row.problem:
            problems.append(row.problem)
        elif empty:
            problems.append(f"line {row.line}: {', '.join(empty)} is empty")
        elif base not in BASES:
            problems.append(f"line {row.line}: Base must be Train or Test, received {base}")
        else:
            image, *labels = (resolved(row.get(name), base_path) for name in (IMAGE, *given))
            labels = dict(zip(given, labels, strict=True))
            try:
                case = Case(image, labels, base, label_values, upright=is_upright(row))
            except ValueError as error:
                problems.append(f"line {row.line}: {error}")
            else:
                cases.append(case)
    return cases, problems


def _problems_of_bases(groups, needed, path):
    """What is wrong with the division into Train and Test; a warning of images named twice."""
    problems = [
        f"no row has {base} in the column Base; at least one is needed"
        for base in needed
        if not groups[base]
    ]
    train, test = ([os.path.realpath(case.image) for case in group] for group in groups.values())
    for image, count in (Counter(train) + Counter(test)).items():
        if count > 1 and not (image in train and image in test):
            _logger.warning("%s: %s is in %d rows, each of which counts", path, image, count)
    return problems + [
        f"{image}: is in both Train and Test; leave it out of one, or the scores mean nothing"
        for image in sorted({*train} & {*test})
    ]


def _count_classes(values):
    """The number of classes of masks, `{path: set of values}`, and what is wrong with them."""
    if not values:
        return 0, []
    usual = Counter(max(found) for found in values.values()).most_common(1)[0][0]
    problems = [
        f"{path}: the mask's classes go up to {max(found)}, those of most others to {usual}; "
        "every mask must have the same classes"
        for path, found in values.items()
        if max(found) != usual
    ]
    absent = sorted(set(range(usual + 1)) - set().union(*values.values()))
    if absent:
        problems.append(
            f"no mask has a voxel of the class {listed(absent)} although classes go up to {usual}; "
            f"number them 0 to {usual - len(absent)}"
        )
    return usual + 1, problems


def _read_image(path):
    image = reordered(read_finite(path), UPRIGHT)
    if image.array.max() <= 0:
        raise VolumeError(f"{path}: has no positive voxel; expected an MR image")
    if min(image.array.shape) < 2:
        raise VolumeError(
            f"{path}: its shape is {image.array.shape}; expected a volume, received a single slice"
        )
    if image.array.min() == image.array.max():
        raise VolumeError(f"{path}: all voxels are {image.array.max():g}; expected an MR image")
    return image


def _probabilities(array, path):
    """The array of a label: bool, or float32 in [0, 1]."""
    if array.min() < -_TOLERANCE or array.max() > 1 + _TOLERANCE:
        raise VolumeError(
            f"{path}: a label holds 0 and 1, or probabilities between them; found "
            f"{listed(np.unique(array))}; write a label of the one structure to segment, or name "
            "its values (--label_values)"
        )
    if not (array > 0.5).any():
        raise VolumeError(f"{path}: the label is empty; expected voxels above 0.5")
    binary = array == 1
    if np.count_nonzero(binary) == np.count_nonzero(array):
        return binary
    return np.clip(array, 0, 1).astype(np.float32)


def _classes(array, path):
    """The array of a mask, uint8."""
    result = np.rint(np.clip(array, 0, 255)).astype(np.uint8)
    if not np.allclose(result, array, rtol=0, atol=_TOLERANCE):
        raise VolumeError(
            f"{path}: a mask holds the classes 0, 1, 2 ... up to 255; found "
            f"{listed(np.unique(array))}; number the classes from 0, the background"
        )
    if not result.any():
        raise VolumeError(f"{path}: the mask is empty; expected voxels above 0")
    return result


def _on_grid(label, grid, path, kind, image_path):
    """A label or mask whose voxels are those of the image."""
    label, found = match(label, grid, path, image_path)
    if found.fits:
        return label
    if found.shift <= min(grid.spacing) / 2:
        text = "%s: the %s lies %.2f mm beside %s, less than half a voxel; its voxels are taken"
        _logger.warning(text, path, kind, found.shift, image_path)
        return reordered(label, grid)
    raise VolumeError(
        f"{path}: the {kind} {found.difference(f'the image {image_path}')}; resample the {kind} "
        "onto the image (3D Slicer: export it with the image as reference), or, if its voxels are "
        "the image's, save it with the image's affine"
    )
