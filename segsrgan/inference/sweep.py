# SPDX-License-Identifier: MIT
"""Patches through an engine in bounded batches, and back into one volume."""

import logging

import numpy as np

from segsrgan.volumes.tiling import Accumulator

logger = logging.getLogger(__name__)

# Two patches of 64^3, sixteen of 32^3: on processors larger batches are no faster, only larger.
BATCH_VOXELS = 2 * 64**3
MAX_BATCH = 32
# Constant patches whose result is kept; an image has one background, seldom more.
_KEPT_CONSTANTS = 4


def default_batch_size(patch, engine=None):
    """Patches of an edge in voxels per batch, as many as make it fast; 1 for None, a whole image.

    The engine may know better than `BATCH_VOXELS`.
    """
    voxels = getattr(engine, "batch_voxels", BATCH_VOXELS)
    return 1 if patch is None else max(1, min(MAX_BATCH, voxels // patch**3))


def predict_tiled(engine, array, tiling, channels, batch_size=1, progress=None, **options):
    """Runs a generator over a volume patch by patch: `(x, y, z)` to `(x, y, z, channels)`, float32.

    With the option `squares` the channels are followed by the means of their squares over patches.

    Memory is the padded volume, the accumulator and one batch, whatever the number of patches.
    Where the engine runs out of it, the batch is halved, with a warning; if one patch is too much,
    that is a `MemoryError`. The result does not depend on `batch_size`.

    Args:
        engine: see `segsrgan.inference.engines`.
        array: normalised.
        tiling: a `Tiling` of the array's shape.
        channels: output channels of the engine.
        batch_size: patches computed at once.
        progress: called as `progress(patches done, patches in all)`.
        **options: `resolution` in mm (None), `blend` (`"uniform"`) and `squares` (False).
    """
    padded = tiling.pad(array)
    sweep = _sweep(engine, padded, tiling, channels, **options)
    return _Stream(sweep, padded, tiling, batch_size, progress).run()


class HostSweep:
    """One volume on its way through an engine, in main memory.

    `padded` is the padded volume, float32 `(x, y, z)`, `resolution` that of the slices in mm.
    """

    def __init__(
        self, engine, padded, tiling, channels, resolution=None, blend="uniform", squares=False
    ):
        self._engine = engine
        self._padded = padded
        self._tiling = tiling
        self._resolution = resolution
        self._squares = squares
        self._accumulator = Accumulator(tiling, channels * (2 if squares else 1), blend=blend)

    def compute(self, starts):
        """The outputs `(b, px, py, pz, channels)` of the patches at these starts."""
        patches = np.stack([self._padded[self._tiling.region(start)] for start in starts])
        return self._engine.predict_batch(patches[..., np.newaxis], self._resolution)

    def add(self, outputs, starts):
        """Puts the outputs of patches where they belong."""
        for output, start in zip(outputs, starts, strict=True):
            if self._squares:
                output = np.concatenate([output, np.square(output)], axis=-1)
            self._accumulator.add(output, start)

    def result(self):
        """The mean of all outputs, float32 `(x, y, z, channels)`, padding cut off."""
        return self._accumulator.result()


def _sweep(engine, *volume, **options):
    """The engine's sweep in the memory of its device, else a `HostSweep`."""
    try:
        on_device = getattr(engine, "device_sweep", None)
        sweep = on_device and on_device(*volume, **options)
        if sweep:
            return sweep
    except MemoryError:
        logger.info("the volume does not fit on the device and stays in main memory")
    return HostSweep(engine, *volume, **options)


class _Stream:
    """The patches of one volume in batches; what is constant is computed once."""

    def __init__(self, sweep, padded, tiling, batch_size, progress):
        self.sweep = sweep
        self.padded = padded
        self.tiling = tiling
        self.batch_size = batch_size
        self.progress = progress or (lambda done, total: None)
        self.constants = {}
        self.done = 0

    def run(self):
        waiting = []
        self.progress(0, len(self.tiling.starts))
        for start in self.tiling.starts:
            value = self._constant(start)
            if value in self.constants:
                self._add(self.constants[value], [start])
                continue
            waiting.append((start, value))
            if len(waiting) >= self.batch_size:
                self._compute(waiting)
                waiting = []
        self._compute(waiting)
        return self.sweep.result()

    def _constant(self, start):
        """The value of a patch that has only one, else None."""
        patch = self.padded[self.tiling.region(start)]
        value = patch[0, 0, 0]
        if patch[-1, -1, -1] != value or np.any(patch != value):
            return None
        return float(value)

    def _compute(self, waiting):
        while waiting:
            batch = waiting[: self.batch_size]
            starts = [start for start, _ in batch]
            outputs = self._outputs(starts)
            if outputs is None:
                self.batch_size = (len(batch) + 1) // 2
                sizes = len(batch), self.batch_size
                logger.warning("not enough memory for %d patches at once; going on with %d", *sizes)
                continue
            for k, (_, value) in enumerate(batch):
                if value is not None and len(self.constants) < _KEPT_CONSTANTS:
                    # A copy: the rest of the batch is to be forgotten.
                    self.constants[value] = outputs[k : k + 1] + 0
            self._add(outputs, starts)
            waiting = waiting[len(batch) :]

    def _outputs(self, starts):
        """The outputs of a batch, None if it is too large."""
        try:
            return self.sweep.compute(starts)
        except MemoryError:
            if len(starts) == 1:
                raise
            # On leaving, the error lets go of what it holds of the batch.
            return None

    def _add(self, outputs, starts):
        self.sweep.add(outputs, starts)
        self.done += len(starts)
        self.progress(self.done, len(self.tiling.starts))
