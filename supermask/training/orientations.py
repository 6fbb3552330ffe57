# SPDX-License-Identifier: MIT
"""The 48 orientations of a cube: turns by 90 degrees and mirror images, without interpolation."""

import numpy as np


def oriented(row, orientation):
    """What a patient in another orientation would have given.

    Args:
        row: arrays that belong together: volumes (n, n, n), matrices (3, 4) of
            `SpatialTransformer3D` between them, scalars.
        orientation: one of `supermask.geometry.ORIENTATIONS`.

    Returns:
        A tuple of them.
    """
    order, signs = orientation
    turn = np.eye(3, dtype=np.float32)[list(order)] * np.float32(signs)[:, np.newaxis]
    steps = tuple(slice(None, None, sign) for sign in signs)
    result = []
    for item in row:
        if np.ndim(item) == 3:
            item = item.transpose(order)[steps]
        elif np.ndim(item) == 2:
            item = turn @ item @ _around(turn)
        result.append(item)
    return tuple(result)


def _around(turn):
    """(4, 4): a matrix (3, 4) before it gives its rotation in the old axes, its shift as it is."""
    result = np.eye(4, dtype=np.float32)
    result[:3, :3] = turn.T
    return result
