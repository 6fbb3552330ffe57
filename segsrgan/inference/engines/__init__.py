# SPDX-License-Identifier: MIT
"""Engines: what computes the network, one file each.

An engine is an object with one method, so that a faster runtime is one more file here and one
more name in `ENGINES`. Such a file has four functions: `check_available()` raises
`UserError` where the engine cannot run, `precisions()` are those that it is fast in here,
`version()` is what its results and speed depend on, `make(model, precision, threads)` builds it.

Where it computes on a device with memory of its own, an engine may have two things more:
`batch_voxels`, how many voxels a batch should have there, and `device_sweep(...)`, which keeps the
volumes there and takes the arguments of `segsrgan.inference.streaming.HostSweep` but the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from segsrgan.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ENGINES = ("openvino", "tensorflow")
NAMES = ("auto", *ENGINES)
PRECISIONS = ("auto", "float32", "float16", "bfloat16")


class Engine(Protocol):
    """Computes a generator on batches of patches, from any thread."""

    def predict_batch(self, patches: np.ndarray, resolution: float | None) -> np.ndarray:
        """Computes one batch.

        Args:
            patches: float32 `(b, x, y, z, 1)`, normalised to [0, 1].
            resolution: slice resolution in mm for a model of two inputs, else None.

        Returns:
            float32 `(b, x, y, z, 2 + classes)`.

        Raises:
            MemoryError: if there is not enough memory for so many patches, whatever class the
                runtime has for that.
        """


def prepare_engine(name, threads=None):
    """Settles what must be settled before a model is loaded, such as the number of threads.

    Args:
        name: one of `NAMES`.
        threads: CPU threads, all of them when None.

    Raises:
        UserError: if the engine is unknown.
    """
    check_name(name)
    # Whatever computes, TensorFlow may compute what it is compared with.
    engine_module("tensorflow").prepare(threads)


def make_engine(name, model, threads=None, precision="auto"):
    """Builds an engine around a Keras model.

    Args:
        name: one of `NAMES`; `"auto"` takes the fastest one that is installed and agrees with
            the plain network, see `segsrgan.inference.engines.choice`.
        model: the generator, a `keras.Model`.
        threads: CPU threads, all of them when None.
        precision: one of `PRECISIONS`; `"auto"` takes float16 where it is faster and agrees.

    Returns:
        An `Engine`.

    Raises:
        UserError: if the engine is unknown or cannot run here.
    """
    check_name(name)
    from segsrgan.inference.engines.choice import choose

    return choose(name, model, threads, precision)


def check_name(name):
    """Raises `UserError` if there is no such engine."""
    if name not in NAMES:
        raise UserError(f"engine must be one of {', '.join(NAMES)}, received {name!r}")


def engine_module(name):
    """The file of an engine."""
    return import_module(f"{__name__}.{name}_engine")
