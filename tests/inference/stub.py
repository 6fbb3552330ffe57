# SPDX-License-Identifier: MIT
"""A recipe whose predictor needs no network; imported by the workers of a cluster too."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from segsrgan.errors import UserError
from segsrgan.inference.predictor import Prediction
from segsrgan.inference.settings import PredictorSettings
from segsrgan.volumes.volume import Volume

logger = logging.getLogger("segsrgan.stub")
ENGINE = SimpleNamespace(name="stub", precision="float64")


def prediction(value):
    """A `Prediction` of 2x2x2 voxels."""
    volume = Volume(np.full((2, 2, 2), float(value), np.float32), (1, 1, 1))
    return Prediction(dict.fromkeys(("sr", "cortex", "cortex_mask"), volume))


@dataclass(frozen=True)
class StubRecipe:
    """Images named `deadly` end their process, those named `bad` fail.

    Attributes:
        folder: gets a file `<image's folder>.<process>` when an image is begun.
        seconds: that an image takes.
        settings: of the predictor.
        broken: whether no predictor can be made.
    """

    folder: str
    seconds: float = 0.0
    settings: PredictorSettings = PredictorSettings()
    broken: bool = False

    def __call__(self):
        if self.broken:
            raise UserError("no such engine on this computer")
        return _Stub(self)


class _Stub:
    engine = ENGINE

    def __init__(self, recipe):
        self.recipe = recipe

    def prepare(self, image, new_resolution, series, patch):
        name = image.parent.name
        Path(self.recipe.folder, f"{name}.{os.getpid()}").touch()
        logger.warning("reading %s", name)
        logger.debug("reading %s closely", name)
        if name == "bad":
            raise ValueError(f"{image}: is no image")
        if name == "deadly":
            os._exit(1)
        return name

    def predict_prepared(self, prepared, patch, step, progress):
        time.sleep(self.recipe.seconds)
        return prediction(patch)
