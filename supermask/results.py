# SPDX-License-Identifier: MIT
"""The results of a patient as files."""

import math

from segsrgan.volumes import write_volume
from supermask.rigid import write_transform
from supermask.store import store

REPORT = "report.json"


def write_results(prediction, folder, overwrite=False, **notes):
    """Writes a prediction: mask, probability, image, the views' masks and transforms, a report.

    Args:
        prediction: a `Prediction`.
        folder: of the patient; made if it is not there.
        overwrite: whether earlier results of ours are replaced.
        **notes: JSON values for the report, e.g. `patient`, `settings`, also instead of ours.

    Returns:
        The folder's `Path`.

    Raises:
        UserError: if the folder holds results already, or anything else.
        VolumeError, OSError: if a file cannot be written; then nothing has changed.
    """

    def write(place):
        volumes = {name: getattr(prediction, name) for name in ("mask", "probability", "image")}
        volumes |= {f"{view.name}_mask": view.mask for view in prediction.views}
        for name, volume in volumes.items():
            write_volume(volume, place / f"{name}.nii.gz")
        transforms = {
            f"{view.name}_to_{prediction.reference}.tfm": view.transform
            for view in prediction.views[1:]
        }
        for name, transform in transforms.items():
            write_transform(transform, place / name)
        return [*(f"{name}.nii.gz" for name in volumes), *transforms]

    return store(folder, REPORT, write, {**_content(prediction), **notes}, overwrite)


def _content(prediction):
    return {
        "reference": prediction.reference,
        "alignment": prediction.alignment,
        "views": [
            {"name": view.name, "stack": view.path, **in_words(view.transform)}
            for view in prediction.views
        ],
        "agreement": [
            {key: _number(value) for key, value in item._asdict().items()}
            for item in prediction.agreements
        ],
        "lost": list(prediction.lost),
        "warnings": list(prediction.warnings),
    }


def in_words(transform):
    """A `Rigid` as JSON values in degrees and mm."""
    return {
        "angles_degrees": [math.degrees(angle) for angle in transform.angles],
        "translation_mm": list(transform.translation),
        "centre_mm": list(transform.centre),
        "turned_degrees": transform.angle(),
    }


def _number(value):
    return None if isinstance(value, float) and math.isnan(value) else value
