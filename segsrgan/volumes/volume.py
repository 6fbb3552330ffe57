# SPDX-License-Identifier: MIT
"""A 3-D image with its place in patient space."""

from dataclasses import dataclass, field

import numpy as np

from segsrgan.volumes.grid import Grid


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image and its geometry.

    Args:
        array: (x, y, z), any real dtype.
        spacing: distance between voxel centres along x, y, z, mm.
        origin: physical position (LPS, mm) of the centre of voxel (0, 0, 0).
        direction: (3, 3); column k is the physical direction of axis k.

    Raises:
        ValueError: if the array is not 3-D or the geometry is invalid.

    Example:
        >>> volume = Volume(np.zeros((64, 64, 20), np.float32), (1.0, 1.0, 3.0))
        >>> volume.grid.thick_axis
        2
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __post_init__(self):
        array = np.asarray(self.array)
        if array.ndim != 3:
            raise ValueError(f"a volume has three axes (x, y, z), received shape {array.shape}")
        grid = Grid(array.shape, self.spacing, self.origin, self.direction)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "spacing", grid.spacing)
        object.__setattr__(self, "origin", grid.origin)
        object.__setattr__(self, "direction", grid.direction)

    @classmethod
    def from_grid(cls, array, grid):
        """Return a volume of `array` (x, y, z) placed on `grid`.

        Raises:
            ValueError: if their shapes differ.
        """
        array = np.asarray(array)
        if array.shape != grid.shape:
            raise ValueError(
                f"the array must have the grid's shape {grid.shape}, received {array.shape}"
            )
        return cls(array, grid.spacing, grid.origin, grid.direction)

    @property
    def grid(self):
        """The geometry alone."""
        return Grid(self.array.shape, self.spacing, self.origin, self.direction)

    def with_array(self, array):
        """Return a volume of another array (x, y, z) of the same shape in the same place."""
        return Volume.from_grid(array, self.grid)
