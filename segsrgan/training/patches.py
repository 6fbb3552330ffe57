# SPDX-License-Identifier: MIT
"""Where the training patches of an image lie, and how they are cut."""

from dataclasses import dataclass

import numpy as np

METHODS = ("bounding_box", "overlapping_with_mask")


@dataclass(frozen=True)
class Cutting:
    """How images are cut into patches.

    Attributes:
        patch: edge in voxels.
        stride: voxels between neighbouring patches.
        method: "bounding_box", see `box_starts`; "overlapping_with_mask", see
            `overlapping_starts`.
        flip: whether each patch of the training is turned over along each axis at random.

    Raises:
        ValueError: if the method is unknown or a size below 1.
    """

    patch: int = 64
    stride: int = 20
    method: str = "bounding_box"
    flip: bool = True

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(
                f"the cropping method must be one of {', '.join(METHODS)}, received {self.method!r}"
            )
        if self.patch < 1 or self.stride < 1:
            raise ValueError(
                "patch and stride must be 1 voxel at least, "
                f"received {self.patch} and {self.stride}"
            )


def filled_box(inside):
    """The smallest box around the True voxels of an array (x, y, z).

    Returns:
        Per axis `(first, last + 1)`; three times (0, 1) if there is no such voxel.
    """
    box = []
    for axis in range(3):
        filled = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append((int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 1))
    return tuple(box)


def box_starts(box, shape, patch, stride):
    """First corners of the patches that tile the bounding box of an image's positive voxels.

    Args:
        box: per axis `(first, last + 1)`.
        shape: of the image.
        patch: edge in voxels.
        stride: voxels between neighbouring patches; the last patch of an axis ends at or before
            the box's end, as in the original.

    Returns:
        (n, 3) int; one patch on an axis where the box is smaller than the patch, placed so that
        it lies in the image where the image is large enough.
    """
    starts = []
    for (first, last), size in zip(box, shape, strict=True):
        if last - first < patch:
            starts.append([max(0, min((first + last - patch) // 2, size - patch))])
        else:
            starts.append(range(first, last - patch + 1, stride))
    return _combinations(starts)


def overlapping_starts(mask, patch, stride):
    """First corners of the patches that have more than half of their voxels in a mask.

    Args:
        mask: (x, y, z) bool.
        patch: edge in voxels.
        stride: patches start at 0, stride, 2 stride ... along each axis of the whole image, as
            far as they lie in it; at 0 on an axis shorter than the patch.

    Returns:
        (n, 3) int; none if the mask is too small.
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
    """Copies a patch.

    Args:
        array: (x, y, z).
        start: its first corner; what lies beyond the array's end is 0.
        flips: three bool, the axes along which the patch is turned over.
        out: (p, p, p), any dtype that the array's can be cast to; the patch is written here.
    """
    part = array[tuple(slice(s, s + p) for s, p in zip(start, out.shape, strict=True))]
    view = out[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    if part.shape != view.shape:
        view[...] = 0
        view = view[tuple(map(slice, part.shape))]
    view[...] = part


def _combinations(starts):
    return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
