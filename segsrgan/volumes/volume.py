# SPDX-License-Identifier: MIT
"""A 3-D image: where its voxels lie, a regular grid in patient space, and its intensities.

Physical coordinates are ITK's patient space (LPS: left, posterior, superior), in mm. A voxel's
centre has integer index; the field of view reaches half a voxel beyond the outermost centres.
"""

import logging
import math
from dataclasses import dataclass, field

import numpy as np

from segsrgan.errors import VolumeError

_logger = logging.getLogger(__name__)

# Beyond this a resolution is a slip of the keyboard: one float32 channel would take 8 GiB.
MAX_VOXELS = 2**31
_SAMPLE = 2**18  # voxels that tell whether float32 is fine enough
_ROUNDING = 1e-3  # of the range of an image; float32 may change its values by so much


def nearest_rotation(matrix):
    """The orthonormal matrix nearest to a (3, 3) one (polar decomposition), handedness kept.

    Columns are scaled to length one first, so that a thick axis weighs no more than a thin one.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    return left @ right


def is_orthonormal(matrix, tolerance=1e-4):
    """Whether the columns of a (3, 3) matrix have length one and right angles."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return bool(np.allclose(matrix.T @ matrix, np.eye(3), atol=tolerance))


def as_triple(value, name):
    """A number or three as a tuple of three floats."""
    numbers = np.asarray(value, dtype=np.float64).ravel()
    if numbers.size not in (1, 3):
        raise ValueError(f"{name} must be one number or three (x, y, z), received {value!r}")
    return tuple(float(number) for number in np.broadcast_to(numbers, 3))


def spatial_shape(sizes, path):
    """The three sizes (x, y, z) of a file's axes, of which further ones must have one element."""
    sizes = list(sizes)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        remedy = "give a stack of slices" if len(sizes) < 3 else "extract one volume of it first"
        if len(sizes) > 3 and sizes[2] == 1:
            remedy += ", or move slices that lie along the fourth axis to the third"
        raise VolumeError(
            f"{path}: expected a 3-D image, received {len(sizes)}-D {tuple(sizes)}; {remedy}"
        )
    return tuple(sizes)


def voxels_of(array, name, labels=False):
    """Stored voxels (x, y, z) as they are used: float32, of `labels` in their own type, native.

    NaN from the border on, SPM's and AFNI's background, becomes 0, or the minimum below 0, with a
    warning. `VolumeError` if float32 cannot hold the intensities, or not tell them apart.
    """
    dtype = array.dtype.newbyteorder("=") if labels else np.dtype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.require(array, dtype, "CW")
        if not np.can_cast(array.dtype, dtype):
            _check_float32(array, result, name)
    if dtype.kind != "f" or not np.isnan(result.min()):
        return result
    from scipy import ndimage  # slow to load

    regions, _ = ndimage.label(np.isnan(result))
    faces = [regions.take([0, -1], axis).ravel() for axis in range(3)]
    outside = np.isin(regions, np.setdiff1d(np.concatenate(faces), [0]))
    if outside.all() or not outside.any():
        return result
    value = min(0.0, np.nanmin(result))
    text = "%s: %d of %d voxels are NaN, from the border on; taking them for background, %g"
    _logger.warning(text, name, outside.sum(), result.size, value)
    result[outside] = value
    return result


def _check_float32(array, result, name):
    """Refuse finite voxels that float32 makes infinite, or of a difference that it rounds away."""
    if count := np.count_nonzero(np.isinf(result) & np.isfinite(array)):
        largest = np.abs(array, where=np.isfinite(array), out=np.zeros(array.shape)).max()
        raise VolumeError(
            f"{name}: {count} of {array.size} voxels are beyond float32, up to {largest:.3g} in "
            "size; scale the image to ordinary numbers"
        )
    sample, rounded = (a.ravel()[:: a.size // _SAMPLE | 1].astype(float) for a in (array, result))
    inside = np.isfinite(sample)
    if array.dtype.kind in "iu":  # an object of one value has no noise: background can be left out
        inside &= (sample != 0) & (sample > sample.min())
    values, rounded = sample[inside], rounded[inside]
    error = np.abs(values - rounded).max(initial=0)
    if values.size and 0 < np.ptp(values) < error / _ROUNDING:
        raise VolumeError(
            f"{name}: its values, {values.min():.12g} to {values.max():.12g}, differ by less than "
            "float32 can hold; subtract their minimum from the image and save it again"
        )


def check_spacing(spacing, name="spacing"):
    """One spacing or three, in mm, as three floats; `ValueError` unless positive and finite."""
    spacing = as_triple(spacing, name)
    if not all(math.isfinite(size) and size > 0 for size in spacing):
        raise ValueError(
            f"{name} must be positive and finite in mm, received {spacing}; try (0.5, 0.5, 0.5)"
        )
    return spacing


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in patient space (LPS, mm).

    Args:
        shape: voxels along (x, y, z).
        spacing: distance between voxel centres along x, y, z, mm, one number or three.
        origin: physical position of the centre of voxel (0, 0, 0), mm.
        direction: (3, 3), orthonormal; column k is the physical direction of axis k.
        space: NIfTI's code of what the coordinates are aligned with: 1 the scanner, 2 another
            image, 3 Talairach's atlas, 4 MNI's, 5 another template.

    Raises:
        ValueError: if an axis has no voxel, the spacing is not positive and finite, the origin not
            finite or the direction not orthonormal.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3))
    space: int = 1

    def __post_init__(self):
        shape = tuple(int(size) for size in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be three positive sizes (x, y, z), received {self.shape}")
        origin = as_triple(self.origin, "origin")
        if not np.all(np.isfinite(origin)):
            raise ValueError(f"origin must be three finite numbers in mm, received {self.origin}")
        direction = np.array(self.direction, dtype=np.float64)
        if direction.size != 9 or not is_orthonormal(direction.reshape(3, 3)):
            raise ValueError(
                "direction must be a 3x3 matrix with orthonormal columns, "
                f"received {np.round(direction, 5).tolist()}"
            )
        direction = direction.reshape(3, 3)
        direction.flags.writeable = False
        values = {"shape": shape, "spacing": check_spacing(self.spacing), "origin": origin}
        self.__dict__.update(values, direction=direction)

    def index_to_physical(self, index):
        """Physical points (..., 3) in mm of continuous voxel indices (..., 3)."""
        scaled = np.asarray(index, dtype=np.float64) * self.spacing
        return scaled @ self.direction.T + self.origin

    def physical_to_index(self, point):
        """Continuous voxel indices (..., 3) of physical points (..., 3) in mm."""
        centred = np.asarray(point, dtype=np.float64) - self.origin
        return centred @ self.direction / self.spacing

    def corner_aligned(self, spacing):
        """The grid of another spacing, one number or three in mm, over the same field of view.

        The outer corner of the first voxel stays exactly where it is; the far end is covered,
        with less than one new voxel to spare::

            old  |     0     |     1     |        3 mm, centres at 0 and 3
            new  | 0 | 1 | 2 | 3 | 4 | 5 |        1 mm, centres at -1, 0, 1 ...

        Raises `ValueError` if the spacing is not positive or asks for more than 2^31 voxels.
        """
        new, old = np.array(check_spacing(spacing)), np.array(self.spacing)
        shape = [max(1, math.ceil(size)) for size in np.array(self.shape) * old / new - 1e-3]
        if math.prod(shape) > MAX_VOXELS:
            raise ValueError(
                f"a resolution of {tuple(map(float, new))} mm makes {' x '.join(map(str, shape))} "
                f"voxels, more than {MAX_VOXELS} in all; try a coarser one, such as 0.5 0.5 0.5"
            )
        origin = self.origin + self.direction @ ((new - old) / 2)
        return Grid(tuple(shape), tuple(new), tuple(origin), self.direction, self.space)

    @property
    def thick_axis(self):
        """The axis whose spacing exceeds both others by more than 5 %, or None."""
        axis = int(np.argmax(self.spacing))
        others = [size for k, size in enumerate(self.spacing) if k != axis]
        return axis if self.spacing[axis] > 1.05 * max(others) else None

    @property
    def corners(self):
        """Physical positions (8, 3), mm, of the outermost voxel centres."""
        indices = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.shape) - 1)
        return self.index_to_physical(indices)

    def is_close(self, other, tolerance=1e-3):
        """Whether two grids have one shape and their corners lie within `tolerance` mm."""
        same = self.shape == other.shape
        return same and np.allclose(self.corners, other.corners, rtol=0, atol=tolerance)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image and its geometry.

    Args:
        array: (x, y, z), any real dtype.
        spacing: distance between voxel centres along x, y, z, mm.
        origin: physical position (LPS, mm) of the centre of voxel (0, 0, 0).
        direction: (3, 3); column k is the physical direction of axis k.
        space: as of `Grid`.

    Raises:
        ValueError: if the array is not 3-D or the geometry is invalid.

    Examples:
        >>> volume = Volume(np.zeros((64, 64, 20), np.float32), (1.0, 1.0, 3.0))
        >>> volume.grid.thick_axis
        2
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3))
    space: int = 1

    def __post_init__(self):
        array = np.asarray(self.array)
        if array.ndim != 3:
            raise ValueError(f"a volume has three axes (x, y, z), received shape {array.shape}")
        grid = Grid(array.shape, self.spacing, self.origin, self.direction)
        place = {"spacing": grid.spacing, "origin": grid.origin, "direction": grid.direction}
        self.__dict__.update(place, array=array)

    def __repr__(self):
        shape, spacing = "x".join(map(str, self.array.shape)), self.spacing
        return f"Volume({shape} {self.array.dtype}, spacing {spacing}, origin {self.origin})"

    @classmethod
    def from_grid(cls, array, grid):
        """A volume of `array` (x, y, z) on `grid`; `ValueError` if their shapes differ."""
        array = np.asarray(array)
        if array.shape != grid.shape:
            raise ValueError(f"the array must have shape {grid.shape}, received {array.shape}")
        return cls(array, grid.spacing, grid.origin, grid.direction, grid.space)

    @property
    def grid(self):
        """The geometry alone."""
        return Grid(self.array.shape, self.spacing, self.origin, self.direction, self.space)

    def with_array(self, array):
        """A volume of another array (x, y, z) of the same shape in the same place."""
        return Volume.from_grid(array, self.grid)
