# SPDX-License-Identifier: MIT
"""Patches through an engine in bounded batches, and back into one volume."""

import numpy as np

from segsrgan.volumes.tiling import Accumulator

# Two patches of 64^3, sixteen of 32^3: on processors larger batches are no faster, only larger.
BATCH_VOXELS = 2 * 64**3
MAX_BATCH = 32
# Constant patches whose result is kept; an image has one background, seldom more.
_KEPT_CONSTANTS = 4


def default_batch_size(patch):
    """Patches per batch, at most `BATCH_VOXELS` unless one patch is larger; 1 for a whole image."""
    return 1 if patch is None else max(1, min(MAX_BATCH, BATCH_VOXELS // patch**3))


def predict_tiled(engine, array, tiling, channels, batch_size=1, **options):
    """Runs a generator over a volume patch by patch.

    Memory is the padded volume, the accumulator and one batch, whatever the number of patches.

    Args:
        engine: see `segsrgan.inference.engines.Engine`.
        array: float32 `(x, y, z)`, normalised.
        tiling: a `Tiling` of the array's shape.
        channels: output channels of the engine.
        batch_size: patches computed at once; the result does not depend on it.
        **options: `resolution` in mm (None), `blend` (`"uniform"`), and `progress`, called as
            `progress(patches done, patches in all)`.

    Returns:
        float32 `(x, y, z, channels)`.
    """
    stream = _Stream(engine, array, tiling, channels, **options)
    return stream.run(batch_size)


class _Stream:
    def __init__(
        self, engine, array, tiling, channels, resolution=None, blend="uniform", progress=None
    ):
        self.engine = engine
        self.tiling = tiling
        self.padded = tiling.pad(array)
        self.accumulator = Accumulator(tiling, channels, blend=blend)
        self.resolution = resolution
        self.progress = progress or (lambda done, total: None)
        self.constants = {}
        self.done = 0

    def run(self, batch_size):
        waiting = []
        self.progress(0, len(self.tiling.starts))
        for start in self.tiling.starts:
            value = self._constant(start)
            if value in self.constants:
                self._add(self.constants[value], start)
                continue
            waiting.append((start, value))
            if len(waiting) == batch_size:
                self._compute(waiting)
                waiting = []
        if waiting:
            self._compute(waiting)
        return self.accumulator.result()

    def _patch(self, start):
        return self.padded[self.tiling.region(start)]

    def _constant(self, start):
        """The value of a patch that has only one, else None."""
        patch = self._patch(start)
        value = patch[0, 0, 0]
        if patch[-1, -1, -1] != value or np.any(patch != value):
            return None
        return float(value)

    def _compute(self, waiting):
        patches = np.stack([self._patch(start) for start, _ in waiting])[..., np.newaxis]
        outputs = self.engine.predict_batch(patches, self.resolution)
        for (start, value), output in zip(waiting, outputs, strict=True):
            if value is not None and len(self.constants) < _KEPT_CONSTANTS:
                self.constants[value] = output.copy()
            self._add(output, start)

    def _add(self, output, start):
        self.accumulator.add(output, start)
        self.done += 1
        self.progress(self.done, len(self.tiling.starts))
