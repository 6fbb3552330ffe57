# SPDX-License-Identifier: MIT
"""Rigid transforms in patient space (LPS, mm), and their files and voxel forms.

A transform here leads from a point of the reference to the same anatomy in a view. That is what a
resampler asks: the value at a point of the reference is the view's at the transformed point.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import write_text
from segsrgan.volumes.volume import as_triple, is_orthonormal, nearest_rotation

_ITK_CENTRED = ("Euler3DTransform", "VersorRigid3DTransform", "AffineTransform")


@dataclass(frozen=True)
class Rigid:
    """The map `q = R (p - centre) + centre + translation` with `R = Rz Rx Ry` (ITK's Euler3D).

    Args:
        angles: about x, y, z, radians.
        translation: along x, y, z, mm.
        centre: the point about which is turned, mm.

    Raises:
        ValueError: if a number is not finite, or there are not three of each.

    Example:
        >>> turn = Rigid((0, 0, np.pi / 2), centre=(1, 0, 0))
        >>> np.round(turn.apply((2, 0, 0)), 6)
        array([1., 1., 0.])
        >>> (turn.inverse() @ turn).is_close(Rigid())
        True
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
        """The transform of a homogeneous matrix (4, 4), turning about `centre` (mm).

        Raises:
            ValueError: if the matrix is not rigid.
        """
        matrix, centre = np.asarray(matrix, np.float64), np.array(as_triple(centre, "centre"))
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
        """The transform of parameters along the axes of a grid, about its middle.

        Args:
            parameters: (6,) angles in radians about, and shifts in mm along, the grid's x, y, z.
            grid: a `Grid` with right-handed axes.
        """
        parameters = np.asarray(parameters, np.float64)
        frame = grid.direction
        matrix = np.eye(4)
        matrix[:3, :3] = frame @ rotation(parameters[:3]) @ frame.T
        middle = middle_of(grid)
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
        centre = np.array(self.centre)
        return (np.asarray(points, np.float64) - centre) @ self.rotation.T + (
            centre + self.translation
        )

    def about(self, centre):
        """The same map, written as turning about another point (mm)."""
        return Rigid.from_matrix(self.matrix, centre)

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
        # By the sine of half the angle: the cosine of the whole loses small ones.
        half = np.linalg.norm(self.rotation - np.eye(3)) / np.sqrt(8)
        return float(np.rad2deg(2 * np.arcsin(min(1.0, half))))

    def distance(self, other, points):
        """How far two transforms lead points (n, 3) apart, mm: the root of the mean square."""
        apart = self.apply(points) - other.apply(points)
        return float(np.sqrt(np.mean(np.sum(apart**2, axis=-1))))

    def is_close(self, other, tolerance=1e-6):
        """Whether two transforms are one map, within a tolerance of the matrices' numbers."""
        return bool(np.allclose(self.matrix, other.matrix, rtol=0, atol=tolerance))

    def to_itk(self):
        """The `SimpleITK.Euler3DTransform`; a resampler to the reference takes it as it is."""
        import SimpleITK as sitk

        return sitk.Euler3DTransform(self.centre, *self.angles, self.translation)

    @classmethod
    def from_itk(cls, transform):
        """The transform of any rigid `SimpleITK.Transform`, also a composed one.

        It turns about the centre of that where it has one, else about 0.

        Raises:
            ValueError: if it is not rigid, or not of three dimensions.
        """
        if transform.GetDimension() != 3 or not transform.IsLinear():
            raise ValueError(
                f"expected a rigid transform of three dimensions, received {transform.GetName()} "
                f"of {transform.GetDimension()}"
            )
        is_centred = transform.GetName() in _ITK_CENTRED
        centre = transform.GetFixedParameters()[:3] if is_centred else (0.0, 0.0, 0.0)
        corners = np.concatenate([np.zeros((1, 3)), np.eye(3)])
        images = np.array([transform.TransformPoint(corner.tolist()) for corner in corners])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = (images[1:] - images[0]).T, images[0]
        return cls.from_matrix(matrix, centre)


def write_transform(transform, path):
    """Writes a `Rigid` as ITK's text format, whole or not at all.

    Raises:
        UserError: if the name does not end with .tfm.
        OSError: if it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".tfm":
        raise UserError(f"{path}: transforms are ITK text files; end the name with .tfm")
    numbers = " ".join(repr(float(v)) for v in (*transform.angles, *transform.translation))
    centre = " ".join(repr(float(v)) for v in transform.centre)
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: Euler3DTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: {centre} 0\n",
    )


def read_transform(path):
    """Reads a rigid transform of any of ITK's formats.

    Raises:
        UserError: if it cannot be read or is not rigid.
    """
    import SimpleITK as sitk

    try:
        return Rigid.from_itk(sitk.ReadTransform(str(path)))
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


def middle_of(grid):
    """The physical middle (3,) of a `Grid`, mm."""
    return grid.index_to_physical((np.array(grid.shape) - 1) / 2)


def _angles(turn):
    """The inverse of `rotation`: x in [-pi/2, pi/2], y and z in [-pi, pi]."""
    x = np.arcsin(np.clip(turn[2, 1], -1, 1))
    if abs(turn[2, 1]) > 1 - 1e-12:  # y and z turn about one axis: all of it goes to z
        return float(x), 0.0, float(np.arctan2(turn[1, 0], turn[0, 0]))
    y, z = np.arctan2(-turn[2, 0], turn[2, 2]), np.arctan2(-turn[0, 1], turn[1, 1])
    return float(x), float(y), float(z)
