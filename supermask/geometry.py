# SPDX-License-Identifier: MIT
"""Rigid transforms, and views on a common isotropic grid: all places are physical (LPS, mm).

A transform leads from a point of the reference to the same anatomy in a view. That is what a
resampler asks: the value at a point of the reference is the view's at the transformed point. Any
orientation, spacing and transform works, and every value is interpolated once, from the acquired
voxels, whose indices are an affine function of the indices of the grid::

    grid index -> patient space (reference) -> transform -> patient space (view) -> view index
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.files import write_text
from segsrgan.volumes import Grid
from segsrgan.volumes.volume import MAX_VOXELS, as_triple, is_orthonormal, nearest_rotation

THROUGH = ("linear", "nearest")
# Of a cube: axis k is its axis `order[k]`, backwards where `signs[k]` is -1.
ORIENTATIONS = tuple(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)
_ITK_CENTRED = ("Euler3DTransform", "VersorRigid3DTransform", "AffineTransform")
_EDGE = 1e-4  # voxels; headers round
_SLAB = 2**19  # voxels whose coordinates are held at once


@dataclass(frozen=True)
class Rigid:
    """The map `q = R (p - centre) + centre + translation` with `R = Rz Rx Ry` (ITK's Euler3D).

    Args:
        angles: about x, y, z, radians.
        translation: along x, y, z, mm.
        centre: the point about which is turned, mm.

    Raises:
        ValueError: if a number is not finite, or there are not three of each.

    Examples:
        >>> turn = Rigid((0, 0, np.pi / 2), centre=(1, 0, 0))
        >>> np.round(turn.apply((2, 0, 0)), 6)
        array([1., 1., 0.])
        >>> (turn.inverse() @ turn).angle()
        0.0
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self):
        for name in ("angles", "translation", "centre"):
            values = as_triple(getattr(self, name), name)
            if not np.all(np.isfinite(values)):
                raise ValueError(f"{name} must be three finite numbers, received {values}")
            object.__setattr__(self, name, values)

    @classmethod
    def from_matrix(cls, matrix, centre=(0.0, 0.0, 0.0)):
        """The transform of a rigid homogeneous matrix (4, 4), turning about `centre` (mm)."""
        matrix, centre = np.asarray(matrix, np.float64), np.asarray(centre, np.float64)
        turn = matrix[:3, :3]
        if not is_orthonormal(turn, 1e-5) or np.linalg.det(turn) < 0:
            raise ValueError(
                "a rigid transform must turn and shift, not stretch, shear or mirror; received "
                f"the matrix {np.round(turn, 5).tolist()}"
            )
        translation = turn @ centre + matrix[:3, 3] - centre
        return cls(_angles(nearest_rotation(turn)), tuple(translation), tuple(centre))

    @classmethod
    def in_grid(cls, parameters, grid):
        """The transform of parameters along the axes of a right-handed grid, about its middle.

        The parameters are (6,): angles in radians about, and shifts in mm along, its x, y, z.
        """
        parameters, frame = np.asarray(parameters, np.float64), grid.direction
        matrix, middle = np.eye(4), middle_of(grid)
        matrix[:3, :3] = frame @ rotation(parameters[:3]) @ frame.T
        matrix[:3, 3] = middle + frame @ parameters[3:] - matrix[:3, :3] @ middle
        return cls.from_matrix(matrix, middle)

    @property
    def rotation(self):
        """The rotation matrix (3, 3)."""
        return rotation(self.angles)

    @property
    def matrix(self):
        """The homogeneous matrix (4, 4), mm to mm."""
        matrix, centre = np.eye(4), np.array(self.centre)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = centre + self.translation - self.rotation @ centre
        return matrix

    def apply(self, points):
        """Transformed points (..., 3), mm."""
        turned = (np.asarray(points, np.float64) - self.centre) @ self.rotation.T
        return turned + (np.array(self.centre) + self.translation)

    def inverse(self):
        """The transform that undoes this one, about the same centre."""
        back = self.rotation.T
        return Rigid(_angles(back), tuple(-back @ self.translation), self.centre)

    def __matmul__(self, first):
        """`(a @ b).apply(p) == a.apply(b.apply(p))`, about the centre of `b`."""
        return Rigid.from_matrix(self.matrix @ first.matrix, first.centre)

    def voxel_matrix(self, grid):
        """The transform for `SpatialTransformer3D` on a grid: (3, 4) float32, voxels.

        The output voxel p takes the input's value at `A (p - c) + t + c`, c being the middle of the
        grid and `[A | t]` the matrix.
        """
        frame, spacing = grid.direction, np.array(grid.spacing)
        middle = middle_of(grid)
        turn = (frame.T @ self.rotation @ frame) * spacing / spacing[:, None]
        shift = frame.T @ (self.apply(middle) - middle) / spacing
        return np.column_stack([turn, shift]).astype(np.float32)

    def angle(self):
        """How far it turns in all, degrees, 0 to 180."""
        return turn_between(self.rotation, np.eye(3))

    def to_itk(self):
        """The `SimpleITK.Euler3DTransform`; a resampler to the reference takes it as it is."""
        import SimpleITK as sitk

        return sitk.Euler3DTransform(self.centre, *self.angles, self.translation)

    @classmethod
    def from_itk(cls, transform):
        """The transform of any rigid `SimpleITK.Transform`, also a composed one.

        It turns about the centre of that where it has one, else about 0. Raises `ValueError` if
        that is not rigid, or not of three dimensions.
        """
        if transform.GetDimension() != 3 or not transform.IsLinear():
            raise ValueError(
                f"expected a rigid transform of three dimensions, received {transform.GetName()} "
                f"of {transform.GetDimension()}"
            )
        is_centred = transform.GetName() in _ITK_CENTRED
        centre = transform.GetFixedParameters()[:3] if is_centred else (0.0, 0.0, 0.0)
        ends = np.concatenate([np.zeros((1, 3)), np.eye(3)])
        images = np.array([transform.TransformPoint(end.tolist()) for end in ends])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = (images[1:] - images[0]).T, images[0]
        return cls.from_matrix(matrix, centre)


def write_transform(transform, path):
    """Writes a `Rigid` as a text file of ITK's format (.tfm), whole or not at all."""
    numbers = " ".join(repr(float(v)) for v in (*transform.angles, *transform.translation))
    centre = " ".join(repr(float(v)) for v in transform.centre)
    write_text(
        Path(path),
        "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: {centre} 0\n",
    )


def read_transform(path):
    """Reads a rigid transform of any of ITK's formats.

    Args:
        path: of the file, such as `sagittal_to_axial.tfm`.

    Returns:
        A `Rigid`.

    Raises:
        UserError: if it cannot be read or is not rigid.
    """
    import SimpleITK as sitk

    from segsrgan.volumes.itk import sitk_path

    try:
        with sitk_path(path) as name:
            return Rigid.from_itk(sitk.ReadTransform(name))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a rigid 3-D transform of ITK ({str(error).splitlines()[-1]})"
        ) from error


def rotation(angles):
    """The matrix (3, 3) `Rz Rx Ry` of angles about x, y, z in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def turn_between(first, second):
    """The angle between two rotation matrices (3, 3), degrees, 0 to 180."""
    # By the sine of half of it: the cosine of the whole loses small ones.
    half = np.linalg.norm(first - second) / np.sqrt(8)
    return float(np.rad2deg(2 * np.arcsin(min(1.0, half))))


def _angles(turn):
    """The inverse of `rotation`: x in [-pi/2, pi/2], y and z in [-pi, pi]."""
    x = np.arcsin(np.clip(turn[2, 1], -1, 1))
    if abs(turn[2, 1]) > 1 - 1e-12:  # y and z turn about one axis: all of it goes to z
        return float(x), 0.0, float(np.arctan2(turn[1, 0], turn[0, 0]))
    y, z = np.arctan2(-turn[2, 0], turn[2, 2]), np.arctan2(-turn[0, 1], turn[1, 1])
    return float(x), float(y), float(z)


def middle_of(grid):
    """The physical middle (3,) of a `Grid`, mm."""
    return grid.index_to_physical((np.array(grid.shape) - 1) / 2)


def corners(grid):
    """The eight outer corners (8, 3) of a grid's field of view, mm."""
    ends = np.indices((2, 2, 2)).reshape(3, -1).T
    return grid.index_to_physical(ends * np.array(grid.shape) - 0.5)


def canonical_direction(direction):
    """The axes (columns) in the patient's order and signs, right-handed, however stored."""
    candidates = [direction[:, order] * signs for order, signs in ORIENTATIONS]
    return max((matrix for matrix in candidates if np.linalg.det(matrix) > 0), key=np.trace)


def isotropic_grid(points, direction, spacing, size=None, margin=0.0):
    """An isotropic `Grid` along `canonical_direction`s, the box around points in its middle.

    The points are (n, 3), mm; without a size, voxels of an edge, it is as large as they and a
    margin (mm) on each side need. Raises `UserError` if it had too many voxels.
    """
    direction = canonical_direction(direction)
    along = np.asarray(points, np.float64) @ direction
    low, high = along.min(axis=0), along.max(axis=0)
    needed = np.maximum(1, np.ceil((high - low + 2 * margin) / spacing - 1e-3))
    shape = needed if size is None else np.full(3, size)
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise UserError(
            f"a grid of {' x '.join(f'{n:.0f}' for n in shape)} voxels of {spacing:g} mm is too "
            "large; take a larger spacing, or a size"
        )
    origin = direction @ ((low + high) / 2 - (shape - 1) / 2 * spacing)
    return Grid(tuple(int(n) for n in shape), (spacing,) * 3, tuple(origin), direction)


def overlaps(first, second):
    """Whether the fields of view of two grids share a point (separating axis theorem)."""
    boxes = corners(first), corners(second)
    axes = [*first.direction.T, *second.direction.T]
    axes += [np.cross(a, b) for a in first.direction.T for b in second.direction.T]
    for axis in axes:
        if np.linalg.norm(axis) < 1e-6:
            continue
        (low, high), (other_low, other_high) = (((b @ axis).min(), (b @ axis).max()) for b in boxes)
        if high <= other_low or other_high <= low:
            return False
    return True


def sample(volume, grid, transform=None, through="linear", order=1):
    """A view's values at the voxel centres of a grid, float32 (x, y, z), 0 where it does not see.

    The transform is a `Rigid` from the reference to the view; identity when None. Of the slices
    it takes what is "linear" between them, or the "nearest" one's value, as in the paper. The
    order of the interpolation in plane is 0 (nearest), 1 (linear) or 3 (cubic; then `through`
    "linear" is cubic, too).
    """
    if through not in THROUGH:
        raise ValueError(f"through must be one of {', '.join(THROUGH)}, received {through!r}")
    matrix, offset = affine(volume.grid, grid, transform)
    axis = volume.grid.thick_axis if through == "nearest" else None
    array = np.asarray(volume.array, np.float32)
    if order > 1:
        array = ndimage.spline_filter(array, order=order, mode="mirror", output=np.float32)
    last = np.array(array.shape)[:, None, None, None] - 1
    result = np.empty(grid.shape, np.float32)
    rows = max(1, _SLAB // (grid.shape[1] * grid.shape[2]))
    for first in range(0, grid.shape[0], rows):
        slab = slice(first, min(first + rows, grid.shape[0]))
        shape, start = (slab.stop - first, *grid.shape[1:]), offset + matrix[:, 0] * first
        points = np.stack([coordinate(matrix[k], start[k], shape) for k in range(3)])
        outside = ((points < -0.5 - _EDGE) | (points > last + 0.5 + _EDGE)).any(axis=0)
        if axis is not None:
            # Not to the even one, as np.rint does midway: every slice has as many voxels.
            np.floor(points[axis] + 0.5, out=points[axis])
        np.clip(points, 0, last, out=points)
        result[slab] = ndimage.map_coordinates(
            array, points, np.float32, order=order, mode="mirror", prefilter=False
        )
        result[slab][outside] = 0
    return result


class Sampling(NamedTuple):
    """How the voxels of a grid lie to a view's acquired slices, two arrays (x, y, z)."""

    distance: np.ndarray  # float32, mm along the normal to the nearest slice's middle; isotropic: 0
    inside: np.ndarray  # bool, whether the voxel lies in the field of view


def sampling(source, grid, transform=None):
    """The `Sampling` of a view of the `Grid` source; `transform` as for `sample`."""
    matrix, offset = affine(source, grid, transform)
    inside, distance = np.ones(grid.shape, bool), np.zeros(grid.shape, np.float32)
    for axis in range(3):
        index = coordinate(matrix[axis], offset[axis], grid.shape)
        inside &= (index >= -0.5 - _EDGE) & (index <= source.shape[axis] - 0.5 + _EDGE)
        if axis == source.thick_axis:
            nearest = np.clip(np.rint(index), 0, source.shape[axis] - 1)
            distance[:] = np.abs(index - nearest) * source.spacing[axis]
    return Sampling(distance, inside)


def affine(source, grid, transform):
    """The map of indices of `grid` to continuous indices of `source`: (3, 3) and offset (3,)."""
    points = grid.index_to_physical(np.concatenate([np.zeros((1, 3)), np.eye(3)]))
    start, *steps = source.physical_to_index((transform or Rigid()).apply(points))
    return (np.array(steps) - start).T, start


def coordinate(row, offset, shape):
    """One coordinate (x, y, z) of the source's index, for all voxels of a grid."""
    x, y, z = (np.arange(n) * step for n, step in zip(shape, row, strict=True))
    return (x + offset)[:, None, None] + y[:, None] + z


def voxels_of(volume, threshold=0.5, most=20000):
    """Physical points (n, 3) of the voxels of a mask from a threshold up, at most about `most`.

    They are spread over the whole mask, always the same ones, its outermost corners among them.
    """
    # In the order of the patient's axes: the same ones however the voxels are stored.
    direction = volume.grid.direction
    order, signs = max(ORIENTATIONS, key=lambda item: np.trace(direction[:, item[0]] * item[1]))
    flips = tuple(slice(None, None, sign) for sign in signs)
    index = np.argwhere(volume.array.transpose(order)[flips] >= threshold)
    step = max(1, math.ceil(len(index) / most))
    ends = np.concatenate([index.argmin(axis=0), index.argmax(axis=0)]) if len(index) else []
    chosen = np.unique(np.concatenate([np.arange(0, len(index), step), ends]).astype(int))
    stored = np.empty((len(chosen), 3), int)
    for axis, sign, column in zip(order, signs, index[chosen].T, strict=True):
        stored[:, axis] = column if sign > 0 else volume.array.shape[axis] - 1 - column
    return volume.grid.index_to_physical(stored)
