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
from segsrgan.inference.prediction import Prediction
from segsrgan.inference.settings import PredictorSettings
from segsrgan.volumes.volume import Volume

logger = logging.getLogger("segsrgan.stub")
ENGINE = SimpleNamespace(name="stub", precision="float64")


def prediction(value):
    """A `Prediction` of 2x2x2 voxels."""
    volume = Volume(np.full((2, 2, 2), float(value), np.float32), (1, 1, 1))
    return Prediction(dict.fromkeys(("sr", "cortex", "cortex_mask"), volume), {"noise": 1.5})


def wait_for(condition, process=None):
    """Waits until a condition holds, as long as a process runs."""
    end = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@dataclass(frozen=True)
class StubRecipe:
    """Makes itself; images named `deadly` end their process, those named `bad` fail."""

    folder: str  # gets a file `<image's folder>.<process>` when an image is begun
    seconds: float = 0.0  # that an image and pair takes
    settings: PredictorSettings = PredictorSettings()
    broken: bool = False
    engine = ENGINE

    def __call__(self):
        if self.broken:
            raise UserError("no such engine on this computer")
        return self

    def prepare(self, image, new_resolution, series, patch):
        name = image.parent.name
        Path(self.folder, f"{name}.{os.getpid()}").touch()
        logger.warning("reading %s", name)
        logger.debug("reading %s closely", name)
        if name == "bad":
            raise ValueError(f"{image}: is no image")
        if name == "deadly":
            os._exit(1)
        return name

    def predict_prepared(self, prepared, patch, step, progress):
        time.sleep(self.seconds)
        return prediction(patch)
