# SPDX-License-Identifier: MIT
"""Images of random contrast drawn from label maps, so that a network meets every contrast.

The idea, not the code, of SynthSeg (Billot et al. 2023) and SynthSR (Iglesias et al. 2023): the
intensities of each tissue are drawn anew for every sample, so what the network learns cannot
depend on one acquisition protocol.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.training.fields import smooth_field
from segsrgan.training.shapes import EXTRA

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
# Intensities that common sequences give these tissues, of the range 0 to 1; the last two those of a
# newborn, whose white matter is not myelinated yet. Rough: every draw varies them.
TYPICAL = (
    (0.85, 0.60, 0.60, 0.70, 0.15, 0.80),  # T1
    (0.40, 0.55, 0.55, 0.45, 0.95, 0.40),  # T2
    (0.50, 0.65, 0.65, 0.60, 0.12, 0.50),  # FLAIR
    (0.75, 0.45, 0.50, 0.45, 0.95, 0.50),  # T2, newborn
    (0.45, 0.60, 0.60, 0.65, 0.20, 0.65),  # T1, newborn
)
_TYPICAL_TISSUES = (
    "white matter",
    "cortex",
    "cerebellar cortex",
    "deep grey",
    "fluid",
    "brainstem",
)
_OUTER_FLUID = 24  # FreeSurfer: around the brain; some tools strip it with the skull
_MIN_CONTRAST = 0.08  # between the cortex and what it touches, of the range 0 to 1


@dataclass(frozen=True)
class LabelMap:
    """A label map ready to draw from.

    Attributes:
        labels: (x, y, z) uint8, numbered 0 .. len(tissue) - 1, 0 the background.
        tissue: for each number the index of its tissue; those of a tissue look alike.
        cortex: the numbers that make up the cortex.
        brain: for each number whether it belongs to the brain (kept when it is stripped).
        points: (n, 3) indices of cortex voxels, around which patches are cut.
        white: the numbers of the white matter, those of the cerebrum first; may be empty.
        fluid: the numbers of fluid; may be empty.
        outer: the numbers of the fluid around the brain; may be empty.
        names: for each tissue its name, as far as they are known.
    """

    labels: np.ndarray
    tissue: np.ndarray
    cortex: tuple
    brain: np.ndarray
    points: np.ndarray
    white: tuple = ()
    fluid: tuple = ()
    outer: tuple = ()
    names: tuple = ()


def prepare_labels(array, cortex, tissues=None):
    """Numbers a label map consecutively and finds its tissues and cortex voxels.

    Args:
        array: (x, y, z) of whole numbers, 0 the background.
        cortex: the values that are cortex.
        tissues: {name: values}, by default `FREESURFER_TISSUES`; a value in none of them is
            extracerebral. Tissues named as there have a meaning: the cortex thins in favour of
            "white matter", and all of them have their typical contrasts. Pass `{}` for maps of
            the brain alone: each value is then a tissue.

    Raises:
        ValueError: if no voxel has one of the values of `cortex`, or there are too many values.
    """
    freesurfer = tissues is None
    tissues = FREESURFER_TISSUES if freesurfer else tissues
    array = np.asarray(array).astype(np.int32)
    present = np.bincount(array.ravel()) > 0
    present[0] = True
    values = np.flatnonzero(present)
    if len(values) > 256 - EXTRA:
        raise ValueError(
            f"a label map may have up to {256 - EXTRA} values, received {len(values)}; "
            "is it an image?"
        )
    labels = (np.cumsum(present) - 1).astype(np.uint8)[array]
    owner = {value: index for index, group in enumerate(tissues.values()) for value in group}
    if tissues:
        tissue = np.array([owner.get(v, len(tissues) + i) for i, v in enumerate(values)])
        brain = np.array([v != 0 and v in owner for v in values])
    else:
        tissue, brain = np.arange(len(values)), values != 0
    numbers = {v: i for i, v in enumerate(values.tolist())}

    def named(group):
        return tuple(numbers[v] for v in group if v in numbers)

    points = np.argwhere(np.isin(labels, named(cortex))) if named(cortex) else ()
    if not len(points):
        raise ValueError(
            f"the label map has no cortex: expected a value of {tuple(cortex)}, "
            f"found {values.tolist()}"
        )
    return LabelMap(
        labels,
        tissue,
        named(cortex),
        brain,
        points.astype(np.int16),
        named(tissues.get("white matter", ())),
        named(tissues.get("fluid", ())),
        named((_OUTER_FLUID,)) if freesurfer else (),
        tuple(tissues),
    )


def paint(labels, label_map, rng, strip=True, typical=0.0):
    """Draws an image of random contrast for a box of labels.

    Args:
        labels: (x, y, z) numbers of `label_map`, and those that `shapes.surround` added.
        label_map: the `LabelMap` they come from.
        rng: a `numpy.random.Generator`.
        strip: whether what is not brain is made background.
        typical: probability that the tissues look as in one of the `TYPICAL` sequences, more or
            less; else their intensities are all independent.

    Returns:
        (x, y, z) float32 in [0, 1], free of acquisition noise.
    """
    mean, spread = _tissues(label_map, rng, typical)
    if strip:
        outside = np.append(~label_map.brain, np.ones(EXTRA, bool))
        if rng.random() < 0.4:
            outside[list(label_map.outer)] = True
        mean[outside], spread[outside] = mean[0], 0.0
    image = mean[labels]
    image += spread[labels] * _texture(labels.shape, rng.uniform(0.5, 2.0), rng)
    image = ndimage.gaussian_filter(image, rng.uniform(0.35, 1.0), truncate=3.0)  # partial volumes
    nodes = max(labels.shape) / rng.uniform(1, 3)
    image *= np.exp(np.float32(rng.uniform(0, 0.4)) * smooth_field(labels.shape, nodes, rng))
    np.clip(image, 0, None, out=image)
    image /= max(float(image.max()), 1e-6)
    return image ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))


def _tissues(label_map, rng, typical=0.0):
    """Mean and spread of the intensities of each number, float32."""
    tissue = np.append(label_map.tissue, label_map.tissue.max() + 1 + np.arange(EXTRA))
    cortex = label_map.tissue[label_map.cortex[0]]
    touching = {label_map.tissue[n] for n in (*label_map.white[:1], *label_map.fluid[:1])}
    means = rng.uniform(0.05, 1.0, tissue.max() + 1)
    if rng.random() < typical:
        sequence = TYPICAL[rng.integers(len(TYPICAL))]
        for name, value in zip(_TYPICAL_TISSUES, sequence, strict=True):
            if name in label_map.names:
                means[label_map.names.index(name)] = value + rng.normal(0, 0.05)
    if touching - {cortex}:
        other = means[list(touching - {cortex})]
        while np.abs(means[cortex] - other).min() < _MIN_CONTRAST:  # not to be seen by anybody
            means[cortex] = rng.uniform(0.05, 1.0)
    mean = means[tissue] + rng.normal(0, 0.03, len(tissue))
    spread = rng.uniform(0.0, 0.07, len(tissue))
    mean[0] = 0.0 if rng.random() < 0.7 else rng.uniform(0, 0.5)
    spread[0] = 0.0
    return np.clip(mean, 0, None).astype(np.float32), spread.astype(np.float32)


def _texture(shape, sigma, rng):
    """Gaussian noise with a correlation length in voxels and unit standard deviation."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, truncate=2.5)
    return noise / noise.std()
