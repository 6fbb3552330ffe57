# SPDX-License-Identifier: MIT
"""Images of random contrast drawn from label maps, so that a network meets every contrast.

The idea, not the code, of SynthSeg (Billot et al. 2023) and SynthSR (Iglesias et al. 2023): the
intensities of each tissue are drawn anew for every sample, so what the network learns cannot
depend on one acquisition protocol.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# FreeSurfer label numbers by tissue; what is in none of them is extracerebral.
FREESURFER_TISSUES = {
    "background": (0,),
    "white matter": (2, 41, 7, 46, 85),
    "cortex": (3, 42),
    "cerebellar cortex": (8, 47),
    "deep grey": (10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60),
    "fluid": (4, 5, 14, 15, 24, 43, 44, 72),
    "brainstem": (16,),
    "vessels": (30, 62, 136, 137, 163, 164),
}


@dataclass(frozen=True)
class LabelMap:
    """A label map ready to draw from.

    Attributes:
        labels: (x, y, z) uint8, numbered 0 .. len(tissue) - 1, 0 the background.
        tissue: for each number the index of its tissue; those of a tissue look alike.
        cortex: the numbers that make up the cortex.
        brain: for each number whether it belongs to the brain (kept when it is stripped).
        points: (n, 3) indices of cortex voxels, around which patches are cut.
    """

    labels: np.ndarray
    tissue: np.ndarray
    cortex: tuple
    brain: np.ndarray
    points: np.ndarray


def prepare_labels(array, cortex, tissues=None):
    """Numbers a label map consecutively and finds its tissues and cortex voxels.

    Args:
        array: (x, y, z) of whole numbers, 0 the background.
        cortex: the values that are cortex.
        tissues: {name: values}, by default `FREESURFER_TISSUES`; a value in none of them is
            extracerebral. Pass `{}` for maps of the brain alone: each value is then a tissue.

    Raises:
        ValueError: if no voxel has one of the values of `cortex`.
    """
    tissues = FREESURFER_TISSUES if tissues is None else tissues
    array = np.asarray(array).astype(np.int32)
    present = np.bincount(array.ravel()) > 0
    present[0] = True
    values = np.flatnonzero(present)
    labels = (np.cumsum(present) - 1).astype(np.uint8)[array]
    owner = {value: index for index, group in enumerate(tissues.values()) for value in group}
    if tissues:
        tissue = np.array([owner.get(v, len(tissues) + i) for i, v in enumerate(values)])
        brain = np.array([v != 0 and v in owner for v in values])
    else:
        tissue, brain = np.arange(len(values)), values != 0
    numbers = tuple(int(i) for i in np.flatnonzero(np.isin(values, cortex)))
    points = np.argwhere(np.isin(labels, numbers)) if numbers else np.empty((0, 3))
    if not len(points):
        raise ValueError(
            f"the label map has no cortex: expected a value of {tuple(cortex)}, "
            f"found {values.tolist()}"
        )
    return LabelMap(labels, tissue, numbers, brain, points.astype(np.int16))


def random_frame(rng, scale=(0.8, 1.25), rotation=15.0):
    """A random matrix from patch to map voxels: scaling, rotation, axis permutation, flips.

    Args:
        rng: a `numpy.random.Generator`.
        scale: bounds of the patch voxel's size in map voxels.
        rotation: largest angle about each axis, degrees.

    Returns:
        (3, 3) float64.
    """
    matrix = np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-rotation, rotation, 3))):
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = cosine, -sine, sine, cosine
        matrix = matrix @ turn
    return matrix * rng.uniform(*scale)


def cut(array, centre, matrix, shape, order=0):
    """Samples an oriented box of an array.

    Args:
        array: (x, y, z).
        centre: voxel of `array` at the box's centre.
        matrix: (3, 3), box voxels to array voxels.
        shape: of the box.
        order: of the spline, 0 for labels.

    Returns:
        The box, `shape`, with the dtype of `array`; 0 outside the array.
    """
    offset = np.asarray(centre) - matrix @ ((np.asarray(shape) - 1) / 2)
    return ndimage.affine_transform(array, matrix, offset, tuple(shape), order=order)


def paint(labels, label_map, rng, strip=True):
    """Draws an image of random contrast for a box of labels.

    Args:
        labels: (x, y, z) numbers of `label_map`.
        label_map: the `LabelMap` they come from.
        rng: a `numpy.random.Generator`.
        strip: whether what is not brain is made background.

    Returns:
        (x, y, z) float32 in [0, 1], free of acquisition noise.
    """
    count = len(label_map.tissue)
    tissue_mean = rng.uniform(0.05, 1.0, label_map.tissue.max() + 1)
    mean = tissue_mean[label_map.tissue] + rng.normal(0, 0.04, count)
    spread = rng.uniform(0.0, 0.06, count)
    mean[0] = 0.0 if rng.random() < 0.7 else rng.uniform(0, 0.5)
    spread[0] = 0.0
    if strip:
        mean[~label_map.brain], spread[~label_map.brain] = mean[0], 0.0
    image = np.clip(mean, 0, None).astype(np.float32)[labels]
    texture = _smooth_noise(labels.shape, rng.uniform(0.5, 2.0), rng)
    image += spread.astype(np.float32)[labels] * texture
    image = ndimage.gaussian_filter(image, rng.uniform(0.4, 1.1))  # partial volumes
    bias = np.exp(rng.uniform(0, 0.3) * _smooth_field(labels.shape, rng))
    image = np.clip(image * bias, 0, None)
    return (image / max(float(image.max()), 1e-6)) ** np.float32(rng.uniform(0.7, 1.4))


def _smooth_noise(shape, sigma, rng):
    """Gaussian noise with a correlation length in voxels and unit standard deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma)
    return noise / noise.std()


def _smooth_field(shape, rng, nodes=4):
    """A smooth random field in about [-1, 1], cubic between a few nodes per axis."""
    field = rng.uniform(-1, 1, (nodes,) * 3)
    zoom = [n / nodes for n in shape]
    return ndimage.zoom(field, zoom, order=2, mode="nearest", grid_mode=True).astype(np.float32)
