# SPDX-License-Identifier: MIT
"""Where the training patches of an image lie, what of the image they need, and how they are cut."""

import math
from dataclasses import dataclass

import numpy as np

from segsrgan.errors import UserError
from segsrgan.training.cases import MASK, Extent, at_spacing
from segsrgan.volumes import Volume, resample

LEVELS = 255  # labels that are probabilities are kept in a byte
# Bytes per voxel of a whole image, at most, while it is read and degraded; a test measures it.
_PREPARING = 40


@dataclass(frozen=True)
class Cutting:
    """How images are cut into patches."""

    patch: int = 64  # edge in voxels
    stride: int = 20  # voxels between neighbouring patches
    method: str = "bounding_box"  # see `box_starts`, or "overlapping_with_mask"
    flip: bool = True  # each patch of the training along each axis at random


@dataclass(frozen=True)
class Plan:
    """What is needed of an image, in voxels of `Degradation.network_spacing`.

    The degradation has to see a region: all patches, all that is not 0, and a margin. What lies
    outside is 0, so that nothing is lost.
    """

    extent: Extent
    stored: int  # voxels of the image as it is stored
    starts: np.ndarray  # (n, 3) int, the first corners of its patches
    box: tuple  # per axis the `(first, last + 1)` of all patches together, within the image
    region: tuple  # per axis its `(first, last + 1)`

    @classmethod
    def of(cls, case, degradation, cutting):
        """Plans a `Case`, whose mask is read if the `Cutting` needs it."""
        stored, patch = case.extent, cutting.patch
        extent = stored.at(degradation.network_spacing(stored.spacing))
        # The first voxels of the image are the first of a slice: so are those of all patches.
        unit = np.where(np.equal(extent.spacing, stored.spacing), 1, degradation.slice_voxels)
        if cutting.method == "bounding_box":
            starts = box_starts(extent.positive, extent.shape, patch, cutting.stride)
        else:
            mask = Volume(case.load_label(MASK), stored.spacing)
            mask = resample(mask, extent.spacing, spline_order=0)
            starts = overlapping_starts(mask.array > 0, patch, cutting.stride)
        voxels = math.prod(stored.shape)
        if not len(starts):
            return cls(extent, voxels, starts, extent.positive, extent.content)
        starts = np.unique(starts - starts % unit, axis=0)
        first, last = starts.min(axis=0), np.minimum(starts.max(axis=0) + patch, extent.shape)
        low, high = np.transpose(extent.content)
        margin = np.array(degradation.margin(extent.spacing))
        low = np.maximum(np.minimum(low, first) - margin, 0)
        low -= low % unit
        high = np.minimum(np.maximum(high, last) + margin, extent.shape)
        box, region = (
            tuple(zip(a.tolist(), b.tolist(), strict=True)) for a, b in ((first, last), (low, high))
        )
        return cls(extent, voxels, starts, box, region)

    def preparing_bytes(self, deformation):
        """Bytes that preparing the image takes at most, with a `Deformation`."""
        voxels = max(math.prod(self.extent.shape), self.stored)
        return voxels * _PREPARING + deformation.memory(voxels)

    def read(self, case, columns):
        """The arrays of a case within the region, `{column: array}`, the image as `image`.

        Labels that are probabilities are uint8, in steps of 1 / 255.
        """
        image, labels = at_spacing(*case.load(columns), self.extent.spacing)
        window = tuple(slice(first, last) for first, last in self.region)
        for column, label in labels.items():
            if label.dtype == np.float32:
                labels[column] = np.rint(label * np.float32(LEVELS)).astype(np.uint8)
        arrays = {"image": image.array, **labels}
        return {part: np.array(array[window], order="C") for part, array in arrays.items()}


def plans_of(cases, degradation, cutting):
    """The `Plan` of each `Case`; a `UserError` names all those without a patch."""
    plans = [Plan.of(case, degradation, cutting) for case in cases]
    empty = [str(case.image) for case, p in zip(cases, plans, strict=True) if not len(p.starts)]
    if empty:
        raise UserError(
            f"no patch of {cutting.patch}^3 voxels has more than half of its voxels in the mask of "
            f"{', '.join(empty)}; try a smaller --patch_size or --stride, or "
            "--image_cropping_method bounding_box"
        )
    return plans


def box_starts(box, shape, patch, stride):
    """First corners (n, 3) of the patches that tile the bounding box of an image's positive voxels.

    The last patch of an axis ends at or before the box's end, as in the original. Where the box is
    smaller than the patch there is one, in the image where the image is large enough.
    """
    starts = []
    for (first, last), size in zip(box, shape, strict=True):
        if last - first < patch:
            starts.append([max(0, min((first + last - patch) // 2, size - patch))])
        else:
            starts.append(range(first, last - patch + 1, stride))
    return _combinations(starts)


def overlapping_starts(mask, patch, stride):
    """First corners (n, 3) of the patches that have more than half of their voxels in a mask.

    Patches start at 0, stride, 2 stride ... along each axis of the whole image, as far as they lie
    in it; at 0 on an axis shorter than the patch.
    """
    starts = [range(0, max(size - patch, 0) + 1, stride) for size in mask.shape]
    counts = mask
    for axis, first in enumerate(starts):
        first = np.array(first)
        sums = np.cumsum(counts, axis=axis, dtype=np.int64 if axis else np.int32)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis)
        last = np.minimum(first + patch, mask.shape[axis])
        counts = sums.take(last, axis) - sums.take(first, axis)
    return _combinations(starts)[(2 * counts > patch**3).ravel()]


def cut(array, start, flips, out):
    """Copies the patch of an array (x, y, z) that begins at a corner to `out` (p, p, p).

    What lies beyond the array's end is 0; `flips`, three bool, are the axes to turn over.
    """
    part = array[tuple(slice(s, s + p) for s, p in zip(start, out.shape, strict=True))]
    view = out[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    if part.shape != view.shape:
        view[...] = 0
        view = view[tuple(map(slice, part.shape))]
    view[...] = part


def _combinations(starts):
    return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
