# SPDX-License-Identifier: MIT
"""Layers that move voxels: an affine sampler, and patches put back into a volume."""

import keras
import numpy as np
from keras import ops

register = keras.saving.register_keras_serializable(package="segsrgan")


@register
class SpatialTransformer3D(keras.layers.Layer):
    """Samples volumes at affinely transformed positions (Jaderberg et al. 2015).

    Called on `[volumes (b, x, y, z, c), matrices (b, 3, 4)]`; returns `(b, x, y, z, c)`. With
    `matrix = [A | t]` and c the centre of the grid, the output voxel p takes the input's value at
    `A (p - c) + t + c`; all in voxels. Outside the grid the input is 0. The gradient reaches
    volumes and, with trilinear interpolation (not `"nearest"`, for labels), matrices.
    """

    def __init__(self, interpolation="trilinear", **kwargs):
        super().__init__(**kwargs)
        if interpolation not in ("trilinear", "nearest"):
            raise ValueError(
                f"interpolation must be 'trilinear' or 'nearest', received {interpolation!r}"
            )
        self.interpolation = interpolation

    def call(self, inputs):
        volumes, matrices = inputs
        size = ops.shape(volumes)[1:4]
        points = self._positions(size, ops.cast(matrices, "float32"))
        flat = ops.reshape(volumes, (ops.shape(volumes)[0], -1, volumes.shape[-1]))
        if self.interpolation == "nearest":
            result = _take(flat, ops.floor(points + 0.5), size)
        else:
            low = ops.floor(points)
            fraction = points - low
            result = 0
            for corner in np.ndindex(2, 2, 2):
                corner = ops.convert_to_tensor(corner, "float32")
                weight = ops.where(corner > 0, fraction, 1 - fraction)
                weight = ops.cast(ops.prod(weight, axis=-1, keepdims=True), flat.dtype)
                result = result + weight * _take(flat, low + corner, size)
        return ops.reshape(result, ops.shape(volumes))

    def _positions(self, size, matrices):
        axes = [ops.arange(n, dtype="float32") for n in size]
        grid = ops.reshape(ops.stack(ops.meshgrid(*axes, indexing="ij"), axis=-1), (-1, 3))
        centre = (ops.cast(ops.stack(size), "float32") - 1) / 2
        moved = ops.einsum("bij,nj->bni", matrices[:, :, :3], grid - centre)
        return moved + matrices[:, None, :, 3] + centre

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "interpolation": self.interpolation}


def _take(flat, indices, size):
    """Values (b, n, c) of flattened volumes at whole positions (b, n, 3), 0 outside."""
    limits = ops.cast(ops.stack(size), "float32") - 1
    inside = ops.all((indices >= 0) & (indices <= limits), axis=-1, keepdims=True)
    whole = ops.cast(ops.clip(indices, 0, limits), "int32")
    index = (whole[..., 0] * size[1] + whole[..., 1]) * size[2] + whole[..., 2]
    return ops.take_along_axis(flat, index[..., None], axis=1) * ops.cast(inside, flat.dtype)


@register
class PatchReassembly(keras.layers.Layer):
    """Puts overlapping patches back into a volume: the mean where several cover a voxel.

    Called on `[patches (n, px, py, pz, c), starts (n, 3)]`, starts int, the first voxel of each
    patch; returns `(x, y, z, c)`, 0 where no patch lies (Delannoy et al. 2020, Figure 2(b)).
    Where patches come in batches, `begin`, `add` for each batch and `finish` do the same. `shape`
    is that of the volume, (x, y, z).
    """

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = tuple(shape)

    def call(self, inputs):
        patches, starts = inputs
        total = self.begin(patches.shape[-1], patches.dtype)
        return self.finish(self.add(total, patches, starts))

    def begin(self, channels, dtype="float32"):
        """Sums before the first patch: zeros `(x, y, z, c + 1)`, the last channel the weights'."""
        return ops.zeros((*self.shape, channels + 1), dtype=dtype)

    def add(self, total, patches, starts, weights=None):
        """Sums with further patches; `total`, of `begin` or `add`, itself is left as it is.

        `weights` are positive, `(px, py, pz)`: how much each voxel of a patch counts, 1 when None.
        """
        starts = ops.cast(starts, "int32")
        extent = (*patches.shape[1:4], patches.shape[-1] + 1)
        counted = ops.concatenate([patches, ops.ones_like(patches[..., :1])], axis=-1)
        if weights is not None:
            counted = counted * ops.cast(weights, counted.dtype)[..., None]

        def add_patch(index, volume):
            start = ops.concatenate([starts[index], ops.zeros((1,), "int32")])
            window = ops.slice(volume, start, extent)
            return ops.slice_update(volume, start, window + counted[index])

        return ops.fori_loop(0, ops.shape(patches)[0], add_patch, total)

    def finish(self, total):
        """The weighted mean `(x, y, z, c)` of sums, 0 where no patch lies."""
        weight = total[..., -1:]
        return total[..., :-1] / ops.where(weight > 0, weight, ops.ones_like(weight))

    def compute_output_shape(self, input_shape):
        return (*self.shape, input_shape[0][-1])

    def get_config(self):
        return {**super().get_config(), "shape": self.shape}
