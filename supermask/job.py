# SPDX-License-Identifier: MIT
"""Many patients: what is missing is computed, what fails is reported, the rest goes on."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from segsrgan.errors import UserError, one_line
from segsrgan.files import stamp
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
        doubtful: whether masks that were aligned hardly overlap.
        detail: the cause of a failure.
        seconds: time taken.
    """

    patient: str
    result: str
    folder: Path
    lost: tuple[str, ...] = ()
    agreements: tuple = ()
    doubtful: bool = False
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
    inputs = _inputs(patient)
    wanted = {"settings": asdict(settings), "labels": labels, "weights": weights}
    wanted["weights_stamps"] = _stamps(weights)
    before = []
    if report is not None and not overwrite:
        others = _changes(folder, report, {"inputs": inputs, **wanted})
        before = report.get("lost") or []
        if not (others and before):
            _tell_finished(patient, folder, others, before)
            doubtful = bool(report.get("doubtful"))
            return {"result": SKIPPED, "lost": tuple(before), "doubtful": doubtful}
        logger.info("%s: a stack was lost when it was made, in %s; once more", patient.name, folder)
    check_place(folder, REPORT, overwrite or bool(before))
    views, lost = load_views(patient, labels)
    if not views:
        raise UserError("no stack can be used: " + "; ".join(lost))
    if before and len(lost) > len(before):
        raise UserError(
            f"{folder}: is kept, since more stacks are lost now than when it was made: "
            f"{'; '.join(lost)}; --overwrite replaces it all the same"
        )
    overwrite = overwrite or bool(before)
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
    doubtful = any(item.is_doubtful for item in prediction.agreements)
    notes = {"patient": patient.name, "lost": lost, "doubtful": doubtful, "inputs": inputs}
    write_results(prediction, folder, overwrite, **notes, **wanted)
    found = {"lost": lost, "agreements": prediction.agreements, "doubtful": doubtful}
    return {"result": FINISHED, **found}


def _inputs(patient):
    """The files of a patient as JSON values: where they are and what they look like."""
    files = zip(patient.views, patient.masks, patient.series, strict=True)
    return [
        {
            "stack": str(view.absolute()),
            "series": series,
            "mask": None if mask is None else str(Path(mask).absolute()),
            "stamps": [stamp(view), None if mask is None else stamp(mask)],
        }
        for view, mask, series in files
    ]


def _stamps(weights):
    """What weights files look like now, a dict of JSON values."""
    named = {key: name for key, name in (weights or {}).items() if name}
    if not named:
        return {}
    from segsrgan.networks.registry import resolve  # loads TensorFlow

    return {key: stamp(resolve(name)) for key, name in named.items()}


def _changes(folder, report, wanted):
    """How finished results differ from those wanted, a list of str.

    Raises:
        UserError: if they are of other files.
    """
    before = report.get("inputs") or wanted["inputs"]
    for name in ("stack", "mask", "series"):
        there, here = ([item.get(name) for item in items] for items in (before, wanted["inputs"]))
        if there != here:
            raise UserError(
                f"{folder}: holds the results of other files ({name} {_first(there, here)}); name "
                "another output folder or patient, or replace them with --overwrite"
            )
    others = [] if before == wanted["inputs"] else ["files that have changed since"]
    for name, value in {**wanted["settings"], "labels": wanted["labels"]}.items():
        made = report.get(name) if name == "labels" else report["settings"].get(name, value)
        if made != (list(value) if isinstance(value, tuple) else value):
            others.append(f"{name} {made}")
    if report.get("weights", wanted["weights"]) != wanted["weights"]:
        others.append(f"weights {report['weights']}")
    elif report.get("weights_stamps", wanted["weights_stamps"]) != wanted["weights_stamps"]:
        others.append("weights that have changed since")
    return others


def _tell_finished(patient, folder, others, lost):
    """Says that results are kept, how they differ from those wanted, and what they lack."""
    if others:
        text = "%s: is finished, in %s, but with %s; --overwrite makes it anew"
        logger.warning(text, patient.name, folder, ", ".join(others))
    else:
        logger.info("%s: is finished, in %s", patient.name, folder)
    for text in lost:
        logger.warning("%s: was made without a stack, and nothing has changed: %s", folder, text)


def _first(there, here):
    """The first of the former that is not among the latter."""
    return next((item for item in there if item not in here), there[0] if there else None)
