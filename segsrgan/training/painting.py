# SPDX-License-Identifier: MIT
"""Images of random anatomy and contrast, painted on label maps.

The idea, not the code, of SynthSeg (Billot et al. 2023) and SynthSR (Iglesias et al. 2023): pose,
size and the intensities of each tissue are drawn anew for every sample, so what the network learns
cannot depend on one acquisition protocol.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from segsrgan.training.augmentation import smooth_field

EXTRA = 6  # numbers beyond a map's own that `surround` may use
_NODES = 24.0  # voxels between those of a displacement, which up to 0.4 of it cannot fold
_SHRINK = 3.0  # mm, voxels of the grid that surroundings are made on


class Numbering(NamedTuple):
    """What the values of a label map mean.

    A value in no tissue is extracerebral; without any tissue each value is one of the brain. The
    names below have a meaning: the cortex thins in favour of "white matter", and all of them have
    their typical contrasts.
    """

    tissues: dict  # {name: values}
    outer: tuple = ()  # values of the fluid around the brain, which some tools strip
    thin: float = 0.3  # fraction of the samples whose cortex may be a voxel thinner


NUMBERINGS = {
    "freesurfer": Numbering(
        {
            "background": (0,),
            "white matter": (2, 41, 7, 46, 85),
            "cortex": (3, 42),
            "cerebellar cortex": (8, 47),
            "deep grey": (10, 11, 12, 13, 17, 18, 26, 28, 49, 50, 51, 52, 53, 54, 58, 60),
            "fluid": (4, 5, 14, 15, 24, 43, 44, 72),
            "brainstem": (16,),
            "vessels": (30, 62, 136, 137, 163, 164),
        },
        outer=(24,),
    ),
    # The fetal atlases with the cortex as 5; it is one or two voxels thick, none thinner.
    "fetal": Numbering(
        {
            "white matter": (1, 8),
            "cortex": (5,),
            "cerebellar cortex": (3,),
            "deep grey": (6,),
            "fluid": (4, 2),
            "brainstem": (7,),
        },
        thin=0.0,
    ),
    "own": Numbering({}),
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
_TYPICAL_TISSUES = tuple(NUMBERINGS["fetal"].tissues)
_MIN_CONTRAST = 0.08  # between the cortex and what it touches, of the range 0 to 1


@dataclass(frozen=True)
class LabelMap:
    """A label map whose values are numbered through, 0 the background."""

    labels: np.ndarray  # (x, y, z) uint8, numbers
    tissue: np.ndarray  # for each number the index of its tissue; those of a tissue look alike
    cortex: tuple  # numbers
    brain: np.ndarray  # for each number whether it belongs to the brain
    points: np.ndarray  # (n, 3) indices of cortex voxels, around which patches are cut
    white: tuple  # numbers of the white matter, those of the cerebrum first
    fluid: tuple  # numbers
    outer: tuple  # numbers of the fluid around the brain
    numbering: Numbering


def prepare_labels(array, cortex, numbering=NUMBERINGS["freesurfer"]):
    """The `LabelMap` of an array (x, y, z) of whole numbers, and the values that are cortex.

    A `ValueError` says if no voxel has one of these, or if there are too many values.
    """
    array = np.asarray(array).astype(np.int32)
    present = np.bincount(array.ravel()) > 0
    present[0] = True
    values = np.flatnonzero(present).tolist()
    if len(values) > 256 - EXTRA:
        raise ValueError(
            f"a label map may have up to {256 - EXTRA} values, received {len(values)}; "
            "is it an image?"
        )
    labels = (np.cumsum(present) - 1).astype(np.uint8)[array]
    numbers = {value: number for number, value in enumerate(values)}
    tissues = numbering.tissues

    def numbered(group):
        return tuple(numbers[value] for value in group if value in numbers)

    points = np.argwhere(np.isin(labels, numbered(cortex))) if numbered(cortex) else ()
    if not len(points):
        raise ValueError(
            f"the label map has no cortex: expected a value of {tuple(cortex)}, found {values}"
        )
    index = {value: index for index, group in enumerate(tissues.values()) for value in group}
    return LabelMap(
        labels,
        tissue=np.array([index.get(v, len(tissues) + i) for i, v in enumerate(values)]),
        cortex=numbered(cortex),
        brain=np.array([v != 0 and (v in index or not tissues) for v in values]),
        points=points.astype(np.int16),
        white=numbered(tissues.get("white matter", ())),
        fluid=numbered(tissues.get("fluid", ())),
        outer=numbered(numbering.outer),
        numbering=numbering,
    )


def random_axes(rng, upright=True):
    """The axes of a map, shuffled as those of a patch, and whether each is turned over.

    Of an upright head any axis may be the patch's last, the thick one, but the others keep their
    order, and only left and right are exchanged: the first axis of the map.
    """
    if not upright:
        return rng.permutation(3), rng.random(3) < 0.5
    last = rng.integers(3)
    order = np.array([axis for axis in range(3) if axis != last] + [last])
    return order, (order == 0) & (rng.random() < 0.5)


def random_frame(rng, scale=(0.8, 1.25), angle=15.0, stretch=0.08, upright=False):
    """A random matrix (3, 3) from patch to map voxels: size, stretch, shear, pose, axes, flips.

    `scale` are bounds of the patch voxel's size in map voxels; the others are the largest rotation
    about each axis in degrees, the largest relative stretch and shear, and whether the head keeps
    its usual pose but for that, see `random_axes`.
    """
    order, flips = random_axes(rng, upright)
    axes = np.eye(3)[:, order] * np.where(flips, -1, 1)
    pose = Rotation.from_euler("XYZ", rng.uniform(-angle, angle, 3), degrees=True).as_matrix()
    return axes @ pose @ (np.eye(3) + rng.uniform(-stretch, stretch, (3, 3))) * rng.uniform(*scale)


def sample_points(centre, matrix, shape, rng=None, elastic=0.0):
    """Map coordinates (3, x, y, z), float32, of the voxels of an oriented, smoothly deformed box.

    The matrix (3, 3) leads from voxels of the box to those of the map, its centre is a map voxel.
    `elastic` is the largest displacement along each axis, box voxels; below 9.6 it does not fold.
    """
    axes = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in shape)
    points = np.stack(np.broadcast_arrays(*np.meshgrid(*axes, indexing="ij", sparse=True)))
    if elastic:
        for axis in points:
            axis += np.float32(elastic) * smooth_field(shape, _NODES, rng)
    flat = np.asarray(matrix, np.float32) @ points.reshape(3, -1)
    flat += np.asarray(centre, np.float32)[:, None]
    return flat.reshape(points.shape)


def nearest(array, points):
    """The values of an array (x, y, z) at the voxels nearest to points (3, ...), 0 outside."""
    index = np.rint(points).astype(np.int32)
    inside = np.ones(index.shape[1:], bool)
    for axis, size in zip(index, array.shape, strict=True):
        inside &= (axis >= 0) & (axis < size)
        np.clip(axis, 0, size - 1, out=axis)
    result = array[tuple(index)]
    result[~inside] = 0
    return result


def share(labels, numbers, points):
    """How much of the voxels at points (3, ...) has some of the numbers, float32, 0 outside.

    Interpolated linearly between the voxels of `labels` (x, y, z), uint8.
    """
    # Of a whole head a patch needs a part.
    bounds = [(int(axis.min()), int(axis.max()) + 2) for axis in points]
    low = np.array([min(max(0, a), n) for (a, _), n in zip(bounds, labels.shape, strict=True)])
    part = labels[tuple(slice(a, max(0, b)) for a, (_, b) in zip(low, bounds, strict=True))]
    if not part.size:
        return np.zeros(points.shape[1:], np.float32)
    inside = np.isin(np.arange(256), numbers).astype(np.float32)[part]
    moved = points - low.astype(np.float32).reshape(3, *(1,) * (points.ndim - 1))
    return ndimage.map_coordinates(inside, moved, np.float32, order=1)


def thin(labels, cortex, white):
    """Labels (x, y, z) whose cortex is a voxel thinner, in favour of the white matter below it.

    `cortex` and `white` are the numbers of both; without white matter nothing changes.
    """
    if not len(white):
        return labels
    inner = np.isin(labels, white)
    layer = ndimage.binary_dilation(inner) & np.isin(labels, cortex)
    labels = labels.copy()
    labels[layer] = white[0]
    return labels


def surround(labels, brain, count, rng, voxel=1.0):
    """Puts a brain that stands alone into something like a head and what lies around it.

    Shells of uneven thickness (fluid, skull, scalp) and, beyond them, blobs.
    `labels` (x, y, z) are numbers below `count`; 0 is what gets filled, with the `EXTRA` numbers
    from `count` on. `brain` says for each number whether it is brain. `voxel` is the edge of a
    voxel in mm or so: the thicknesses do not depend on it.
    """
    shrink = max(1, round(_SHRINK / voxel))
    coarse = brain[labels[::shrink, ::shrink, ::shrink]].astype(np.float32)
    # Blurred, the brain falls off with the distance from it.
    reach = rng.uniform(4.5, 10.5) / (voxel * shrink)
    nearness = _grown(ndimage.gaussian_filter(coarse, reach, mode="nearest"), labels.shape, shrink)
    nearness += 0.08 * smooth_field(labels.shape, 12.0, rng)
    levels = np.sort(rng.uniform(0.02, 0.45, 3))[::-1]
    shell = np.digitize(-nearness, -levels)  # 0: next to the brain ... 3: beyond
    nodes = max(4.0, rng.uniform(10, 30) / voxel)
    blobs = np.digitize(smooth_field(labels.shape, nodes, rng), (-0.1, 0.15))
    empty = rng.random(3) < 0.4  # of the blobs some are air
    around = np.array([0, 1, 2, *(0 if e else 3 + i for i, e in enumerate(empty))]) + count
    around[3:][empty] = 0
    numbers = around[np.where(shell < 3, shell, 3 + blobs)].astype(labels.dtype)
    return np.where(labels == 0, numbers, labels)


def _grown(array, shape, shrink):
    """A coarse array, interpolated linearly on the fine grid that it was taken from."""
    for axis, size in enumerate(shape):
        position = np.minimum(np.arange(size) / shrink, array.shape[axis] - 1)
        low = np.minimum(position.astype(int), max(array.shape[axis] - 2, 0))
        high = np.minimum(low + 1, array.shape[axis] - 1)
        part = np.expand_dims(position - low, [k for k in range(3) if k != axis])
        first, second = array.take(low, axis), array.take(high, axis)
        array = first + (second - first) * part.astype(np.float32)
    return array


def paint(labels, label_map, rng, strip=True, typical=0.0):
    """An image (x, y, z) of random contrast, float32 in [0, 1], free of acquisition noise.

    Its labels are numbers of a `LabelMap`, and those that `surround` added; where it is stripped,
    what is not brain is background, and often the fluid around it, too. With a probability of
    `typical` the tissues look more or less as in one of the `TYPICAL` sequences, else their
    intensities are all independent. Returns `(image, removed)`: for each number whether stripping
    took it away, bool.
    """
    mean, spread = _tissues(label_map, rng, typical)
    removed = np.zeros(len(mean), bool)
    if strip:
        removed = np.append(~label_map.brain, np.ones(EXTRA, bool))
        if rng.random() < 0.4:
            removed[list(label_map.outer)] = True
        mean[removed], spread[removed] = mean[0], 0.0
    image = mean[labels]
    image += spread[labels] * _texture(labels.shape, rng.uniform(0.5, 2.0), rng)
    image = ndimage.gaussian_filter(image, rng.uniform(0.35, 1.0), truncate=3.0)  # partial volumes
    nodes = max(labels.shape) / rng.uniform(1, 3)
    image *= np.exp(np.float32(rng.uniform(0, 0.4)) * smooth_field(labels.shape, nodes, rng))
    np.clip(image, 0, None, out=image)
    image /= max(float(image.max()), 1e-6)
    return image ** np.float32(np.exp(rng.uniform(-0.4, 0.4))), removed


def _tissues(label_map, rng, typical=0.0):
    """Mean and spread of the intensities of each number, float32."""
    tissue = np.append(label_map.tissue, label_map.tissue.max() + 1 + np.arange(EXTRA))
    cortex = label_map.tissue[label_map.cortex[0]]
    touching = {label_map.tissue[n] for n in (*label_map.white[:1], *label_map.fluid[:1])}
    means = rng.uniform(0.05, 1.0, tissue.max() + 1)
    if rng.random() < typical:
        sequence = TYPICAL[rng.integers(len(TYPICAL))]
        names = list(label_map.numbering.tissues)
        for name, value in zip(_TYPICAL_TISSUES, sequence, strict=True):
            if name in names:
                means[names.index(name)] = value + rng.normal(0, 0.05)
    if touching - {cortex}:
        other = means[list(touching - {cortex})]
        while np.abs(means[cortex] - other).min() < _MIN_CONTRAST:  # nobody could see it
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
