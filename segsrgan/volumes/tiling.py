# SPDX-License-Identifier: MIT
"""A volume cut into overlapping patches and put together again."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from segsrgan.config import BLENDS, GEOMETRIES


@dataclass(frozen=True)
class Tiling:
    """Where the patches of a volume lie: at all combinations of starts along the axes.

    Attributes:
        shape: of the volume, (x, y, z) voxels.
        patch: size of a patch, (x, y, z) voxels.
        axis_starts: per axis the first indices of the patches, in the padded volume.
        padding: per axis the voxels added before and after.
        mode: how they are filled: "constant" (0) or "symmetric" (mirrored), of `numpy.pad`.
    """

    shape: tuple[int, int, int]
    patch: tuple[int, int, int]
    axis_starts: tuple[tuple[int, ...], ...]
    padding: tuple[tuple[int, int], ...]
    mode: str

    @cached_property
    def starts(self):
        """First index (x, y, z) of every patch in the padded volume; z runs fastest."""
        return list(product(*self.axis_starts))

    @property
    def padded_shape(self):
        """(x, y, z) voxels of the padded volume."""
        return tuple(n + sum(pad) for n, pad in zip(self.shape, self.padding, strict=True))

    @property
    def crop(self):
        """Slices that cut the volume out of the padded one."""
        axes = zip(self.shape, self.padding, strict=True)
        return tuple(slice(before, before + n) for n, (before, _) in axes)

    def region(self, start):
        """Slices of the patch at `start` (x, y, z) in the padded volume."""
        return tuple(slice(s, s + p) for s, p in zip(start, self.patch, strict=True))

    def pad(self, array):
        """`array` padded; itself where there is nothing to pad. `ValueError` on another shape."""
        if array.shape != self.shape:
            raise ValueError(f"the array must have shape {self.shape}, received {array.shape}")
        return np.pad(array, self.padding, self.mode) if np.any(self.padding) else array


def plan(shape, patch, step, geometry="exact", multiple=4):
    """The `Tiling` of a volume.

    exact: patches at 0, step, 2 step ..., the last moved back to end where the volume ends. An
    axis is padded, by mirroring, only where it is shorter than the patch or, with the whole
    volume as one patch, not a multiple of `multiple`; before the first voxel lie multiples of
    `multiple`, so that what is periodic stays in step::

        |---------- n ----------|
        |-- 0 --|
            |-- step --|
                      |-- n - patch --|   ends with the volume

    legacy: the released original's zero padding by `step - (n - patch) % step` voxels per axis
    (`4 - n % 4` for the whole volume), half before and the rest after.

    Args:
        shape: of the volume, (x, y, z) voxels.
        patch: voxels, one number or three; None: the whole volume in one patch.
        step: voxels between patches (the paper's step), one number or three; unused, and may be
            None, when `patch` is None.
        geometry: "exact" or "legacy".
        multiple: what a patch size must be divisible by: 4 for the networks.

    Raises:
        ValueError: if a patch is not divisible by `multiple`, a step not between 1 and the patch.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry must be one of {', '.join(GEOMETRIES)}, received {geometry!r}")
    shape = _integers(shape, "shape")
    legacy = geometry == "legacy"
    if patch is None:
        pads = [multiple - n % multiple if legacy else -n % multiple for n in shape]
        sizes = tuple(n + pad for n, pad in zip(shape, pads, strict=True))
        axis_starts = ((0,),) * 3
    else:
        sizes, steps = _integers(patch, "patch"), _integers(step, "step")
        for size, stride in zip(sizes, steps, strict=True):
            _check_size(size, stride, multiple)
        axes = [_axis(*axis, legacy) for axis in zip(shape, sizes, steps, strict=True)]
        pads, axis_starts = zip(*axes, strict=True)
    unit = 1 if legacy else multiple
    before = [pad // 2 // unit * unit for pad in pads]
    padding = tuple((first, pad - first) for first, pad in zip(before, pads, strict=True))
    return Tiling(shape, sizes, axis_starts, padding, "constant" if legacy else "symmetric")


class Accumulator:
    """Overlapping patches averaged into one volume of float32.

    The patches of a tiling are all combinations of starts along three axes, so the total weight
    of a voxel is a product of three vectors and needs no volume of its own.

    Args:
        tiling: the plan; every one of its patches has to be added once.
        channels: of the patches.
        blend: "uniform" (plain mean, as in the paper) or "gaussian" (patch centres weigh more).
    """

    def __init__(self, tiling, channels, blend="uniform"):
        self.tiling = tiling
        self._sum = np.zeros((*tiling.padded_shape, channels), np.float32)
        self._weights = patch_weights(tiling, blend)
        self._totals = [np.zeros(size, np.float32) for size in tiling.padded_shape]
        axes = zip(self._totals, tiling.axis_starts, _axis_weights(tiling, blend), strict=True)
        for total, starts, weights in axes:
            for start in starts:
                total[start : start + len(weights)] += weights
        self._missing = len(tiling.starts)

    def add(self, patch, start):
        """Add one patch (px, py, pz, channels) whose first voxel is `start` (x, y, z)."""
        target = self._sum[self.tiling.region(start)]
        if patch.shape != target.shape:
            raise ValueError(f"a patch must have shape {target.shape}, received {patch.shape}")
        target += patch if self._weights is None else patch * self._weights[..., None]
        self._missing -= 1

    def result(self):
        """The weighted mean (x, y, z, channels), float32, padding cut off.

        It is a view of the accumulator's own memory; after it no patch can be added. Raises
        `ValueError` unless each patch has been added once.
        """
        if self._missing:
            count = len(self.tiling.starts)
            received = count - self._missing
            raise ValueError(f"each of the {count} patches must be added once, received {received}")
        for axis, total in enumerate(self._totals):
            if np.any(total != 1):
                self._sum /= total.reshape([-1 if k == axis else 1 for k in range(4)])
        self._totals = ()
        return self._sum[self.tiling.crop]


def patch_weights(tiling, blend):
    """How much each voxel of a patch counts, float32 (px, py, pz); None where all count alike."""
    x, y, z = _axis_weights(tiling, blend)
    weights = x[:, None, None] * y[:, None] * z
    return None if np.all(weights == 1) else weights


def _axis_weights(tiling, blend):
    """Three vectors whose product is the weight of a voxel."""
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {', '.join(BLENDS)}, received {blend!r}")
    is_gaussian = blend == "gaussian" and len(tiling.starts) > 1
    return [(_gaussian if is_gaussian else np.ones)(size, np.float32) for size in tiling.patch]


def _axis(n, patch, step, legacy):
    """Padding and starts of the patches along one axis of n voxels."""
    if legacy:
        pad = max(step - (n - patch) % step, patch - n)
        return pad, tuple(range(0, n + pad - patch + 1, step))
    pad = max(0, patch - n)
    last = n + pad - patch
    return pad, (*range(0, last, step), last)


def _integers(value, name):
    numbers = np.asarray(value).ravel()
    if numbers.size not in (1, 3) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must be one whole number or three, received {value!r}")
    return tuple(int(number) for number in np.broadcast_to(numbers, 3))


def _check_size(patch, step, multiple):
    if patch < multiple or patch % multiple:
        near = max(multiple, round(patch / multiple) * multiple)
        raise ValueError(
            f"patch must be divisible by {multiple} and at least {multiple}, received {patch}; "
            f"try {near}"
        )
    if not 1 <= step <= patch:
        raise ValueError(
            f"step must be between 1 and the patch size {patch}, received {step}; try {patch // 2}"
        )


def _gaussian(size, dtype):
    """Weights along an axis: sigma is an eighth of the patch, and no voxel counts nothing."""
    distance = (np.arange(size) - (size - 1) / 2) / (size / 8)
    return np.maximum(np.exp(-0.5 * distance**2), 1e-3).astype(dtype)
