# SPDX-License-Identifier: MIT
"""Many patients: what is missing is computed, what fails is reported, the rest goes on."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from segsrgan.inference.errors import one_line
from supermask.errors import SupermaskError
from supermask.inference import predict_views
from supermask.results import REPORT, write_results
from supermask.store import check_place, read_report
from supermask.views import read_view

logger = logging.getLogger(__name__)

FINISHED, SKIPPED, FAILED = "finished", "skipped", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a patient.

    Attributes:
        patient: the name.
        result: "finished", "skipped" (was there already) or "failed".
        folder: of the results.
        lost: stacks that could not be used, and why, a str each.
        agreements: an `Agreement` of every two views.
        detail: the cause of a failure.
        seconds: time taken.
    """

    patient: str
    result: str
    folder: Path
    lost: tuple[str, ...] = ()
    agreements: tuple = ()
    detail: str = ""
    seconds: float = 0.0


def load_views(patient, labels=None):
    """Reads the stacks of a patient, as far as they can be read.

    Args:
        patient: a `Patient`.
        labels: values of the masks that make the object, see `read_view`.

    Returns:
        `(views, lost)`: a list of `View`, and a list of str, why the others are not among them.
    """
    views, lost = [], []
    for path, mask, series in zip(patient.views, patient.masks, patient.series, strict=True):
        try:
            views.append(read_view(path, mask, series, labels))
        except (ValueError, OSError, MemoryError) as error:
            text = one_line(error)
            lost.append(text if str(path) in text else f"{path}: {text}")
    return views, lost


def run_patients(patients, output, settings, networks=None, **options):
    """Makes the mask of each patient and writes it.

    Args:
        patients: a list of `Patient`.
        output: folder of the results, which has one for each patient.
        settings: a `Settings`.
        networks: `Networks`, or None.
        **options: `sharpener` (of `load_sharpener`), `labels` (see `read_view`), `overwrite`
            (False), `weights` (names for the report), `progress`, called as `progress(patient,
            steps done, steps in all, what)`.

    Yields:
        An `Outcome` for each patient.
    """
    for patient in patients:
        start, folder = time.perf_counter(), Path(output) / patient.name
        try:
            outcome = _run(patient, folder, settings, networks, **options)
        except Exception as error:
            logger.error("%s: %s", patient.name, one_line(error))
            logger.debug("%s", patient.name, exc_info=error)
            outcome = {"result": FAILED, "detail": one_line(error)}
        yield Outcome(patient.name, folder=folder, seconds=time.perf_counter() - start, **outcome)


def _run(
    patient,
    folder,
    settings,
    networks,
    sharpener=None,
    labels=None,
    overwrite=False,
    weights=None,
    progress=None,
):
    report = read_report(folder, REPORT)
    if report is not None and not overwrite:
        _tell_of_finished(patient, folder, report, settings)
        return {"result": SKIPPED}
    check_place(folder, REPORT, overwrite)
    views, lost = load_views(patient, labels)
    if not views:
        raise SupermaskError("no stack can be used: " + "; ".join(lost))
    for text in lost:
        logger.error("%s: %s; going on without this stack, its detail is lost", patient.name, text)

    def tell(what, done, total):
        if progress is not None:
            progress(patient.name, done, total, what)

    prediction = predict_views(views, settings, networks, sharpener, tell)
    for text in (*prediction.lost, *prediction.warnings):
        logger.warning("%s: %s", patient.name, text)
    lost = (*lost, *prediction.lost)
    if lost and settings.reference is None:
        logger.warning("%s: the result has the pose of %s", patient.name, prediction.views[0].path)
    notes = {
        "patient": patient.name,
        "lost": lost,
        "settings": asdict(settings),
        "labels": labels,
        "weights": weights,
    }
    write_results(prediction, folder, overwrite, **notes)
    return {"result": FINISHED, "lost": lost, "agreements": prediction.agreements}


def _tell_of_finished(patient, folder, report, settings):
    """Says that there are results, and whether with settings other than those wanted now."""
    before = report.get("settings") or {}
    others = [
        f"{name} {before[name]}"
        for name, value in asdict(settings).items()
        if name in before and before[name] != value
    ]
    if others:
        logger.warning(
            "%s: is finished, in %s, but with %s; --overwrite makes it anew",
            patient.name,
            folder,
            ", ".join(others),
        )
    else:
        logger.info("%s: is finished, in %s", patient.name, folder)
