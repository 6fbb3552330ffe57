# SPDX-License-Identifier: MIT
"""Engines: what computes the network, one file each.

An engine is an object with one method, so that a faster runtime is one more file here and one
more line in `_ENGINES`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from segsrgan.inference.errors import InferenceError

if TYPE_CHECKING:
    import numpy as np

_ENGINES = {"tensorflow": "segsrgan.inference.engines.tensorflow_engine"}

NAMES = ("auto", *_ENGINES)


class Engine(Protocol):
    """Computes a generator on batches of patches."""

    def predict_batch(self, patches: np.ndarray, resolution: float | None) -> np.ndarray:
        """Computes one batch.

        Args:
            patches: float32 `(b, x, y, z, 1)`, normalised to [0, 1].
            resolution: slice resolution in mm for a conditional generator, else None.

        Returns:
            float32 `(b, x, y, z, 2 + classes)`.
        """


def prepare_engine(name, threads=None):
    """Settles what must be settled before a model is loaded, such as the number of threads.

    Args:
        name: one of `NAMES`.
        threads: CPU threads, all of them when None.

    Raises:
        InferenceError: if the engine is unknown.
    """
    _module(name).prepare(threads)


def make_engine(name, model, threads=None):
    """Builds an engine around a Keras model.

    Args:
        name: one of `NAMES`; `"auto"` takes the fastest one that is installed.
        model: the generator, a `keras.Model`.
        threads: CPU threads, all of them when None.

    Returns:
        An `Engine`.

    Raises:
        InferenceError: if the engine is unknown or cannot run here.
    """
    return _module(name).make(model, threads)


def _module(name):
    if name not in NAMES:
        raise InferenceError(f"engine must be one of {', '.join(NAMES)}, received {name!r}")
    return import_module(_ENGINES["tensorflow" if name == "auto" else name])
