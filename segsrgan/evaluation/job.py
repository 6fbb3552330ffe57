# SPDX-License-Identifier: MIT
"""Many cases: each is measured, what fails is reported, the rest goes on."""

import logging

from segsrgan.errors import UserError
from segsrgan.evaluation.case import Row
from segsrgan.evaluation.loading import load_baseline, load_images, load_labels
from segsrgan.evaluation.settings import Settings

logger = logging.getLogger(__name__)


def evaluate(cases, settings=None, progress=None):
    """Measures cases, one after the other.

    A case that cannot be measured is logged as an error with its name, its file and the cause;
    its row has no values.

    Args:
        cases: a list of `Case`.
        settings: a `Settings`, the default ones when None.
        progress: called as `progress("cases", done, total, name)`.

    Returns:
        A list of `Row` in the order of the cases.

    Raises:
        UserError: if a metric was asked for that no case has the files for.

    Example:
        >>> case = Case(label="cortex.nii.gz", reference_label="truth.nii.gz")
        >>> (row,) = evaluate([case], Settings(metrics=("dice", "hd95"), labels=(3, 42)))
        >>> row.values
        {'dice': 0.913, 'hd95': 0.5}
    """
    settings = settings or Settings()
    columns = [metric for metric in settings.columns(cases) if metric.measure]
    wanted = {kind: [metric for metric in columns if metric.kind == kind] for kind in _MEASURES}
    progress = progress or _silent
    rows = []
    for done, case in enumerate(cases):
        progress("cases", done, len(cases), case.name)
        rows.append(_measured(case, settings, wanted))
    progress("cases", len(cases), len(cases))
    return rows


def _measured(case, settings, wanted):
    """The `Row` of a case; `wanted`: kind of pair -> its metrics."""
    values, region, notes = {}, "", []
    try:
        case.check()
        for kind in case.kinds:
            if wanted[kind]:
                more, found, noted = _MEASURES[kind](case, settings, wanted[kind])
                values, region, notes = values | more, region or found, notes + noted
        if not values:
            notes = [*notes, "has no files for the metrics"]
        return Row(case, values, region, tuple(notes))
    except Exception as error:
        cause = _cause(error)
        logger.error("%s: %s", case.name, cause)
        logger.debug("%s", case.name, exc_info=error)
        return Row(case, error=cause)


def _measure_labels(case, settings, metrics):
    pair, notes = load_labels(case, settings)
    return _apply(metrics, pair, case.label), "", notes


def _measure_images(case, settings, metrics):
    pair, grid, region, notes = load_images(case, settings)
    values = _apply(metrics, pair, case.image)
    if case.baseline:
        pair = load_baseline(case, pair, grid)
        for name, value in _apply(metrics, pair, case.baseline).items():
            values[f"{name}_spline"] = value
            values[f"{name}_gain"] = values[name] - value
    return values, region, notes


_MEASURES = {"label": _measure_labels, "image": _measure_images}


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


def _cause(error):
    """The error in one line, with the class's name where the text does not speak for itself."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "out of memory; crop the images to the region of interest"
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text[:300]}".removesuffix(": ")


def _silent(label, done, total, text=""):
    """No progress is shown."""
