# SPDX-License-Identifier: MIT
"""Smooth random fields: cubic B-splines between few nodes (Rueckert et al. 1999)."""

import numpy as np


def bspline_basis(size, distance):
    """Matrix (size, nodes) of uniform cubic B-splines whose nodes are `distance` voxels apart.

    Its weights are positive and those of a voxel sum to one.
    """
    cell, t = np.divmod(np.arange(size) / distance, 1)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    basis = np.zeros((size, int(cell[-1]) + 4))
    for k, weight in enumerate(weights):
        basis[np.arange(size), cell.astype(int) + k] = weight / 6
    return basis


def smooth_field(shape, distance, rng):
    """A smooth random field of values in [-1, 1].

    Args:
        shape: (x, y, z).
        distance: voxels between the nodes, whose values are uniform in [-1, 1].
        rng: a `numpy.random.Generator`.

    Returns:
        (x, y, z) float32.
    """
    bases = [bspline_basis(n, distance).astype(np.float32) for n in shape]
    nodes = rng.uniform(-1, 1, [basis.shape[1] for basis in bases]).astype(np.float32)
    return np.einsum("abc,xa,yb,zc->xyz", nodes, *bases, optimize=True)
