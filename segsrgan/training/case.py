# SPDX-License-Identifier: MIT
"""One row of the training CSV: an image with its label and mask, read and checked."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.training.patches import filled_box
from segsrgan.volumes import Grid, Volume, read_volume, resample

_SHOWN = 8  # values that a message lists
# Interpolation leaves this much beyond 0 and 1 in labels.
_TOLERANCE = 1e-3


class Extent(NamedTuple):
    """What is known of an image without its voxels.

    Attributes:
        shape: voxels along (x, y, z).
        spacing: mm.
        positive: box around the voxels above 0, per axis `(first, last + 1)`.
        content: likewise of the voxels that are not 0.
    """

    shape: tuple
    spacing: tuple
    positive: tuple
    content: tuple

    @classmethod
    def of(cls, image):
        """The extent of a `Volume`."""
        boxes = filled_box(image.array > 0), filled_box(image.array != 0)
        return cls(image.array.shape, image.spacing, *boxes)

    def at(self, spacing):
        """The extent of the image interpolated to another voxel size, see `resample`."""
        if spacing == self.spacing:
            return self
        shape = Grid(self.shape, self.spacing).corner_aligned(spacing).shape
        factors = np.divide(self.spacing, spacing)

        def scaled(box):
            return tuple(
                (math.floor(first * factor), min(math.ceil(last * factor), size))
                for (first, last), factor, size in zip(box, factors, shape, strict=True)
            )

        return Extent(shape, spacing, scaled(self.positive), scaled(self.content))


class Loaded(NamedTuple):
    """The volumes of a case.

    Attributes:
        image: float32 `Volume`.
        label: (x, y, z), bool, or float32 in [0, 1] where the file holds probabilities.
        mask: (x, y, z) uint8 of classes, or None.
    """

    image: Volume
    label: np.ndarray
    mask: np.ndarray | None

    def at(self, spacing):
        """The same interpolated to another voxel size, see `resample`."""
        image, label, mask = self
        if spacing == image.spacing:
            return self
        fine = resample(image, spacing)
        if image.array.min() >= 0:  # splines overshoot
            np.maximum(fine.array, 0, out=fine.array)
        shares = resample(image.with_array(label.astype(np.float32)), spacing, spline_order=1).array
        if mask is not None:
            mask = resample(image.with_array(mask), spacing, spline_order=0).array
        return Loaded(fine, shares > 0.5 if label.dtype == bool else shares, mask)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        image: path of the high-resolution image.
        label: path of the label: 0 and 1, or probabilities; a voxel above 0.5 is inside.
        base: "Train" or "Test".
        mask: path of the mask of classes 0, 1, ..., or None.
        known: the image's extent, if the table has been checked.
    """

    image: Path
    label: Path
    base: str
    mask: Path | None = None
    known: Extent | None = field(default=None, compare=False)

    @property
    def files(self):
        """The paths of the case."""
        return [path for path in (self.image, self.label, self.mask) if path is not None]

    def load(self, mask=True):
        """Reads the case.

        Args:
            mask: whether to read the mask, if there is one.

        Returns:
            A `Loaded`.

        Raises:
            VolumeError: if a file is unreadable, has values it must not have, or lies on another
                grid than the image.
        """
        image = _read_image(self.image)
        label = _read_label(self.label, image, self.image)
        wanted = mask and self.mask is not None
        return Loaded(image, label, self.load_mask(image) if wanted else None)

    def load_mask(self, image=None):
        """The mask alone, (x, y, z) uint8; compared with the grid of `image` if that is given.

        Raises:
            VolumeError: as `load`.
        """
        return _read_mask(self.mask, image, self.image)

    def extent(self):
        """The image's `Extent`, read if it is not known."""
        return self.known or Extent.of(_read_image(self.image))

    def check(self):
        """Reads everything once.

        Returns:
            `(extent, values, problems)`: the `Extent` or None; the set of the mask's values, or
            None; a list of messages, empty if all is well.
        """
        problems, image, extent, values = [], None, None, None
        try:
            image = read_volume(self.image)
            _check_image(image, self.image)
            extent = Extent.of(image)
        except (VolumeError, OSError) as error:
            problems.append(str(error))
        try:
            _read_label(self.label, image, self.image)
        except (VolumeError, OSError) as error:
            problems.append(str(error))
        if self.mask is not None:
            try:
                values = set(np.flatnonzero(np.bincount(self.load_mask(image).ravel())).tolist())
            except (VolumeError, OSError) as error:
                problems.append(str(error))
        return extent, values, problems


def _read_image(path):
    image = read_volume(path)
    _check_image(image, path)
    return image


def _check_image(image, path):
    _check_finite(image, path, "repair the image")
    if image.array.max() <= 0:
        raise VolumeError(f"{path}: has no positive voxel; expected an MR image")
    if min(image.array.shape) < 2:
        raise VolumeError(
            f"{path}: its shape is {image.array.shape}; expected a volume, received a single slice"
        )
    if image.array.min() == image.array.max():
        raise VolumeError(f"{path}: all voxels are {image.array.max():g}; expected an MR image")


def _read_label(path, image, image_path):
    label = read_volume(path)
    _check_grid(label, path, "label", image, image_path)
    array = label.array
    _check_finite(label, path, "repair the label")
    if array.min() < -_TOLERANCE or array.max() > 1 + _TOLERANCE:
        raise VolumeError(
            f"{path}: a label holds 0 and 1, or probabilities between them; found "
            f"{_values(array)}; write a label of the one structure to segment"
        )
    if not (array > 0.5).any():
        raise VolumeError(f"{path}: the label is empty; expected voxels above 0.5")
    binary = array == 1
    if np.count_nonzero(binary) == np.count_nonzero(array):
        return binary
    return np.clip(array, 0, 1, out=array)


def _read_mask(path, image, image_path):
    mask = read_volume(path)
    _check_grid(mask, path, "mask", image, image_path)
    _check_finite(mask, path, "repair the mask")
    result = np.clip(mask.array, 0, 255).astype(np.uint8)
    if not np.array_equal(result, mask.array):
        raise VolumeError(
            f"{path}: a mask holds the classes 0, 1, 2 ... up to 255; found {_values(mask.array)}; "
            "number the classes from 0, the background"
        )
    if not result.any():
        raise VolumeError(f"{path}: the mask is empty; expected voxels above 0")
    return result


def _values(array):
    values = np.unique(array)
    text = ", ".join(f"{value:g}" for value in values[:_SHOWN])
    if len(values) <= _SHOWN:
        return text
    return f"{text} ... {values[-1]:g} ({len(values)} values)"


def _check_finite(volume, path, remedy):
    if not np.isfinite(volume.array).all():
        raise VolumeError(f"{path}: has voxels that are NaN or infinite; {remedy}")


def _check_grid(volume, path, name, image, image_path):
    if image is None:
        return
    if image.array.shape != volume.array.shape:
        raise VolumeError(
            f"{path}: the {name}'s shape {volume.array.shape} differs from the image's "
            f"{image.array.shape} ({image_path}); resample the {name} onto the image"
        )
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(image.array.shape) - 1)
    apart = image.grid.index_to_physical(corners) - volume.grid.index_to_physical(corners)
    shift = float(np.linalg.norm(apart, axis=-1).max())
    if shift > 0.1 * min(image.spacing):
        raise VolumeError(
            f"{path}: the {name} lies up to {shift:.2f} mm beside the image ({image_path}); "
            "both headers must describe the same grid"
        )
