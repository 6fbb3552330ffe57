# SPDX-License-Identifier: MIT
"""Label maps that synthetic images are painted on: their CSV, read and checked as a whole."""

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.config import check_bounds, whole_numbers
from segsrgan.errors import TableError, VolumeError
from segsrgan.training.configuration import SYNTHETIC, TISSUES
from segsrgan.training.patches import filled_box
from segsrgan.training.sources import SyntheticSource
from segsrgan.training.synthesis import FREESURFER_TISSUES, LabelMap, prepare_labels
from segsrgan.training.table import read_rows
from segsrgan.volumes import read_volume

logger = logging.getLogger(__name__)

COLUMN = "Label_map"
OPTIONAL = ("Cortex", "Tissues", "Scale_min", "Scale_max")
# Patches show the anatomy at most this much larger or smaller than it is.
_SCALE = (0.8, 1.25)
_LARGEST = 65535
_ISOTROPIC = 1.1
_THREADS = 2  # each holds one map


@dataclass(frozen=True)
class MapFile:
    """A label map as a row of the CSV, or the command line, names it.

    Attributes:
        path: of the map.
        cortex: the values of the structure to segment.
        tissues: one of `TISSUES`.
        scale: bounds of the patch voxel's size in voxels of the map, or None, see `Map.scale`.
    """

    path: Path
    cortex: tuple = whole_numbers(SYNTHETIC["cortex_labels"], "cortex_labels", low=1)
    tissues: str = SYNTHETIC["tissues"]
    scale: tuple | None = None

    def load(self):
        """Reads the map.

        Returns:
            A `Map`.

        Raises:
            VolumeError: if it is unreadable or no label map; the message names it.
        """
        volume = read_volume(self.path)
        _check(volume, self.path)
        window = tuple(slice(*pair) for pair in filled_box(volume.array > 0))
        array = volume.array[window].astype(np.int32)  # beyond it all is background
        own = self.tissues == "own"
        try:
            labels = prepare_labels(array, self.cortex, {} if own else None)
        except ValueError as error:
            raise VolumeError(f"{self.path}: {error}") from error
        if not labels.brain[list(labels.cortex)].all():
            raise VolumeError(
                f"{self.path}: of the cortex {self.cortex} some values are no tissue of the brain "
                "to FreeSurfer; number them 3 and 42, or take --tissues own"
            )
        known = {value for group in FREESURFER_TISSUES.values() for value in group}
        outside = () if own else tuple(sorted(set(np.unique(array).tolist()) - known))
        return Map(self, labels, float(np.mean(volume.spacing)), outside)


@dataclass(frozen=True)
class Map:
    """A label map ready to draw from.

    Attributes:
        file: its `MapFile`.
        labels: its `LabelMap`, cropped to what is not background.
        spacing: mean size of its voxels, mm.
        outside: the values that are taken to lie outside the brain.
    """

    file: MapFile
    labels: LabelMap
    spacing: float
    outside: tuple = ()

    def scale(self, spacing=None):
        """The bounds of the patch voxel's size in voxels of the map.

        Those of the file; else 0.8 and 1.25 times `spacing`, by default the map's own, mm.
        """
        relative = (spacing or self.spacing) / self.spacing
        return self.file.scale or tuple(bound * relative for bound in _SCALE)

    def tiles(self, patch, stride, spacing=None):
        """How many patches an image of the map's size has, see `patches.box_starts`."""
        size = np.array(self.labels.labels.shape) / math.sqrt(math.prod(self.scale(spacing)))
        return int(np.prod(np.maximum(0, (size - patch) // stride) + 1))


def sources_of(maps, patch, acquisition, strip=None, spacing=None):
    """A `SyntheticSource` of each map.

    Args:
        maps: sequence of `Map`.
        patch: edge in voxels.
        acquisition: an `Acquisition`.
        strip: share of the patches without what is not brain; None: the source's default.
        spacing: see `Map.scale`.

    Returns:
        list, in the order of the maps.
    """
    options = {"patch": patch, "acquisition": acquisition}
    if strip is not None:
        options["strip"] = strip
    return [
        SyntheticSource(maps=(item.labels,), scale=item.scale(spacing), **options) for item in maps
    ]


def read_maps(path, base_path=None, cortex=MapFile.cortex, tissues=MapFile.tissues):
    """Reads the CSV of label maps, and the maps.

    Args:
        path: of the CSV with the column Label_map, and optionally Cortex (values separated by
            blanks or semicolons), Tissues (freesurfer or own), Scale_min and Scale_max.
        base_path: folder that relative paths start from; the CSV's own by default.
        cortex: values of the structure to segment, where the CSV does not say.
        tissues: one of `TISSUES`, likewise.

    Returns:
        list of `Map`, in the order of the rows.

    Raises:
        TableError: one message with every problem found.
    """
    path = Path(path)
    rows = read_rows(path, (COLUMN,), OPTIONAL)
    problems, files = [], []
    for number, row in enumerate(rows, start=2):
        try:
            files.append(_file(row, Path(base_path) if base_path else path.parent, cortex, tissues))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if not rows:
        problems.append("no row names a label map; one at least is needed")
    return load_maps(files, path, problems)


def load_maps(files, title="label maps", problems=()):
    """Reads label maps.

    Args:
        files: sequence of `MapFile`.
        title: before the list of problems.
        problems: found before.

    Returns:
        list of `Map`.

    Raises:
        TableError: one message with every problem found.
    """
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        maps = list(pool.map(_load, files))
    problems = [*problems, *(found for found in maps if isinstance(found, str))]
    if problems:
        raise TableError(f"{title}: {len(problems)} problem(s):\n  " + "\n  ".join(problems))
    outside = sorted({value for item in maps for value in item.outside})
    if outside:
        logger.info(
            "%s: values that are no tissue of the brain to FreeSurfer are taken to lie outside "
            "it: %s",
            title,
            ", ".join(map(str, outside)),
        )
    return maps


def _load(file):
    """The map, or what is wrong with it."""
    try:
        return file.load()
    except (VolumeError, OSError) as error:
        return str(error)


def _file(row, base_path, cortex, tissues):
    """The `MapFile` of a row."""
    if not row[COLUMN]:
        raise ValueError(f"{COLUMN} is empty")
    if row["Cortex"]:
        cortex = whole_numbers(row["Cortex"], "Cortex", low=1)
    tissues = row["Tissues"] or tissues
    if tissues not in TISSUES:
        raise ValueError(f"Tissues must be {' or '.join(TISSUES)}, received {tissues}")
    return MapFile(base_path / row[COLUMN], cortex, tissues, _scale(row))


def _scale(row):
    texts = (row["Scale_min"], row["Scale_max"])
    if texts == ("", ""):
        return None
    try:
        scale = tuple(map(float, texts))
    except ValueError:
        scale = ()
    if len(scale) != 2 or not all(0 < bound < math.inf for bound in scale):
        raise ValueError(
            f"Scale_min and Scale_max must be two numbers above 0, received {texts[0]!r} and "
            f"{texts[1]!r}; leave both empty for the size that the header tells"
        )
    check_bounds(scale, "Scale_min and Scale_max")
    return scale


def _check(volume, path):
    """Raises `VolumeError` unless a volume may be a label map."""
    array = volume.array
    if not np.isfinite(array).all():
        raise VolumeError(f"{path}: has voxels that are NaN or infinite; repair the map")
    odd = array[(array != np.rint(array)) | (array < 0) | (array > _LARGEST)]
    if odd.size:
        raise VolumeError(
            f"{path}: a label map holds whole numbers from 0 to {_LARGEST}; found {odd[0]:g}; was "
            "it interpolated, or is it an image?"
        )
    if min(array.shape) < 2:
        raise VolumeError(f"{path}: its shape is {array.shape}; expected a volume")
    if max(volume.spacing) > _ISOTROPIC * min(volume.spacing):
        sizes = "x".join(f"{size:g}" for size in volume.spacing)
        raise VolumeError(
            f"{path}: its voxels are {sizes} mm; expected a map as fine along every axis; resample "
            "it by nearest neighbours"
        )
