# SPDX-License-Identifier: MIT
"""AlignNet: two images in, the rigid transform between them out (Gu et al. 2023, section 2.2).

The network, what its answers mean, and views aligned by it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import keras
import numpy as np
from keras import ops

from segsrgan.config import check, setting
from segsrgan.errors import UserError
from supermask.geometry import THROUGH, canonical_direction, corners, isotropic_grid, voxels_of
from supermask.rigid import Rigid


@dataclass(frozen=True)
class AlignNetSpec:
    """What distinguishes one AlignNet from another.

    Attributes:
        size: edge of the cubic grid that it sees, voxels (128 in the paper's code).
        spacing: voxel size of that grid, mm (2 in the paper's code).
        kernels: channels of the convolutions, each followed by a pooling.
        hidden: units of the dense layer.
        largest_angle: bound of each angle, radians.
        largest_shift: bound of each shift, as a fraction of half the grid's edge.
        antisymmetric: whether the answer is the difference of both orders of the images. Two
            equal images then give the identity whatever the weights are, and exchanged images
            the inverse motion, see `motion_matrices`. Not in the paper, whose network moves an
            image aligned with itself.
        through: how slices are brought onto that grid: the "nearest" one's value, as in the paper,
            or "linear" between them.

    Raises:
        UserError: if a value is out of range.
    """

    size: int = setting(int, 128, low=1)
    spacing: float = setting(float, 2.0, low=0, above=True)
    kernels: tuple[int, ...] = setting(int, (16, 32, 64), low=1, many=True)
    hidden: int = setting(int, 32, low=1)
    # Beyond pi / 2 angles are ambiguous.
    largest_angle: float = setting(float, math.pi / 4, low=0, above=True, high=math.pi / 2)
    largest_shift: float = setting(float, 0.5, low=0, above=True)
    antisymmetric: bool = setting(bool, True)
    through: str = setting(str, "nearest", choices=THROUGH)

    def __post_init__(self):
        check(self)
        if self._left < 1:
            raise UserError(
                f"size must leave a voxel after {len(self.kernels)} convolutions of 5^3, received "
                f"{self.size}; take a larger one, or fewer kernels"
            )

    @property
    def _left(self):
        """The edge in voxels after all convolutions."""
        left = self.size // 2
        for _ in self.kernels:
            left = (left - 4) // 2
        return left

    @property
    def largest_shapes(self):
        """The shapes of all kernels but those of the small heads, by name."""
        pairs = enumerate(pairwise((2, *self.kernels)), start=1)
        shapes = {f"conv_{number}/kernel": (5, 5, 5, *pair) for number, pair in pairs}
        return shapes | {"hidden/kernel": (self._left**3 * self.kernels[-1], self.hidden)}


def build_alignnet(spec=None):
    """Builds the AlignNet of a spec.

    Args:
        spec: an `AlignNetSpec`; the paper's code's, made antisymmetric, by default.

    Returns:
        A `keras.Model` with the attribute `spec`: `[moving, fixed]`, each (b, n, n, n, 1) in
        [0, 1], to (b, 6) float32: angles about x, y, z in radians, shifts along x, y, z in mm.
        `motion_matrices` says what they mean. A new network gives 0, the identity.

    Example:
        >>> build_alignnet(AlignNetSpec(size=32, kernels=(2, 2))).output_shape
        (None, 6)
    """
    spec = spec or AlignNetSpec()
    shape = (spec.size,) * 3 + (1,)
    moving, fixed = keras.Input(shape, name="moving"), keras.Input(shape, name="fixed")
    join = keras.layers.Concatenate(name="pair")
    layers = [keras.layers.AveragePooling3D(2, name="pool_0")]
    for index, filters in enumerate(spec.kernels, start=1):
        layers.append(keras.layers.Conv3D(filters, 5, name=f"conv_{index}"))
        layers.append(keras.layers.AveragePooling3D(2, name=f"pool_{index}"))
        layers.append(keras.layers.ReLU(name=f"conv_{index}_relu"))
    layers.append(keras.layers.Flatten(name="flat"))
    # In full precision, as the difference: it is small where the images are nearly aligned.
    layers.append(
        keras.layers.Dense(spec.hidden, activation="relu", dtype="float32", name="hidden")
    )

    def features(first, second):
        x = join([first, second])
        for layer in layers:
            x = layer(x)
        return x

    x = features(moving, fixed)
    if spec.antisymmetric:
        x = keras.layers.Subtract(dtype="float32", name="difference")([x, features(fixed, moving)])
    model = keras.Model([moving, fixed], _heads(x, spec), name="alignnet")
    model.spec = spec
    return model


def _heads(x, spec):
    """Two dense heads that start at 0; without a bias where equal images must give 0."""
    half = spec.size * spec.spacing / 2
    bounds = {"angles": spec.largest_angle, "shifts": spec.largest_shift * half}
    outputs = []
    for name, bound in bounds.items():
        y = keras.layers.Dense(
            3,
            activation="tanh",
            use_bias=not spec.antisymmetric,
            kernel_initializer="zeros",
            dtype="float32",
            name=name,
        )(x)
        outputs.append(keras.layers.Rescaling(bound, dtype="float32", name=f"bounded_{name}")(y))
    return keras.layers.Concatenate(dtype="float32", name="parameters")(outputs)


def motion_matrices(parameters, spec):
    """The matrices for `SpatialTransformer3D` of AlignNet's answers.

    The paper's network means the rigid transform H of its parameters p. The negative parameters
    of an antisymmetric one must mean the inverse, which H(-p) is not: for random motions of up to
    45 degrees about each axis and 30 mm along it, it misses by 16 degrees and 16 mm in the mean.
    Each image therefore goes half of the way::

        N(p) = H(p / 2) H(-p / 2)^-1        N(-p) = N(p)^-1

    Args:
        parameters: (b, 6) radians and mm along the axes of the grid.
        spec: the network's `AlignNetSpec`.

    Returns:
        (b, 3, 4), voxels.
    """
    if not spec.antisymmetric:
        return rigid_matrices(parameters, spec.spacing)
    forth = rigid_matrices(parameters / 2, spec.spacing)
    back = rigid_matrices(-parameters / 2, spec.spacing)
    turn = ops.matmul(forth[:, :, :3], ops.transpose(back[:, :, :3], (0, 2, 1)))
    shift = forth[:, :, 3:] - ops.matmul(turn, back[:, :, 3:])
    return ops.concatenate([turn, shift], axis=2)


def rigid_matrices(parameters, spacing):
    """`Rz Rx Ry` and the shift in voxels, about the middle of an isotropic grid: (b, 3, 4).

    The parameters are (b, 6), radians and mm along its axes; its spacing is in mm.
    """
    cosines, sines = ops.cos(parameters[:, :3]), ops.sin(parameters[:, :3])
    (cx, cy, cz), (sx, sy, sz) = ops.unstack(cosines, axis=1), ops.unstack(sines, axis=1)
    shift = ops.unstack(parameters[:, 3:] / spacing, axis=1)
    rows = [
        [cz * cy - sz * sx * sy, -sz * cx, cz * sy + sz * sx * cy, shift[0]],
        [sz * cy + cz * sx * sy, cz * cx, sz * sy - cz * sx * cy, shift[1]],
        [-cx * sy, sx, cx * cy, shift[2]],
    ]
    return ops.stack([ops.stack(row, axis=-1) for row in rows], axis=1)


def motion_of(parameters, grid, spec):
    """The motion of points of an isotropic grid that AlignNet's answer means, a `Rigid`.

    The answer is (6,), radians and mm along the axes of the grid; see `motion_matrices`.
    """
    if not spec.antisymmetric:
        return Rigid.in_grid(parameters, grid)
    half = np.asarray(parameters, np.float64) / 2
    return Rigid.in_grid(half, grid) @ Rigid.in_grid(-half, grid).inverse()


def align_by_network(alignnet, reference, view, passes=1):
    """The `Rigid` from the reference to a view that AlignNet, a model, finds in some passes.

    Where both have masks, their middles are put on each other first. Every pass looks at the
    view's own voxels at the transform so far, so that nothing is interpolated twice.
    """
    spec = alignnet.spec
    points = voxels_of(reference.mask) if reference.has_object else corners(reference.grid)
    direction = canonical_direction(reference.grid.direction)
    grid = isotropic_grid(points, direction, spec.spacing, spec.size)
    fixed = _batch(reference.image_on(grid, through=spec.through))
    transform = Rigid()
    if reference.has_object and view.has_object:
        transform = Rigid(translation=voxels_of(view.mask).mean(axis=0) - points.mean(axis=0))
    for _ in range(passes):
        moving = _batch(view.image_on(grid, transform, spec.through))
        parameters = np.asarray(alignnet.predict_on_batch([moving, fixed]))[0]
        # The network's motion comes first: it is one of points of the grid.
        transform = transform @ motion_of(parameters, grid, spec)
    return transform


def _batch(array):
    return array[np.newaxis, ..., np.newaxis]
