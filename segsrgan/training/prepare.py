# SPDX-License-Identifier: MIT
"""One training image: what of it is needed, and its degraded version ready to be cut."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.training.case import Extent
from segsrgan.training.patches import box_starts, cut, overlapping_starts
from segsrgan.volumes import Volume, resample

# Bytes per voxel of a whole image, at most, while it is read and degraded; a test measures it.
_PREPARING = 40
# Labels that are probabilities are kept in a byte.
_LEVELS = 255


@dataclass(frozen=True)
class Plan:
    """What is needed of an image, in voxels of `Simulation.network_spacing`.

    Attributes:
        extent: the image's `Extent`.
        stored: voxels of the image as it is stored.
        starts: (n, 3) int, the first corners of its patches.
        box: per axis the `(first, last + 1)` of all patches together, within the image.
        region: likewise of what the simulation has to see: the box and all that is not 0, and a
            margin. What lies outside is 0, so that nothing is lost.
    """

    extent: Extent
    stored: int
    starts: np.ndarray
    box: tuple
    region: tuple

    @classmethod
    def of(cls, case, simulation, cutting):
        """Plans a `Case` for a `Simulation` and a `Cutting`.

        Raises:
            VolumeError: if a file has to be read and cannot be.
        """
        stored, patch = case.extent(), cutting.patch
        extent = stored.at(simulation.network_spacing(stored.spacing))
        # The first voxels of the image are the first of a slice: so are those of all patches.
        unit = np.where(np.equal(extent.spacing, stored.spacing), 1, simulation.slice_voxels)
        if cutting.method == "bounding_box":
            starts = box_starts(extent.positive, extent.shape, patch, cutting.stride)
        else:
            mask = Volume(case.load_mask(), stored.spacing)
            mask = resample(mask, extent.spacing, spline_order=0)
            starts = overlapping_starts(mask.array > 0, patch, cutting.stride)
        voxels = math.prod(stored.shape)
        if not len(starts):
            return cls(extent, voxels, starts, extent.positive, extent.content)
        starts = np.unique(starts - starts % unit, axis=0)
        first, last = starts.min(axis=0), np.minimum(starts.max(axis=0) + patch, extent.shape)
        low, high = np.transpose(extent.content)
        margin = np.array(simulation.margin(extent.spacing))
        low = np.maximum(np.minimum(low, first) - margin, 0)
        low -= low % unit
        high = np.minimum(np.maximum(high, last) + margin, extent.shape)
        return cls(extent, voxels, starts, _pairs(first, last), _pairs(low, high))

    @property
    def box_voxels(self):
        """Voxels of the box."""
        return int(np.prod([last - first for first, last in self.box]))

    def preparing_bytes(self, deformation):
        """Bytes that preparing the image takes at most, with a `Deformation` or None."""
        voxels = max(math.prod(self.extent.shape), self.stored)
        return voxels * _PREPARING + (deformation.memory(voxels) if deformation else 0)


class Prepared(NamedTuple):
    """A degraded image, thick axis last. All arrays have one shape (x, y, z).

    Attributes:
        lr, hr: float32.
        label: bool, or uint8 in steps of 1 / 255.
        mask: uint8 classes, or None.
        starts: (n, 3) int, the first corners of the patches.
        resolution: distance of the slices, mm.
    """

    lr: np.ndarray
    hr: np.ndarray
    label: np.ndarray
    mask: np.ndarray | None
    starts: np.ndarray
    resolution: float

    def write_patch(self, index, flips, lr, target, scratch):
        """Cuts one patch.

        Args:
            index: of the patch.
            flips: three bool, axes to turn over.
            lr: (p, p, p, 1) float32, written.
            target: (p, p, p, 2 + classes) float32, written: image, label, one-hot classes; what
                lies beyond the image is 0, and class 0.
            scratch: (p, p, p) uint8, overwritten.
        """
        start = self.starts[index]
        cut(self.lr, start, flips, lr[..., 0])
        cut(self.hr, start, flips, target[..., 0])
        cut(self.label.view(np.uint8), start, flips, target[..., 1])  # bool is cast slowly
        if self.label.dtype != bool:
            target[..., 1] /= np.float32(_LEVELS)
        if self.mask is not None:
            cut(self.mask, start, flips, scratch)
            for value in range(target.shape[-1] - 2):
                target[..., 2 + value] = scratch == value


def prepare(case, plan, simulation, rng, share=None, masks=False, deformation=None, cache=None):
    """Reads an image, deforms it, degrades it and crops it.

    Args:
        case: a `Case`.
        plan: its `Plan`.
        simulation: a `Simulation`.
        rng: a `numpy.random.Generator`.
        share: see `Simulation.draw`.
        masks: whether the mask is kept.
        deformation: a `Deformation`, or None.
        cache: a `Cache`, or None.

    Returns:
        A `Prepared`.

    Raises:
        VolumeError: if the case cannot be read or used; the message names the file.
    """

    def read():
        return _read(case, plan, masks)

    if cache is None:
        arrays = read()
    else:
        files = case.files if masks else case.files[:2]
        arrays = cache.load(files, {"region": plan.region, "spacing": plan.extent.spacing}, read)
    try:
        return _degrade(arrays, plan, simulation, rng, share, deformation)
    except VolumeError:
        raise
    except (ValueError, MemoryError) as error:
        raise VolumeError(
            f"{case.image}: cannot be made into a training image ({error})"
        ) from error


def _read(case, plan, masks):
    """The arrays of a case in the region of its plan."""
    image, label, mask = case.load(mask=masks).at(plan.extent.spacing)
    if label.dtype != bool:
        label = np.rint(label * np.float32(_LEVELS)).astype(np.uint8)
    arrays = {"image": image.array, "label": label}
    if masks:
        arrays["mask"] = mask
    window = tuple(slice(first, last) for first, last in plan.region)
    return {part: np.array(array[window], order="C") for part, array in arrays.items()}


def _degrade(arrays, plan, simulation, rng, share, deformation):
    image = Volume(arrays["image"], plan.extent.spacing)
    label, mask = arrays["label"], arrays.get("mask")
    if deformation is not None:
        image, label, mask = deformation.apply(image, label, mask, rng)
    draw = simulation.draw(image, rng, share)
    window = tuple(
        slice(first - begin, last - begin)
        for (first, last), (begin, _) in zip(plan.box, plan.region, strict=True)
    )

    def keep(array):
        # The network meets the thick axis as its last, as at inference.
        return np.array(np.moveaxis(array[window], draw.axis, 2), order="C")

    order = [k for k in range(3) if k != draw.axis] + [draw.axis]
    starts = plan.starts - [first for first, _ in plan.box]
    kept = (keep(draw.lr), keep(draw.hr), keep(label), None if mask is None else keep(mask))
    return Prepared(*kept, starts[:, order], draw.resolution)


def _pairs(first, last):
    return tuple((int(a), int(b)) for a, b in zip(first, last, strict=True))
