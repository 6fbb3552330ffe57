# SPDX-License-Identifier: MIT
"""Label maps that synthetic images are painted on: their CSV, read and checked as a whole."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.config import Rule
from segsrgan.errors import TableError, VolumeError, problems_error
from segsrgan.tables import read_table, resolved
from segsrgan.training.cases import POSE, filled_box, is_upright
from segsrgan.training.painting import NUMBERINGS, LabelMap, prepare_labels
from segsrgan.training.settings import SYNTHETIC, TISSUES
from segsrgan.training.sources import SyntheticSource
from segsrgan.volumes import read_finite
from segsrgan.volumes.comparison import UPRIGHT, reordered

logger = logging.getLogger(__name__)

COLUMNS = ("Label_map", "Cortex", "Tissues", "Scale_min", "Scale_max", "Fraction", POSE)
# Patches show the anatomy at most this much larger or smaller than it is.
_SCALE = (0.8, 1.25)
_LARGEST = 65535
_ROUNDING = 1e-3  # by a scaled header
_ISOTROPIC = 1.1
_THREADS = 2  # each holds one map
_CORTEX = Rule(tuple[int, ...], ">= 1")
_POSITIVE = Rule(float, "> 0")


@dataclass(frozen=True)
class MapFile:
    """A label map as a row of the CSV, or the command line, names it."""

    path: Path
    cortex: tuple = SYNTHETIC["cortex_labels"]  # the values of the structure to segment
    tissues: str = SYNTHETIC["tissues"]  # one of `TISSUES`
    scale: tuple | None = None  # bounds, see `Map.scale`
    fraction: float = 1.0  # of the painted patches, relative to other maps
    upright: bool = True  # whether the head lies in its usual pose

    def load(self):
        """The `Map`; a `VolumeError` names it if it is unreadable or not a label map."""
        volume = reordered(read_finite(self.path, labels=True), UPRIGHT)
        _check(volume, self.path)
        window = tuple(slice(*pair) for pair in filled_box(volume.array > 0))
        array = np.rint(volume.array[window]).astype(np.int32)  # beyond it all is background
        numbering = NUMBERINGS[self.tissues]
        try:
            labels = prepare_labels(array, self.cortex, numbering)
        except ValueError as error:
            raise VolumeError(f"{self.path}: {error}") from error
        if not labels.brain[list(labels.cortex)].all():
            raise VolumeError(
                f"{self.path}: some of the cortex {self.cortex} are not tissues of the brain in "
                f"the {self.tissues} numbering; number them {numbering.tissues['cortex']}, or take "
                "--tissues own"
            )
        known = {value for group in numbering.tissues.values() for value in group}
        outside = sorted(set(np.unique(array).tolist()) - known - {0}) if known else ()
        return Map(self, labels, float(np.mean(volume.spacing)), tuple(outside))


@dataclass(frozen=True)
class Map:
    """A label map ready to draw from."""

    file: MapFile
    labels: LabelMap  # cropped to what is not background
    spacing: float  # mean size of its voxels, mm
    outside: tuple = ()  # the values that are taken to lie outside the brain

    def scale(self, spacing=None):
        """The bounds of the patch voxel's size in voxels of the map.

        Those of the file; else 0.8 and 1.25 times `spacing`, by default the map's own, mm.
        """
        relative = (spacing or self.spacing) / self.spacing
        return self.file.scale or tuple(bound * relative for bound in _SCALE)

    def tiles(self, patch, stride, spacing=None):
        """How many patches an image of the map's size has, see `box_starts`."""
        size = np.array(self.labels.labels.shape) / math.sqrt(math.prod(self.scale(spacing)))
        return int(np.prod(np.maximum(0, (size - patch) // stride) + 1))

    def source(self, spacing=None, **options):
        """A `SyntheticSource` of the map; for `spacing` see `scale`."""
        options |= {"scale": self.scale(spacing), "upright": self.file.upright}
        return SyntheticSource(self.labels, **options)


def read_maps(path, base_path=None, cortex=MapFile.cortex, tissues=MapFile.tissues):
    """Reads the CSV of label maps, and the maps: a list of `Map`, in the order of the rows.

    It has the column Label_map, and optionally Cortex (values separated by blanks or semicolons),
    Tissues (one of `TISSUES`), Scale_min and Scale_max, Fraction (a number above 0 in every row),
    and Pose (see `is_upright`); relative paths start from `base_path` or the CSV's folder. `cortex`
    and `tissues` are what the CSV leaves open. A `TableError` lists every problem found.
    """
    table = read_table(path, f"column {COLUMNS[0]}", base_path)
    if not table.has(COLUMNS[0]):
        raise TableError(
            f"{path}: no column {COLUMNS[0]}; expected it, and perhaps {', '.join(COLUMNS[1:])}; "
            f"received {', '.join(table.columns)}"
        )
    table.warn_of_unknown(COLUMNS)
    base = Path(base_path or table.path.parent).absolute()
    problems, files = [], []
    for row in table.rows:
        if row.problem:
            problems.append(row.problem)
            continue
        try:
            files.append(_file(row, base, cortex, tissues, table.has("Fraction")))
        except ValueError as error:
            problems.append(f"line {row.line}: {error}")
    if not table.rows:
        problems.append("no row names a label map; at least one is needed")
    return load_maps(files, path, problems)


def load_maps(files, title="label maps", problems=()):
    """The `Map` of each `MapFile`; a `TableError` lists every problem, those found before first."""
    maps, problems = [], list(problems)
    with ThreadPoolExecutor(_THREADS) as pool:
        for future in [pool.submit(file.load) for file in files]:
            try:
                maps.append(future.result())
            except (VolumeError, OSError) as error:
                problems.append(str(error))
    if problems:
        raise problems_error(title, problems)
    outside = sorted({value for item in maps for value in item.outside})
    if outside:
        text = "%s: values of no tissue of the brain are taken to lie outside it: %s"
        logger.info(text, title, ", ".join(map(str, outside)))
    return maps


def _file(row, base, cortex, tissues, fractions):
    """The `MapFile` of a row."""
    if not row.get("Label_map"):
        raise ValueError("Label_map is empty")
    if row.get("Cortex"):
        cortex = _CORTEX.checked(row.get("Cortex"), "Cortex")
    tissues = Rule(str, choices=TISSUES).checked(row.get("Tissues", tissues), "Tissues")

    def positive(name):
        return _POSITIVE.checked(_POSITIVE.parse(row.get(name)), name)

    scale = None
    if row.get("Scale_min") or row.get("Scale_max"):
        scale = positive("Scale_min"), positive("Scale_max")
        Rule(tuple[float, float]).checked(scale, "Scale_min and Scale_max")
    fraction = positive("Fraction") if fractions else 1.0
    path = resolved(row.get("Label_map"), base)
    return MapFile(path, cortex, tissues, scale, fraction, is_upright(row))


def _check(volume, path):
    """Raises `VolumeError` unless a volume may be a label map."""
    array = volume.array
    fractional = np.abs(array - np.rint(array)) > _ROUNDING
    odd = array[fractional | (array < -_ROUNDING) | (array > _LARGEST)]
    if odd.size:
        raise VolumeError(
            f"{path}: a label map holds whole numbers from 0 to {_LARGEST}; found {odd[0]:.10g}; "
            "was it interpolated, or is it an image?"
        )
    if min(array.shape) < 2:
        raise VolumeError(f"{path}: its shape is {array.shape}; expected a volume")
    if max(volume.spacing) > _ISOTROPIC * min(volume.spacing):
        sizes = "x".join(f"{size:g}" for size in volume.spacing)
        raise VolumeError(
            f"{path}: its voxels are {sizes} mm; expected a map as fine along every axis; resample "
            "it by nearest neighbours"
        )
