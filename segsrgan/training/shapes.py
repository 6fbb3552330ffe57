# SPDX-License-Identifier: MIT
"""Random anatomy from label maps: pose, size, deformation, cortex thickness, surroundings."""

import numpy as np
from scipy import ndimage

from segsrgan.training.augment import rotation
from segsrgan.training.fields import smooth_field

EXTRA = 6  # numbers beyond a map's own that `surround` may use
_SHRINK = 3  # surroundings are made on a grid so much coarser


def random_frame(rng, scale=(0.8, 1.25), angle=15.0, stretch=0.08):
    """A random matrix from patch to map voxels: size, stretch, shear, pose, axes, flips.

    Args:
        rng: a `numpy.random.Generator`.
        scale: bounds of the patch voxel's size in map voxels.
        angle: largest rotation about each axis, degrees.
        stretch: largest relative stretch and shear.

    Returns:
        (3, 3) float64.
    """
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    turn = rotation(np.deg2rad(rng.uniform(-angle, angle, 3)))
    return axes @ turn @ (np.eye(3) + rng.uniform(-stretch, stretch, (3, 3))) * rng.uniform(*scale)


def sample_points(centre, matrix, shape, rng=None, elastic=0.0, distance=24.0):
    """Map coordinates of the voxels of an oriented, smoothly deformed box.

    Args:
        centre: map voxel at the box's centre.
        matrix: (3, 3), box voxels to map voxels.
        shape: of the box.
        rng: a `numpy.random.Generator`, needed for a deformation.
        elastic: largest displacement along each axis, box voxels; below 0.4 `distance` the
            deformation does not fold.
        distance: box voxels between the nodes of the displacement.

    Returns:
        (3, x, y, z) float32.
    """
    axes = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape)
    points = np.stack(np.broadcast_arrays(*np.meshgrid(*axes, indexing="ij", sparse=True)))
    if elastic:
        for axis in points:
            axis += np.float32(elastic) * smooth_field(shape, distance, rng)
    flat = np.asarray(matrix, np.float32) @ points.reshape(3, -1)
    flat += np.asarray(centre, np.float32)[:, None]
    return flat.reshape(points.shape)


def nearest(array, points):
    """The values of an array at the voxels nearest to points, 0 outside.

    Args:
        array: (x, y, z).
        points: (3, ...) indices.

    Returns:
        (...), of the array's dtype.
    """
    index = np.rint(points).astype(np.int32)
    inside = np.ones(index.shape[1:], bool)
    for axis, size in zip(index, array.shape, strict=True):
        inside &= (axis >= 0) & (axis < size)
        np.clip(axis, 0, size - 1, out=axis)
    result = array[tuple(index)]
    result[~inside] = 0
    return result


def thin(labels, cortex, white):
    """A cortex thinner by one voxel, from the side of the white matter.

    Args:
        labels: (x, y, z) numbers.
        cortex: the numbers of the cortex.
        white: those of the white matter, which takes the voxels; empty: nothing changes.

    Returns:
        (x, y, z), likewise.
    """
    if not len(white):
        return labels
    inner = np.isin(labels, white)
    layer = ndimage.binary_dilation(inner) & np.isin(labels, cortex)
    labels = labels.copy()
    labels[layer] = white[0]
    return labels


def surround(labels, brain, count, rng):
    """Puts a brain that stands alone into something like a head and what lies around it.

    Shells of uneven thickness (fluid, skull, scalp) and, beyond them, blobs.

    Args:
        labels: (x, y, z) numbers below `count`; 0 is what gets filled.
        brain: for each number whether it is brain.
        count: how many numbers the map has; `count` to `count + EXTRA - 1` are used for the new.
        rng: a `numpy.random.Generator`.

    Returns:
        (x, y, z), likewise.
    """
    coarse = brain[labels[::_SHRINK, ::_SHRINK, ::_SHRINK]].astype(np.float32)
    # Blurred, the brain falls off with the distance from it, in coarse voxels.
    nearness = ndimage.gaussian_filter(coarse, rng.uniform(1.5, 3.5), mode="nearest")
    nearness = _grown(nearness, labels.shape)
    nearness += 0.08 * smooth_field(labels.shape, 12.0, rng)
    levels = np.sort(rng.uniform(0.02, 0.45, 3))[::-1]
    shell = np.digitize(-nearness, -levels)  # 0: next to the brain ... 3: beyond
    blobs = np.digitize(smooth_field(labels.shape, rng.uniform(10, 30), rng), (-0.1, 0.15))
    empty = rng.random(3) < 0.4  # of the blobs some are air
    around = np.array([0, 1, 2, *(0 if e else 3 + i for i, e in enumerate(empty))]) + count
    around[3:][empty] = 0
    numbers = around[np.where(shell < 3, shell, 3 + blobs)].astype(labels.dtype)
    return np.where(labels == 0, numbers, labels)


def _grown(array, shape):
    """A coarse array, interpolated linearly on the fine grid that it was taken from."""
    for axis, size in enumerate(shape):
        position = np.minimum(np.arange(size) / _SHRINK, array.shape[axis] - 1)
        low = np.minimum(position.astype(int), max(array.shape[axis] - 2, 0))
        high = np.minimum(low + 1, array.shape[axis] - 1)
        part = np.expand_dims(position - low, [k for k in range(3) if k != axis])
        first, second = array.take(low, axis), array.take(high, axis)
        array = first + (second - first) * part.astype(np.float32)
    return array
