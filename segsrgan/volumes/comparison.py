# SPDX-License-Identifier: MIT
"""How the grids of two files lie to each other: the one comparison for labels, masks and results.

Programs store the same voxels along other axes, round headers, take the other of NIfTI's two
forms, or write no geometry at all; only what lies at the same place may be used voxel by voxel.
"""

import logging
import math
from typing import NamedTuple

import numpy as np

from segsrgan.volumes.nifti import other_grid, placed
from segsrgan.volumes.volume import Grid, Volume

_logger = logging.getLogger(__name__)

SAME, REORDERED, OTHER_FORM = "same", "reordered", "placed by the other form"
SHIFTED, OTHER = "shifted", "other"
# Fractions of the smallest voxel that corners may lie apart: headers round, and nothing shows it.
_TOLERANCE = 0.01
_ROUNDED_FORM = 0.1  # NIfTI's two forms round differently
# Its axes lead to the patient's right, front and top.
UPRIGHT = Grid((1, 1, 1), direction=np.diag([-1.0, -1.0, 1.0]))
_UNCHANGED = (0, 1, 2), (1, 1, 1)
_SAME_SIZE = 0.05  # between voxel sizes, relative


class Comparison(NamedTuple):
    """How a grid lies to a reference.

    Attributes:
        kind: SAME; REORDERED: the same voxels, axes stored in another order or direction;
            OTHER_FORM: the same voxels by NIfTI's other form, see `match`; SHIFTED: as many voxels
            of the same size; OTHER.
        shift: the farthest that a voxel lies from its place in the reference, mm; nan of OTHER.
        grid: what is compared.
        reference: what it is compared with.
    """

    kind: str
    shift: float
    grid: Grid
    reference: Grid

    @property
    def fits(self):
        """Whether the voxels of both are the same, one by one."""
        return self.kind in (SAME, REORDERED, OTHER_FORM)

    def difference(self, reference="the image"):
        """What is different, a sentence's end with both geometries: "lies up to 1.20 mm ..."."""
        text = f"lies up to {self.shift:.2f} mm beside {reference}"
        if self.kind == OTHER:
            text = f"lies on another grid than {reference}"
        default = " (what programs write by default)" if _is_default(self.grid) else ""
        return f"{text}: {described(self.grid)}{default} against {described(self.reference)}"


def compare(grid, reference):
    """The `Comparison` of a `Grid` with another one."""
    order = _order(grid, reference)
    ordered = _reordered_grid(grid, *order)
    alike = ordered.shape == reference.shape and np.allclose(
        ordered.spacing, reference.spacing, rtol=_SAME_SIZE
    )
    if not alike:
        return Comparison(OTHER, math.nan, grid, reference)
    shift = float(np.linalg.norm(ordered.corners - reference.corners, axis=-1).max())
    kind = SHIFTED
    if shift <= _TOLERANCE * min(reference.spacing):
        kind = SAME if order == _UNCHANGED else REORDERED
    return Comparison(kind, shift, grid, reference)


def match(volume, grid, path="", reference=""):
    """A volume with its axes in the order of a grid, and how it lies to that.

    Where qform and sform of a NIfTI file disagree, another program may have taken the other one:
    a volume that is on the grid by the other form of either file, or of both, is put on the grid,
    with a warning.

    Args:
        volume: such as a label or a mask.
        grid: of the image that it belongs to.
        path: of the volume's file, "" if there is none.
        reference: path of the image.

    Returns:
        `(Volume, Comparison)`; the volume as it was where the latter does not fit.
    """
    found = compare(volume.grid, grid)
    if not found.fits:
        theirs, ours = (other_grid(name) if name else None for name in (reference, path))
        for source, target, name in (
            (volume.grid, theirs, reference),
            (ours, grid, path),
            (ours, theirs, f"{path} and of {reference}"),
        ):
            if source is None or target is None or source.shape != volume.grid.shape:
                continue  # made upright, as a sheared image is
            if not compare(source, target).shift <= _ROUNDED_FORM * min(target.spacing):
                continue
            moved = reordered(Volume.from_grid(volume.array, source), target)
            if target.shape == grid.shape:
                moved = Volume.from_grid(moved.array, grid)
            elif not compare((moved := placed(moved.array, reference, path)).grid, grid).fits:
                continue
            text = "%s: fits %s by the other form (qform, sform) of %s, %.1f mm away; its voxels "
            text += "are taken for those of %s"
            shift = _distance(source, volume.grid) or _distance(target, grid)
            _logger.warning(text, path, reference, name, shift, reference)
            return moved, Comparison(OTHER_FORM, shift, volume.grid, grid)
    if found.kind == REORDERED:
        _logger.info("%s: its axes are stored otherwise than those of %s", path, reference)
    return (reordered(volume, grid) if found.fits else volume), found


def reordered(volume, grid):
    """The volume with its axes in the order and direction nearest to those of a grid."""
    axes, signs = order = _order(volume.grid, grid)
    if order == _UNCHANGED:
        return volume
    array = volume.array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    grid = _reordered_grid(volume.grid, axes, signs)
    return Volume.from_grid(np.ascontiguousarray(array), grid)


def canonical_order(grid):
    """How to turn a scan so that networks meet three arrangements of a head instead of 48.

    Returns:
        `(axes, flips)`: the axes of the scan that lead most nearly to the patient's right or left,
        front or back, top or bottom, but the thick one last; and those of the turned scan to turn
        over, so that they lead to right, front and top.
    """
    axes, signs = _order(grid, UPRIGHT)
    order = sorted(range(3), key=lambda k: axes[k] == grid.thick_axis)
    return [axes[k] for k in order], [n for n, k in enumerate(order) if signs[k] < 0]


def described(grid):
    """A grid in words: voxels, their size, where its axes lead and where it begins."""
    shape = " x ".join(map(str, grid.shape))
    spacing = " x ".join(f"{size:.5g}" for size in grid.spacing)
    letters = ("LR", "PA", "SI")  # towards which +x, +y, +z of patient space (LPS) leads
    axes, signs = _order(Grid((1, 1, 1)), grid)  # for each axis of the grid that of the patient
    names = "".join(letters[axis][sign < 0] for axis, sign in zip(axes, signs, strict=True))
    cosines = [abs(grid.direction[axis, k]) for k, axis in enumerate(axes)]
    angle = np.degrees(np.arccos(min(1.0, *cosines)))
    turned = f" (within {angle:.0f} degrees)" if angle >= 0.5 else ""
    origin = ", ".join(f"{part:.5g}" for part in np.array(grid.origin) + 0.0)
    return f"{shape} voxels of {spacing} mm, axes {names}{turned}, from ({origin}) mm"


def _order(grid, reference):
    """For each axis of the reference the nearest axis of a grid, and its sign, 1 or -1."""
    cosines = grid.direction.T @ reference.direction
    axes = np.abs(cosines).argmax(axis=0)
    if len(set(axes.tolist())) < 3:  # between all: as they are
        axes = np.arange(3)
    signs = np.where(cosines[axes, range(3)] < 0, -1, 1)
    return tuple(axes.tolist()), tuple(signs.tolist())


def _reordered_grid(grid, axes, signs):
    axes, signs = list(axes), np.array(signs)
    first = np.zeros(3)
    first[axes] = np.where(signs < 0, np.array(grid.shape)[axes] - 1, 0)
    return Grid(
        tuple(np.array(grid.shape)[axes]),
        tuple(np.array(grid.spacing)[axes]),
        tuple(grid.index_to_physical(first)),
        grid.direction[:, axes] * signs,
        grid.space,
    )


def _distance(grid, other):
    return float(np.linalg.norm(grid.corners - other.corners, axis=-1).max())


def _is_default(grid):
    """Whether a grid is what programs write for want of a geometry."""
    place = np.allclose(grid.spacing, 1) and np.allclose(grid.origin, 0)
    return place and np.allclose(np.abs(grid.direction), np.eye(3))
