# SPDX-License-Identifier: MIT
"""Many cases: each is put onto its reference's grid and measured; what fails is reported."""

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np

from segsrgan.errors import UserError, VolumeError, one_line
from segsrgan.evaluation.cases import Case
from segsrgan.evaluation.metrics import EvaluationSettings, ImagePair, LabelPair
from segsrgan.files import real_path
from segsrgan.volumes import (
    foreground,
    object_of,
    read_finite,
    resample_to,
    select_labels,
)
from segsrgan.volumes.comparison import SAME, match
from segsrgan.volumes.labels import are_whole

logger = logging.getLogger(__name__)

_EDGE = 1e-3  # voxels; headers round
_PARALLEL = 1e-6
_COVERED = 0.99
_ROUNDING = 1e-3  # of 0 and 1: scaling and interpolation round


@dataclass(frozen=True)
class Scores:
    """What was measured of a case.

    Attributes:
        case: the `Case`.
        values: name of the metric -> float, nan where it is not defined; empty if it failed.
        region: where images were compared: "mask", "reference not 0", "reference not background"
            where another value than 0 surrounds the head, or "" without images.
        notes: what a reader must know, such as "label resampled".
        error: why the case failed, in one line, or "".
    """

    case: Case
    values: dict = field(default_factory=dict)
    region: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""


def evaluate(cases, settings=None, progress=None):
    """Measures cases, one after the other.

    A case that cannot be measured is logged as an error with its name, its file and the cause;
    its scores have no values.

    Args:
        cases: a list of `Case`.
        settings: an `EvaluationSettings`, the default ones when None.
        progress: called as `progress("cases", done, total, name)`.

    Returns:
        A list of `Scores` in the order of the cases.

    Raises:
        UserError: if a metric was asked for that no case has the files for.

    Examples:
        >>> case = Case(label="cortex.nii.gz", reference_label="truth.nii.gz")
        >>> settings = EvaluationSettings(metrics=("dice", "hd95"), labels=(3, 42))
        >>> (scores,) = evaluate([case], settings)
        >>> scores.values
        {'dice': 0.913, 'hd95': 0.5}
    """
    settings = settings or EvaluationSettings()
    metrics = [metric for metric in settings.columns(cases) if metric.measure]
    results = []
    for case in cases:
        if progress:
            progress("cases", len(results), len(cases), case.name)
        results.append(_measured(case, settings, metrics))
    if progress:
        progress("cases", len(cases), len(cases))
    return results


def _measured(case, settings, metrics):
    """The `Scores` of a case."""
    values, region, notes = {}, "", []
    try:
        case.check()
        for kind, measure in (("label", _measure_labels), ("image", _measure_images)):
            wanted = [metric for metric in metrics if metric.kind == kind]
            if kind in case.kinds and wanted:
                measured, where, noted = measure(case, settings, wanted)
                values, region, notes = values | measured, region or where, notes + noted
                paths = {real_path(case.files[role]) for role in (kind, f"reference_{kind}")}
                notes += [f"{kind} is its own reference"] * (len(paths) == 1)
        if not values:
            notes = [*notes, "has no files for the metrics"]
        return Scores(case, values, region, tuple(notes))
    except Exception as error:
        cause = one_line(error)
        if isinstance(error, MemoryError):
            cause = "out of memory; crop the images to the region of interest"
        logger.error("%s: %s", case.name, cause)
        logger.debug("%s", case.name, exc_info=error)
        return Scores(case, error=cause)


def _measure_labels(case, settings, metrics):
    reference = read_finite(case.reference_label, labels=True)
    grid, notes = reference.grid, []
    inside = class_of(reference.array, settings.labels, case.reference_label)
    notes += _negative_note("reference", reference.array, inside, settings.labels)
    inside = inside >= settings.threshold
    volume = read_finite(case.label, labels=True)
    found = class_of(volume.array, settings.predicted_labels, case.label)
    notes += _negative_note("prediction", volume.array, found, settings.predicted_labels)
    soft = not np.isin(found, (0, 1)).all()
    paths = case.label, case.reference_label
    array, how = align(volume.with_array(found), grid, int(soft), settings.resample, *paths)
    array = array >= settings.threshold
    notes += [f"label {how}"] if how else []
    notes += ["label from probabilities"] if soft else []
    if not (array.any() or inside.any()):
        notes.append("class in neither")
    else:
        notes += [] if array.any() else ["prediction empty"]
        notes += [] if inside.any() else ["reference empty"]
    values, undefined = _apply(metrics, LabelPair(array, inside, grid.spacing))
    return values, "", notes + undefined


def _negative_note(role, array, found, values):
    """A note where values below 0, which often mean "ignore", belong to the class found."""
    negative = array[(found > 0.5) & (array <= -0.5)]
    return [f"{role} {negative.min():.0f} counts"] if values is None and negative.size else []


def _measure_images(case, settings, metrics):
    reference, notes = read_finite(case.reference_image), []
    grid = reference.grid

    def aligned(role, order):
        path = getattr(case, role)
        volume = read_finite(path, labels=role == "mask")
        if role == "mask":
            volume = volume.with_array(np.rint(class_of(volume.array, None, path)))
        array, how = align(volume, grid, order, settings.resample, path, case.reference_image)
        notes.extend([f"{role} {how}"] if how else [])
        return array

    image = aligned("image", 1)
    where, region = "mask", aligned("mask", 0) if case.mask else foreground(reference.array)
    if not case.mask:
        is_zero = np.array_equal(region, reference.array != 0)
        where = "reference not 0" if is_zero else "reference not background"
    region = region != 0  # as 0 and 1 in a mask
    if not region.any():
        path = case.mask or case.reference_image
        raise UserError(f"{path}: every voxel is 0, so there is nothing to compare in")
    pair = ImagePair(image, reference.array, region)
    values, undefined = _apply(metrics, pair)
    if case.baseline:
        pair = _baseline_pair(case, pair, grid)
        for name, value in _apply(metrics, pair)[0].items():
            values |= {f"{name}_spline": value, f"{name}_gain": values[name] - value}
    return values, where, notes + undefined


def _baseline_pair(case, pair, grid):
    """The image of low resolution, by cubic splines on the reference's grid, in place of the image.

    The baseline may cover a part of the reference.
    """
    volume = read_finite(case.baseline)
    inside = overlap(volume, grid, case.baseline, case.reference_image)
    covered = np.count_nonzero(inside & pair.region) / np.count_nonzero(pair.region)
    if covered < _COVERED:
        text = "%s: covers only %.0f %% of the voxels compared; beyond, its edge is repeated"
        logger.warning(text, case.baseline, 100 * covered)
    return replace(pair, image=interpolate(volume, grid, 3))


def _apply(metrics, pair):
    """`{name: value}` of the metrics, nan where one is not defined, and notes that say why."""
    values, notes = {}, []
    for metric in metrics:
        try:
            values[metric.name] = float(metric.measure(pair))
        except ValueError as error:
            values[metric.name] = math.nan
            notes.append(f"{metric.name} undefined: {error}")
    return values, notes


def class_of(array, values, path):
    """The probability (x, y, z), float32 from 0 to 1, of the class; 0 and 1 where it is certain.

    It is made of the label `values`; where they are None, fractions from 0 to 1 are probabilities
    and anything else is a mask, see `segsrgan.volumes.object_of`, or else every label but 0.
    """
    if values is not None:
        return select_labels(array, values, path).astype(np.float32)
    whole = are_whole(array)
    if not whole and array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING:
        return array.astype(np.float32)
    try:
        return object_of(array, path)
    except VolumeError as error:
        if not whole:
            raise
        logger.warning("%s; taking every value but 0", error)
        return (np.abs(array) > 0.5).astype(np.float32)


def align(volume, grid, order, resample, path, reference):
    """Brings a volume onto the grid of its reference; the paths of both stand in messages.

    A grid with the same voxels, see `segsrgan.volumes.comparison`, changes no value. With
    `resample` another grid is resampled by splines of an `order`, 0 (nearest neighbour) or 1;
    what lies beyond the volume becomes 0.

    Returns `(array, how)`: (x, y, z) on the grid, and "", "reordered", "placed by the other form"
    or "resampled".
    """
    volume, found = match(volume, grid, path, reference)
    if found.fits:
        return volume.array, "" if found.kind == SAME else found.kind
    if not resample:
        raise UserError(
            f"{path}: {found.difference(f'its reference {reference}')}; --resample puts it on "
            "that grid"
        )
    inside = overlap(volume, grid, path, reference)
    return np.where(inside, interpolate(volume, grid, order), 0), "resampled"


def interpolate(volume, grid, order):
    """The values (x, y, z), float32, of a volume on another grid, at any angle to it.

    `order` is that of the spline: 0 (nearest neighbour), 1 (linear) or 3 (cubic). Beyond the
    volume the value at its edge is repeated.
    """
    cosines = np.abs(volume.direction.T @ grid.direction).max(axis=0)
    if np.all(cosines > 1 - _PARALLEL):
        return resample_to(volume, grid, spline_order=order).array
    kind = {0: "NearestNeighbor", 1: "Linear", 3: "Spline"}[order]
    return resample_to(volume, grid, "sitk", kind).array


def overlap(volume, grid, path, reference):
    """Which voxel centres of a grid lie in the field of view of a volume, bool (x, y, z).

    That reaches half a voxel beyond the outermost centres. Raises `UserError` if none does.
    """
    inside = np.empty(grid.shape, bool)
    last = np.array(volume.array.shape) - 0.5 + _EDGE
    first, second = volume.grid.physical_to_index(
        grid.index_to_physical(np.moveaxis(np.indices((2, *grid.shape[1:])), 0, -1))
    )
    step = (second - first)[0, 0]
    for x, plane in enumerate(inside):  # a plane at a time, so that the indices take no memory
        index = first + x * step
        plane[...] = ((index >= -0.5 - _EDGE) & (index <= last)).all(axis=-1)
    if not inside.any():
        raise UserError(
            f"{path}: lies nowhere over its reference ({reference}); check that both belong to "
            "one patient and that no program has changed their headers"
        )
    return inside
