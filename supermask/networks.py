# SPDX-License-Identifier: MIT
"""The segmentor and AlignNet: specs, models, what they make of views, the file that holds them.

The segmentor is a 3-D U-Net (Çiçek et al. 2016); AlignNet finds the rigid transform between two
images (both: Gu et al. 2023, section 2.2).

File (HDF5): root attributes `format` ("supermask"), `format_version`, `metadata` (JSON); the groups
`segmentor` and `alignnet`, either or both, as `segsrgan.networks.weights` writes networks.
"""

import math
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from segsrgan.config import check, setting
from segsrgan.errors import UserError, WeightsError
from segsrgan.networks import resolve
from segsrgan.networks.hdf5 import declared_shapes, opened, read_arrays, read_json, subgroups
from segsrgan.networks.models import assign_weights, named_weights, read_weights
from segsrgan.networks.weights import write_networks
from segsrgan.volumes import Accumulator, Volume, islands, plan
from supermask.geometry import THROUGH, Rigid, corners, isotropic_grid, sample, sampling, voxels_of
from supermask.settings import PATCH

FORMAT, FORMAT_VERSION = "supermask", 1
_ISLAND = 0.1  # of the largest part's volume, below which a part says nothing about the place


@dataclass(frozen=True)
class SegmentorSpec:
    """What distinguishes one segmentor from another.

    Attributes:
        kernel: channels of the first convolution; each level has it doubled and doubled again,
            32-64, 64-128, 128-256 in the paper.
        levels: resolutions.
        spacing: voxel size of the grid that it is trained on, mm.
        through: how slices are brought onto that grid: the "nearest" one's value, as in the paper,
            or "linear" between them.

    Raises:
        UserError: if a value is out of range.
    """

    kernel: int = setting(32, interval="[1, 512]")
    levels: int = setting(3, interval="[1, 8]")
    spacing: float = setting(1.0, interval="> 0")
    through: str = setting("nearest", choices=THROUGH)

    def __post_init__(self):
        check(self)

    @property
    def multiple(self):
        """What sizes must be divisible by."""
        return 2 ** (self.levels - 1)

    @property
    def largest_shapes(self):
        """The shape of the largest array by its name; all others follow from it."""
        wide = self.kernel * self.multiple
        return {f"down_{self.levels - 1}_b/kernel": (3, 3, 3, wide, 2 * wide)}


def build_segmentor(spec=None):
    """Builds the segmentor of a spec.

    Args:
        spec: a `SegmentorSpec`; the paper's by default.

    Returns:
        A `keras.Model` with the attribute `spec`: images `(b, x, y, z, 1)` in [0, 1], of sizes
        divisible by `spec.multiple`, to probabilities of the same shape, float32.

    Examples:
        >>> build_segmentor(SegmentorSpec(kernel=2)).output_shape
        (None, None, None, None, 1)
    """

    def block(x, filters, name):
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
        x = layers.Conv3D(filters, 3, name=name, **options)(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    spec = spec or SegmentorSpec()
    image = x = keras.Input((None, None, None, 1), name="image")
    skips = []
    for level in range(spec.levels):
        wide = spec.kernel * 2**level
        if level:
            x = layers.MaxPooling3D(2, name=f"pool_{level}")(x)
        x = block(x, wide, f"down_{level}_a")
        x = block(x, 2 * wide, f"down_{level}_b")
        skips.append(x)
    for level in reversed(range(spec.levels - 1)):
        wide = 2 * spec.kernel * 2**level
        x = layers.Conv3DTranspose(2 * wide, 2, strides=2, name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"join_{level}")([skips[level], x])
        x = block(x, wide, f"up_{level}_a")
        x = block(x, wide, f"up_{level}_b")
    # Not in the compute dtype of a mixed-precision policy: probabilities are compared.
    x = layers.Conv3D(1, 1, activation="sigmoid", dtype="float32", name="head")(x)
    model = keras.Model(image, x, name="segmentor")
    model.spec = spec
    return model


def segment(segmentor, view, grid, transform=None, patch=PATCH):
    """The object's probability that the segmentor sees in a view, float32 (x, y, z) in [0, 1].

    The grid is isotropic; the segmentor works at its own spacing over the same field, and sees
    `patch` voxels of an edge at once. `transform` leads from the reference to the view.
    """
    spec = segmentor.spec
    work = grid if grid.spacing[0] == spec.spacing else grid.corner_aligned(spec.spacing)
    image = view.image_on(work, transform, spec.through)
    inside = sampling(view.grid, work, transform).inside
    probability = np.where(inside, _in_patches(segmentor, image, patch), np.float32(0))
    return probability if work is grid else sample(Volume.from_grid(probability, work), grid)


def _in_patches(segmentor, image, patch):
    multiple = segmentor.spec.multiple
    edge = max(multiple, patch - patch % multiple)
    sizes = [min(edge, n + -n % multiple) for n in image.shape]
    tiling = plan(image.shape, sizes, [max(1, 3 * n // 4) for n in sizes], multiple=multiple)
    padded, result = tiling.pad(image), Accumulator(tiling, 1, blend="gaussian")
    for start in tiling.starts:
        batch = _batch(padded[tiling.region(start)])
        result.add(np.asarray(segmentor.predict_on_batch(batch))[0], start)
    return np.clip(result.result()[..., 0], 0, 1)


def with_mask(view, segmentor, patch=PATCH):
    """The view, which has as its mask the segmentor's probability over all of it if it had none."""
    if view.mask is not None:
        return view
    grid = isotropic_grid(corners(view.grid), view.grid.direction, segmentor.spec.spacing)
    return _masked(view, Volume.from_grid(segment(segmentor, view, grid, None, patch), grid))


def without_islands(view):
    """The view without parts of its mask below a tenth of the largest one's volume.

    A segmentor sees a few voxels of the object in other places, too. They would move its middle,
    to which AlignNet looks, and enlarge the grid around it.
    """
    array = view.mask.array
    small, _ = islands(array >= 0.5, _ISLAND)
    kept = np.where(small, np.float32(0), array)
    return _masked(view, view.mask.with_array(kept))


def _masked(view, mask):
    """The view with a computed mask, which need not lie on the stack's voxels as a drawn one."""
    result = copy(view)
    object.__setattr__(result, "mask", mask)
    return result


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

    size: int = setting(128, interval=">= 1")
    spacing: float = setting(2.0, interval="> 0")
    kernels: tuple[int, ...] = setting((16, 32, 64), interval=">= 1")
    hidden: int = setting(32, interval=">= 1")
    # Beyond pi / 2 angles are ambiguous.
    largest_angle: float = setting(math.pi / 4, interval=f"(0, {math.pi / 2}]")
    largest_shift: float = setting(0.5, interval="> 0")
    antisymmetric: bool = setting(True)
    through: str = setting("nearest", choices=THROUGH)

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

    Examples:
        >>> build_alignnet(AlignNetSpec(size=32, kernels=(2, 2))).output_shape
        (None, 6)
    """
    spec = spec or AlignNetSpec()
    shape = (spec.size,) * 3 + (1,)
    moving, fixed = keras.Input(shape, name="moving"), keras.Input(shape, name="fixed")
    join = layers.Concatenate(name="pair")
    steps = [layers.AveragePooling3D(2, name="pool_0")]
    for index, filters in enumerate(spec.kernels, start=1):
        steps.append(layers.Conv3D(filters, 5, name=f"conv_{index}"))
        steps.append(layers.AveragePooling3D(2, name=f"pool_{index}"))
        steps.append(layers.ReLU(name=f"conv_{index}_relu"))
    steps.append(layers.Flatten(name="flat"))
    # In full precision, as the difference: it is small where the images are nearly aligned.
    steps.append(layers.Dense(spec.hidden, activation="relu", dtype="float32", name="hidden"))

    def features(first, second):
        x = join([first, second])
        for layer in steps:
            x = layer(x)
        return x

    x = features(moving, fixed)
    if spec.antisymmetric:
        x = layers.Subtract(dtype="float32", name="difference")([x, features(fixed, moving)])
    model = keras.Model([moving, fixed], _heads(x, spec), name="alignnet")
    model.spec = spec
    return model


def _heads(x, spec):
    """Two dense heads that start at 0; without a bias where equal images must give 0."""
    half = spec.size * spec.spacing / 2
    bounds = {"angles": spec.largest_angle, "shifts": spec.largest_shift * half}
    outputs = []
    for name, bound in bounds.items():
        options = {"kernel_initializer": "zeros", "use_bias": not spec.antisymmetric}
        y = layers.Dense(3, activation="tanh", dtype="float32", name=name, **options)(x)
        outputs.append(layers.Rescaling(bound, dtype="float32", name=f"bounded_{name}")(y))
    return layers.Concatenate(dtype="float32", name="parameters")(outputs)


def motion_matrices(parameters, spec):
    """The matrices (b, 3, 4) for `SpatialTransformer3D`, voxels, of AlignNet's answers (b, 6).

    The paper's network means the rigid transform H of its parameters p. The negative parameters
    of an antisymmetric one must mean the inverse, which H(-p) is not: for random motions of up to
    45 degrees about each axis and 30 mm along it, it misses by 16 degrees and 16 mm in the mean.
    Each image therefore goes half of the way::

        N(p) = H(p / 2) H(-p / 2)^-1        N(-p) = N(p)^-1
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
    """What `motion_matrices` gives in voxels, as a `Rigid` of points of the isotropic grid."""
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
    grid = isotropic_grid(points, reference.grid.direction, spec.spacing, spec.size)
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


class Networks(NamedTuple):
    """What a weights file holds."""

    segmentor: Any = None  # model of `build_segmentor`
    alignnet: Any = None  # model of `build_alignnet`
    metadata: dict = {}  # JSON values


_KINDS = {"segmentor": (SegmentorSpec, build_segmentor), "alignnet": (AlignNetSpec, build_alignnet)}


def save_networks(path, segmentor=None, alignnet=None, **metadata):
    """Writes either network or both, models of `build_...`, whole or not at all.

    Further keyword arguments are JSON values kept in the file, e.g. `training`, `license`. Raises
    `OSError` if it cannot be written.
    """
    models = {"segmentor": segmentor, "alignnet": alignnet}
    networks = {name: (m.spec, read_weights(m)) for name, m in models.items() if m}
    write_networks(path, FORMAT, FORMAT_VERSION, networks, metadata)


def load_networks(name_or_path):
    """Builds the networks of a weights file.

    Args:
        name_or_path: a file, or a name of the registry.

    Returns:
        `Networks`.

    Raises:
        WeightsError: if the file is missing, is no weights file of SuperMask, or does not fit
            its spec.
    """
    path = resolve(name_or_path)
    expected = "weights of SuperMask, a file of save_networks or supermask-train"
    with opened(path, expected, WeightsError) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"its format is {file.attrs.get('format')!r}")
        version = int(file.attrs["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(f"it has version {version}, this package reads up to {FORMAT_VERSION}")
        groups = subgroups(file)
        models = {name: _read_model(name, groups[name]) for name in _KINDS if name in groups}
        return Networks(**models, metadata=read_json(file, "metadata"))


def _read_model(name, group):
    make_spec, build = _KINDS[name]
    spec, shapes = make_spec(**read_json(group, "spec")), declared_shapes(group)
    for key, shape in spec.largest_shapes.items():  # before so large a network is built
        if shapes.get(key) != shape:
            raise ValueError(f"misshapen {key}: expected {shape}, received {shapes.get(key)}")
    model = build(spec)
    shapes = {key: tuple(variable.shape) for key, variable in named_weights(model).items()}
    return assign_weights(model, read_arrays(group, shapes))
