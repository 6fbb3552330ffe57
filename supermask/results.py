# SPDX-License-Identifier: MIT
"""From files to files: `predict` for one patient, `Job` for many."""

import logging
import math
import os
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segsrgan.config import checked
from segsrgan.errors import UserError, one_line
from segsrgan.files import stamp
from segsrgan.inference.results import versions
from segsrgan.inference.summary import FAILED, FINISHED, SKIPPED
from segsrgan.volumes import write_volume
from supermask.folders import PatientResults, recorded_inputs
from supermask.geometry import write_transform
from supermask.patients import MOST_VIEWS
from supermask.prediction import predict_views
from supermask.settings import PredictionSettings
from supermask.views import View, load_views, read_view

logger = logging.getLogger(__name__)


def predict(
    stacks,
    masks=None,
    weights=None,
    segsrgan=None,
    labels=None,
    output=None,
    overwrite=False,
    progress=None,
    **settings,
):
    """Makes one high-resolution mask of one, two or three stacks of a patient.

    Args:
        stacks: paths of image files or DICOM folders, or `View`s, in any order and orientation.
        masks: as many paths of the object's masks, None where there is none and for `View`s, which
            bring theirs; None: no masks at all.
        weights: of segmentor and AlignNet: a file, a name of the registry, or `Networks`; "brain"
            for stacks of heads, whose brain is the object; None where all stacks have masks.
        segsrgan: weights of SegSRGAN, by which each stack is super-resolved first, or None.
        labels: values of the masks that make the object, see `supermask.read_view`.
        output: folder for the results as files, or None.
        overwrite: whether results in `output` are replaced.
        progress: called as `progress(what is done now, steps done, steps in all)`.
        **settings: of `supermask.PredictionSettings`: `alignment`, `fusion`, `spacing`, ...

    Returns:
        A `Prediction`: `mask`, `probability`, `image`, `views`, `agreements`, `residuals`, `lost`,
        `warnings`.

    Raises:
        UserError: if an argument is wrong, or the stacks cannot be used together.
        VolumeError, WeightsError: if a file cannot be read or written, or there are no weights.

    Examples:
        >>> result = supermask.predict(["axial.nii.gz", "coronal.nii.gz"], weights="networks.h5")
        >>> result.mask.spacing, result.views[1].transform.angle(), result.agreements[0].dice
        ((0.8, 0.8, 0.8), 4.2, 0.93)
    """
    settings = PredictionSettings(**checked(settings, PredictionSettings))
    pairs = _pairs(stacks, masks)
    if output is not None:
        _folder(output).check(overwrite)
    # Before anything is read: what is replaced from here on has changed.
    files = [(*pair, None) for pair in pairs if not isinstance(pair[0], View)]
    record = {"settings": asdict(settings), "labels": labels, **_inputs(files)}
    models = load_models(weights, segsrgan)
    views = [s if isinstance(s, View) else read_view(s, m, labels=labels) for s, m in pairs]
    views = with_brains(views, models.brain)
    result = predict_views(views, settings, models.supermask, models.segsrgan, progress)
    if output is not None:
        write_results(result, output, overwrite, **record, **models.record)
    return result


def _pairs(stacks, masks):
    """Each stack with its mask or None, checked."""
    for name, values in (("stacks", stacks), ("masks", masks)):
        if isinstance(values, (bytes, View)) or _path(values) is not None:
            raise UserError(f"{name} must be a list, received {values!r}")
    stacks = list(stacks)
    masks = [None] * len(stacks) if masks is None else list(masks)
    if not 1 <= len(stacks) <= MOST_VIEWS or len(masks) != len(stacks):
        raise UserError(
            "expected one to three stacks and as many masks, or None, received "
            f"{len(stacks)} and {len(masks)}"
        )
    for stack, mask in zip(stacks, masks, strict=True):
        if isinstance(stack, View) and mask is not None:
            raise UserError(
                f"{stack.path}: a View brings its own mask, received {mask} besides; give "
                "View(volume, mask) or the paths of both"
            )
    return list(zip(stacks, masks, strict=True))


class Models(NamedTuple):
    """The networks of a run, None where there are none, and what is recorded of them."""

    supermask: Any = None  # `Networks`
    segsrgan: Any = None  # a `Predictor`, which super-resolves the stacks first
    brain: Any = None  # a `Predictor`, which finds the brain where a stack has no mask
    record: dict = {}


def load_models(weights=None, segsrgan=None):
    """Loads the `Models` of a run, see `predict`."""
    networks = weights if _path(weights) is None else None
    names = {"supermask": _path(weights), "segsrgan": _path(segsrgan)}
    engines, predictor, finder, paths = {}, None, None, {}
    if any(names.values()):
        from segsrgan.networks import resolve  # loads what reads weights

        paths = {key: resolve(name) for key, name in names.items() if name}
    stamps = {key: stamp(path) for key, path in paths.items()}
    digests = {key: sha256(path.read_bytes()).hexdigest() for key, path in paths.items()}
    if names["supermask"] and finds_brain(weights):
        from segsrgan.inference.predictor import brain_finder  # loads an engine

        finder = brain_finder(weights)
        engine = finder.engine
        engines["supermask"] = {"engine": engine.name, "precision": engine.precision}
    elif names["supermask"]:
        from supermask.networks import load_networks  # loads Keras

        networks = load_networks(weights)
    if networks is not None:
        import keras

        precision = keras.config.dtype_policy().compute_dtype
        engines["supermask"] = {"engine": keras.backend.backend(), "precision": precision}
    if names["segsrgan"]:
        from segsrgan.inference.predictor import Predictor  # loads an engine

        predictor = Predictor(segsrgan, strip="no")
        engine = predictor.engine
        engines["segsrgan"] = {"engine": engine.name, "precision": engine.precision}
    record = {
        "weights": names,
        "weights_stamps": stamps,
        "weights_sha256": digests,
        "engines": engines,
        "versions": versions("SimpleITK", *sorted({item["engine"] for item in engines.values()})),
    }
    return Models(networks, predictor, finder, record)


def finds_brain(weights):
    """Whether weights, a file or a name of the registry, are those that find the brain."""
    from segsrgan.networks import describe

    return describe(weights)["metadata"].get("structure") == "brain"


def with_brains(views, finder):
    """The views; those without a mask have the brain that a `Predictor`, or None, finds in them."""
    if finder is None:
        return views
    from segsrgan.inference.stripping import find_brain

    found = []
    for view in views:
        if view.mask is None:
            brain = find_brain(view.volume, finder).on(view.grid).astype(np.float32)
            view = replace(view, mask=view.volume.with_array(brain))
        found.append(view)
    return found


def _path(name):
    return os.fspath(name) if isinstance(name, str) or hasattr(name, "__fspath__") else None


def _inputs(files):
    """What results are made of: path, mask and DICOM series of each stack, and their stamps."""
    stacks = [
        {"stack": os.path.abspath(stack), "mask": mask and os.path.abspath(mask), "series": series}
        for stack, mask, series in files
    ]
    paths = [path for item in stacks for path in (item["stack"], item["mask"]) if path]
    return {"stacks": stacks, "inputs": {path: stamp(path) for path in paths}}


def write_results(prediction, folder, overwrite=False, **notes):
    """Writes a prediction: mask, probability, image, the views' masks and transforms, a record.

    Args:
        prediction: a `Prediction`.
        folder: of the patient; made if it does not exist.
        overwrite: whether earlier results of this package are replaced.
        **notes: JSON values for the record, e.g. `settings`; `patient`, the name of the patient,
            that of the folder by default.

    Returns:
        The folder's `Path`.

    Raises:
        UserError: if the folder holds results already, or anything else.
        VolumeError, OSError: if a file cannot be written; then nothing has changed.
    """
    results = _folder(folder, notes.get("patient"))
    _write(prediction, results, overwrite, **notes)
    return results.folder


def _write(prediction, results, overwrite, **notes):
    """`write_results` of a `PatientResults`."""
    results.check(overwrite)
    mask = prediction.mask
    entry = {
        "patient": results.patient,
        "reference": prediction.reference,
        "alignment": prediction.alignment,
        "mask_volume": np.count_nonzero(mask.array) * math.prod(mask.spacing) / 1000,  # ml
        "views": [
            {
                "name": view.name,
                "stack": view.path,
                "series": view.series,
                **in_words(view.transform),
            }
            for view in prediction.views
        ],
        "agreement": [
            {key: None if value != value else value for key, value in item._asdict().items()}
            for item in prediction.agreements
        ],
        "residuals": {
            view.name: found._asdict()
            for view, found in zip(prediction.views, prediction.residuals, strict=False)
        },
        "doubtful": prediction.is_doubtful,
        "lost": list(prediction.lost),
        "warnings": list(prediction.warnings),
        **notes,
    }
    with results.replacing(entry) as folder:
        for kind in ("mask", "probability", "image"):
            write_volume(getattr(prediction, kind), folder / results.file_name(kind))
        for view in prediction.views:
            write_volume(view.mask, folder / results.mask_name(view.name, view.path))
        for view in prediction.views[1:]:
            name = results.transform_name(view.name, view.path, prediction.reference)
            write_transform(view.transform, folder / name)
        results.describe(folder, prediction)


def in_words(transform):
    """A `Rigid` as JSON values in degrees and mm."""
    return {
        "angles_degrees": [math.degrees(angle) for angle in transform.angles],
        "translation_mm": list(transform.translation),
        "centre_mm": list(transform.centre),
        "turned_degrees": transform.angle(),
    }


def _folder(folder, patient=None):
    folder = Path(folder)
    return PatientResults(folder, patient or folder.resolve().name)


@dataclass(frozen=True)
class Outcome:
    """What became of a patient."""

    results: PatientResults
    result: str  # FINISHED, SKIPPED (was finished already) or FAILED
    lost: tuple[str, ...] = ()  # stacks that could not be used, and why
    agreements: tuple = ()  # an `Agreement` of every two views
    doubtful: bool = False  # whether masks that were aligned hardly overlap
    detail: str = ""  # the cause of a failure

    @property
    def is_bad(self):
        """Whether somebody has to look at it: the exit status is 1."""
        return self.result == FAILED or bool(self.lost) or self.doubtful


@dataclass(frozen=True, kw_only=True)
class Job:
    """Many patients: what is missing is computed, what fails is reported, the rest goes on."""

    place: Any  # function that says where: from a `Patient` to its `PatientResults`
    settings: PredictionSettings
    models: Models = Models()
    labels: tuple[int, ...] | None = None  # see `supermask.read_view`
    overwrite: bool = False  # whether finished patients are computed again
    progress: Any  # called as progress(patient, steps done, steps in all, what is done)
    command: str = ""  # that the job is done for, for the record
    report: bool = False  # whether a page of the results is written, too

    def run(self, patients):
        """Makes the mask of each `Patient` and writes it; yields an `Outcome` for each."""
        for patient in patients:
            results = self.place(patient)
            try:
                outcome = self._run(patient, results)
            except Exception as error:
                logger.error("%s: %s", patient.name, one_line(error))
                logger.debug("%s", patient.name, exc_info=error)
                outcome = Outcome(results, FAILED, detail=one_line(error))
            if self.report and outcome.result != FAILED and not results.page.exists():
                _write_page(results)
            yield outcome

    def _run(self, patient, results):
        if patient.problem is not None:
            raise UserError(patient.problem)
        # Before anything is read: what is replaced from here on has changed.
        record = {
            "settings": asdict(self.settings),
            "labels": self.labels,
            "command": self.command,
            **_inputs(zip(patient.views, patient.masks, patient.series, strict=True)),
            **self.models.record,
        }
        entry, before = results.entry(), []
        if entry is not None and not self.overwrite:
            changes = _changes(results.folder, entry, record)
            before = entry.get("lost") or []
            if not (changes and before):
                return _skipped(results, entry, changes)
            text = "%s: a stack was lost when it was made, in %s; once more"
            logger.info(text, patient.name, results.folder)
        overwrite = self.overwrite or bool(before)
        results.check(overwrite)
        views, lost = self._load(patient, results.folder, before)
        prediction = self._predict(patient.name, views, lost)
        lost = (*lost, *prediction.lost)
        notes = {**record, "patient": patient.name, "lost": lost}
        _write(prediction, results, overwrite, **notes)
        return Outcome(results, FINISHED, lost, prediction.agreements, prediction.is_doubtful)

    def _load(self, patient, folder, before):
        """The `View`s of a patient, and what is lost now; `before` was lost when they were made."""
        views, lost = load_views(patient, self.labels)
        if not views:
            raise UserError("no stack can be used: " + "; ".join(lost))
        if before and len(lost) > len(before):
            raise UserError(
                f"{folder}: is kept, since more stacks are lost now than when it was made: "
                f"{'; '.join(lost)}; --overwrite replaces it all the same"
            )
        text = "%s: %s; going on without this stack, its detail is lost"
        for cause in lost:
            logger.error(text, patient.name, cause)
        return views, lost

    def _predict(self, name, views, lost):
        def progress(what, done, total):
            self.progress(name, done, total, what)

        models, views = self.models, with_brains(views, self.models.brain)
        found = predict_views(views, self.settings, models.supermask, models.segsrgan, progress)
        for text in (*found.lost, *found.warnings):
            logger.warning("%s: %s", name, text)
        if (lost or found.lost) and self.settings.reference is None:
            logger.warning("%s: the result has the pose of %s", name, found.views[0].path)
        return found


def _changes(folder, entry, requested):
    """How finished results differ from those requested; raises if they are of other files."""
    stacks, inputs = recorded_inputs(entry)
    for name in ("stack", "mask", "series"):
        now = [stack[name] for stack in requested["stacks"]]
        made = [stack[name] for stack in stacks or requested["stacks"]]
        if made != now:
            first = next((item for item in made if item not in now), made[0])
            raise UserError(
                f"{folder}: holds the results of other files ({name} {first}); name another "
                "output folder or patient, or replace them with --overwrite"
            )
    changes = [] if inputs in (None, requested["inputs"]) else ["files that have changed since"]
    now = {**requested["settings"], "labels": requested["labels"] and list(requested["labels"])}
    made = {**now, **entry.get("settings", {}), "labels": entry.get("labels")}
    changes += [f"{name} {made[name]}" for name in now if made[name] != now[name]]
    for name, text in (
        ("weights", f"weights {entry.get('weights')}"),
        ("weights_stamps", "weights that have changed since"),
    ):
        if name in entry and entry[name] != requested.get(name, entry[name]):
            return [*changes, text]
    return changes


def _skipped(results, entry, changes):
    """The outcome of a finished patient; logs how its results differ and what they lack."""
    name, folder = results.patient, results.folder
    if changes:
        text = "%s: is finished, in %s, but with %s; --overwrite makes it anew"
        logger.warning(text, name, folder, ", ".join(changes))
    else:
        logger.info("%s: is finished, in %s", name, folder)
    lost = tuple(entry.get("lost") or ())
    for text in lost:
        logger.warning("%s: was made without a stack, and nothing has changed: %s", folder, text)
    return Outcome(results, SKIPPED, lost, doubtful=bool(entry.get("doubtful")))


def _write_page(results):
    """Writes the page of results, which are whole without it."""
    from supermask.pages import write_patient_page

    try:
        write_patient_page(results)
    except Exception as error:
        logger.warning("%s: has no page: %s", results.patient, one_line(error))
