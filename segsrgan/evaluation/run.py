# SPDX-License-Identifier: MIT
"""Many cases: each is measured, what fails is reported, the rest goes on."""

import logging
from dataclasses import dataclass, field

from segsrgan.errors import UserError, one_line
from segsrgan.evaluation.cases import Case
from segsrgan.evaluation.loading import load_baseline, load_images, load_labels
from segsrgan.evaluation.metrics import EvaluationSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
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

    Example:
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
    pair, notes = load_labels(case, settings)
    return _apply(metrics, pair, case.label), "", notes


def _measure_images(case, settings, metrics):
    pair, grid, region, notes = load_images(case, settings)
    values = _apply(metrics, pair, case.image)
    if case.baseline:
        pair = load_baseline(case, pair, grid)
        for name, value in _apply(metrics, pair, case.baseline).items():
            values |= {f"{name}_spline": value, f"{name}_gain": values[name] - value}
    return values, region, notes


def _apply(metrics, pair, path):
    values = {}
    for metric in metrics:
        try:
            values[metric.name] = float(metric.measure(pair))
        except ValueError as error:
            raise UserError(
                f"{path}: {metric.name} is not possible ({error}); leave it out of --metrics"
            ) from error
    return values
