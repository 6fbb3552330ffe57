# SPDX-License-Identifier: MIT
"""Examinations with a known answer: thick, moved stacks of any volume (Gu et al. 2023, sec. 3.1).

The volume is centred on its object, brought to an isotropic cube, and seen in three planes. In
each but the reference's the patient has moved rigidly; each is acquired in thick slices and has
its own contrast.
"""

from dataclasses import dataclass

import numpy as np

from segsrgan.errors import UserError
from segsrgan.volumes import Volume, degrade
from supermask.geometry import canonical_direction, isotropic_grid, sample, voxels_of
from supermask.rigid import Rigid, middle_of
from supermask.views import PLANES, View

_MIN_SIZE = 16
_CUT = 2.0  # percent of the voxels, at most, that auto-contrast makes black or white


@dataclass(frozen=True)
class Simulation:
    """How examinations are made.

    Attributes:
        slices: distance of the slices, mm; one for all planes, or one each in the order of
            `planes`.
        planes: of the views; the first is the reference, whose pose is the truth's.
        spacing: of the truth, and of the views in plane, mm.
        size: edge of the cube, voxels (256 in the paper); None: half as large again as the
            object, and room for the shifts.
        angle: bound of the random angles about each axis, degrees.
        shift: bound of the random shifts along each axis, voxels.
        contrast: whether the extremes of each view's intensities are cut at random and it is
            scaled to [0, 1].
        noise: standard deviation of Gaussian noise, as a fraction of the view's range.

    Raises:
        UserError: if a value is out of range.
    """

    slices: tuple[float, ...] = (8.0,)
    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    spacing: float = 1.0
    size: int | None = None
    angle: float = 45.0
    shift: float = 30.0
    contrast: bool = True
    noise: float = 0.0

    def __post_init__(self):
        planes = tuple(self.planes)
        if not planes or len(set(planes)) < len(planes) or not set(planes) <= set(PLANES):
            raise UserError(
                f"planes must be one to three of {', '.join(PLANES)}, received {', '.join(planes)}"
            )
        slices = tuple(float(size) for size in self.slices)
        if len(slices) not in (1, len(planes)) or not min(slices) > self.spacing > 0:
            raise UserError(
                f"slices must be one distance or {len(planes)}, above the spacing of "
                f"{self.spacing:g} mm, received {slices}; try 8"
            )
        if not 0 <= self.angle <= 90 or self.shift < 0 or self.noise < 0:
            raise UserError(
                "angle must be 0 to 90 degrees, shift and noise 0 or more, received "
                f"{self.angle:g}, {self.shift:g} and {self.noise:g}"
            )
        if self.size is not None and self.size < _MIN_SIZE:
            raise UserError(f"size must be at least {_MIN_SIZE}, received {self.size}")
        object.__setattr__(self, "planes", planes)
        object.__setattr__(self, "slices", slices * (len(planes) // len(slices)))


@dataclass(frozen=True, eq=False)
class Case:
    """A simulated examination.

    Attributes:
        views: a `View` with its mask for each plane, the reference first.
        transforms: the true `Rigid` from the reference to each view.
        truth: uint8 `Volume`, the high-resolution mask in the pose of the reference.
        image: float32 `Volume`, the high-resolution image.
    """

    views: tuple[View, ...]
    transforms: tuple[Rigid, ...]
    truth: Volume
    image: Volume


def simulate(image, mask, rng, simulation=None):
    """Makes an examination of a volume.

    Args:
        image: a `Volume`; None: the mask is seen itself.
        mask: a `Volume`, every voxel other than 0 belongs to the object.
        rng: a `numpy.random.Generator`.
        simulation: a `Simulation`.

    Returns:
        A `Case`.

    Raises:
        UserError: if the mask is empty, or a view would see nothing of the object.
    """
    simulation = simulation or Simulation()
    mask = mask.with_array((mask.array != 0).astype(np.float32))
    if not mask.array.any():
        raise UserError("the mask is empty; there is no object to simulate views of")
    image = mask if image is None else image
    grid = _cube(mask, simulation)
    poses = [Rigid(centre=tuple(middle_of(grid)))]
    poses += [_pose(grid, simulation, rng) for _ in simulation.planes[1:]]
    views = [
        _view(image, mask, grid, pose, plane, distance, simulation, rng)
        for pose, plane, distance in zip(poses, simulation.planes, simulation.slices, strict=True)
    ]
    truth = (sample(mask, grid) >= 0.5).astype(np.uint8)
    high = _moved(image, grid)
    return Case(
        tuple(views),
        tuple(poses),
        Volume.from_grid(truth, grid),
        Volume.from_grid(high, grid),
    )


def _cube(mask, simulation):
    """The isotropic cube around the object."""
    points = voxels_of(mask)
    direction = canonical_direction(mask.direction)
    size = simulation.size
    if size is None:
        extent = float(np.ptp(points @ direction, axis=0).max())
        room = 1.5 * extent / simulation.spacing + 2 * simulation.shift
        size = max(_MIN_SIZE, 4 * round(room / 4))
    return isotropic_grid(points, direction, simulation.spacing, size)


def _pose(grid, simulation, rng):
    """A random motion: from points of the reference to the same anatomy in the view."""
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * simulation.angle)
    shift = rng.uniform(-1, 1, 3) * simulation.shift * simulation.spacing
    return Rigid(tuple(angles), tuple(shift), tuple(middle_of(grid)))


def _view(image, mask, grid, pose, plane, distance, simulation, rng):
    """A thick stack of the moved patient."""
    back = pose.inverse()
    spacing = np.full(3, simulation.spacing)
    spacing[PLANES.index(plane)] = distance  # the grid's axes are in the order of the patient's
    moved = degrade(Volume.from_grid(_moved(image, grid, back), grid), tuple(spacing))
    outline = degrade(Volume.from_grid(sample(mask, grid, back), grid), tuple(spacing))
    outline = outline.with_array((outline.array >= 0.5).astype(np.float32))
    if not outline.array.any():
        raise UserError(
            f"the {plane} view sees nothing of the object; take a larger size, or less motion"
        )
    array = moved.array
    if simulation.contrast:
        array = _auto_contrast(array, rng)
    if simulation.noise:
        noise = rng.standard_normal(array.shape, dtype=np.float32) * np.ptp(array)
        array = array + np.float32(simulation.noise) * noise
    return View(moved.with_array(array.astype(np.float32)), outline, plane)


def _moved(image, grid, transform=None):
    """An image's values on a grid; beyond its field of view its darkest, as air is in CT."""
    low = np.float32(image.array.min())
    return sample(image.with_array(image.array - low), grid, transform, order=3) + low


def _auto_contrast(array, rng):
    low, high = np.percentile(array, (rng.uniform(0, _CUT), 100 - rng.uniform(0, _CUT)))
    if high <= low:  # most of the volume is empty
        low, high = array.min(), array.max()
    return np.clip((array - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
