# SPDX-License-Identifier: MIT
"""A volume that stays on a graphics card from its first patch to its last."""

import numpy as np
from keras import ops

from segsrgan.networks.spatial import PatchReassembly
from segsrgan.volumes.tiling import patch_weights


class DeviceSweep:
    """One volume on its way through a network, as tensors; only it and the result are moved.

    The counterpart of `segsrgan.inference.streaming.HostSweep`.

    Args:
        network: patches `(b, px, py, pz, 1)` to outputs `(b, px, py, pz, channels)`, tensors.
        padded: the padded volume, float32 `(x, y, z)`.
        tiling: its `Tiling`.
        channels: output channels of the network.
        blend: see `segsrgan.volumes.tiling.Accumulator`.
        memory_errors: returns a context that turns the device's errors of allocation into
            `MemoryError`.

    Raises:
        MemoryError: if the volumes do not fit on the device.
    """

    def __init__(self, network, padded, tiling, channels, blend, memory_errors):
        self._network = network
        self._tiling = tiling
        self._memory_errors = memory_errors
        self._layer = PatchReassembly(tiling.padded_shape)
        weights = patch_weights(tiling, blend)
        with memory_errors():
            self._volume = ops.convert_to_tensor(padded)
            self._weights = None if weights is None else ops.convert_to_tensor(weights)
            # The second, let go at once, stands for that which `add` makes of the first.
            self._total, _ = (self._layer.begin(channels) for _ in range(2))

    def compute(self, starts):
        """As `HostSweep.compute`; the outputs are a tensor."""
        with self._memory_errors():
            patches = ops.stack([self._volume[self._tiling.region(start)] for start in starts])
            return self._network(patches[..., None])

    def add(self, outputs, starts):
        """As `HostSweep.add`."""
        with self._memory_errors():
            starts = np.array(starts, np.int32)
            self._total = self._layer.add(self._total, outputs, starts, self._weights)

    def result(self):
        """As `HostSweep.result`."""
        with self._memory_errors():
            mean = self._layer.finish(self._total)
            return np.array(ops.convert_to_numpy(mean[self._tiling.crop]))
