# SPDX-License-Identifier: MIT
"""What a worker of a cluster does: one image after the other, with one predictor."""

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import segsrgan
from segsrgan.errors import UserError

# A process computes one image at a time, however many threads a worker has.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Recipe:
    """How a predictor is made, wherever that is.

    Attributes:
        weights: registry name or absolute path.
        sha256: of the weights' file; another file of that name makes another predictor.
        options: arguments of `Predictor`, as (name, value).
    """

    weights: str
    sha256: str
    options: tuple[tuple[str, object], ...] = ()

    def __call__(self):
        """The predictor; loads TensorFlow."""
        from segsrgan.inference.predictor import Predictor

        return Predictor(self.weights, **dict(self.options))


def compute_image(recipe, job, place, pairs, version, level):
    """Computes an image and writes its results.

    Args:
        recipe: a `Recipe`; the predictor is kept for the next image.
        job: a `Job`.
        place: the image's `Place`.
        pairs: its (patch, step) pairs.
        version: of the package that gives the order.
        level: the least level of messages that are wanted.

    Returns:
        A list of `Outcome`, and the messages as a list of dicts (`logging.makeLogRecord`).

    Raises:
        UserError: if this package is of another version.
        Exception: what making the predictor raises.
    """
    if version != segsrgan.__version__:
        raise UserError(
            f"a Dask worker has SegSRGAN {segsrgan.__version__}, the job comes from {version}; "
            "install the same version everywhere"
        )
    with _LOCK, _recorded(level) as records:
        predictor = _predictor(recipe)
        from segsrgan.inference.pipeline import run_images

        outcomes = list(run_images(job, [(place, pairs)], predictor, _silent))
    return outcomes, records


@lru_cache(maxsize=1)
def _predictor(recipe):
    return recipe()


@contextmanager
def _recorded(level):
    """The messages of our loggers, which are not shown here."""
    handler, logger = _Recorder(), logging.getLogger("segsrgan")
    before, propagated = logger.level, logger.propagate
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
        logger.setLevel(before)


class _Recorder(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        trace = record.exc_info and logging.Formatter().formatException(record.exc_info)
        self.records.append(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "msg": record.getMessage(),
                "exc_text": trace or None,
            }
        )


def _silent(label, done, total):
    """No progress is shown."""
