# SPDX-License-Identifier: MIT
"""Exact rewrites of costly convolutions, as functions on tensors `(batch, x, y, z, channels)`."""

import numpy as np
from keras import ops

# The upsampled signal is x0 x0 x1 x1 x2 x2 ...; a 3-tap window covers two coarse voxels only:
#   even output 2i:    k0*x[i-1] + (k1+k2)*x[i]        odd output 2i+1: (k0+k1)*x[i] + k2*x[i+1]
# _GATHER[phase, tap of the 2-tap kernel, tap of the 3-tap kernel]. The odd phase comes first:
# the window at position i then gives the outputs 2i-1 and 2i, so that the phases of positions
# 0..n lie in order and only the first and the last of the 2n+2 outputs are superfluous.
_GATHER = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], "float32")


def conv3d(x, kernel, strides=1):
    """Valid convolution of `x` (b, x, y, z, in) with `kernel` (k, k, k, in, out)."""
    return ops.conv(x, kernel, strides=strides, padding="valid", data_format="channels_last")


def reflect_pad(x, n):
    """Pads each spatial axis by `n` voxels mirrored about the outermost voxel's centre."""
    return ops.pad(x, ((0, 0), (n, n), (n, n), (n, n), (0, 0)), mode="reflect")


def edge_pad(x):
    """Pads each spatial axis by one copy of its outermost voxels."""
    x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    x = ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    return ops.concatenate([x[:, :, :, :1], x, x[:, :, :, -1:]], axis=3)


def upsample_nearest(x, factor):
    """Repeats every voxel `factor` times along each spatial axis."""
    for axis in (1, 2, 3):
        x = ops.repeat(x, factor, axis=axis)
    return x


def subpixel_kernel(kernel):
    """Kernel `(2, 2, 2, in, 8 * out)` equal to nearest upsampling by 2, then `kernel` (3^3).

    Output channels are ordered (phase x, phase y, phase z, out). The upsampled signal reflected
    by one voxel is the coarse signal with its edge voxels repeated, so `edge_pad` goes before;
    after `interleave` one voxel is cropped at each end.
    """
    gather = ops.cast(_GATHER, kernel.dtype)
    small = ops.einsum("pai,qbj,rck,ijkuv->abcupqrv", gather, gather, gather, kernel)
    return ops.reshape(small, (2, 2, 2, kernel.shape[3], 8 * kernel.shape[4]))


def strided_head_kernel(kernel):
    """Kernel `(k+1, k+1, k+1, in, 8 * out)` that, with stride 2, yields all eight phases.

    Phase p of an axis is the kernel shifted by p taps. Channels as in `subpixel_kernel`.
    """
    taps = kernel.shape[0]
    phases = []
    for px, py, pz in np.ndindex(2, 2, 2):
        pads = ((px, 1 - px), (py, 1 - py), (pz, 1 - pz), (0, 0), (0, 0))
        phases.append(ops.pad(kernel, pads))
    wide = ops.stack(phases, axis=4)
    return ops.reshape(wide, (taps + 1,) * 3 + (kernel.shape[3], 8 * kernel.shape[4]))


def interleave(x, channels):
    """Depth to space: `(b, x, y, z, 8 * channels)` to `(b, 2x, 2y, 2z, channels)`."""
    size = ops.shape(x)[1:4]
    x = ops.reshape(x, (-1, *size, 2, 2, 2, channels))
    x = ops.transpose(x, (0, 1, 4, 2, 5, 3, 6, 7))
    return ops.reshape(x, (-1, *(2 * n for n in size), channels))
