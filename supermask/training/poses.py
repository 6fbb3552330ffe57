# SPDX-License-Identifier: MIT
"""Views on the cubic grid that the networks see, in random poses (Gu et al. 2023, section 2.2).

The grid lies around the object of a view j, as at inference. With its random pose Q and the motion
N that AlignNet is to find, both of points of the grid, the images are::

    fixed(p)  = view j at  Q p
    moving(p) = view i at  B Q N^-1 p       so that moving(N p) is the anatomy of fixed(p)

B leads from view j to view i: what is known of the patient's own motion, or else, as at inference,
the shift between the middles of the masks; N is then only near to what AlignNet is to find.
"""

from dataclasses import dataclass

import numpy as np

from segsrgan.volumes import Grid
from supermask.geometry import Rigid, isotropic_grid, voxels_of
from supermask.training.examinations import Examination
from supermask.views import View


@dataclass(frozen=True)
class Augmentation:
    """Bounds of what is drawn anew for every image and pair.

    Attributes:
        size: edge of the grid, voxels.
        spacing: of the grid, mm.
        through: how slices get onto it, see `supermask.geometry.sample`.
        rotation: largest angle about each axis of a motion, degrees.
        pose: that of the pose of both views of a pair, and of single views; None: `rotation`.
        shift: largest shift along each axis of either, voxels.
        contrast: intensities are raised to a power within 1 plus or minus this.
        noise: standard deviation of the noise, of the range of intensities.
    """

    size: int
    spacing: float
    through: str = "nearest"
    rotation: float = 45.0
    shift: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0
    pose: float | None = None

    def motion(self, grid, rng):
        """A random motion of points of a grid, a `Rigid`."""
        return self._drawn(self.rotation, grid, rng)

    def placement(self, grid, rng):
        """A random pose, likewise."""
        return self._drawn(self.rotation if self.pose is None else self.pose, grid, rng)

    def _drawn(self, angle, grid, rng):
        bounds = [np.deg2rad(angle)] * 3 + [self.shift * self.spacing] * 3
        return Rigid.in_grid(rng.uniform(-1, 1, 6) * bounds, grid)

    def changed(self, image, rng):
        """An image (x, y, z) in [0, 1] with another contrast and noise."""
        if self.contrast:
            image = image ** np.float32(1 + self.contrast * rng.uniform(-1, 1))
        if self.noise:
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            image = np.clip(image + np.float32(self.noise) * noise, 0, 1)
        return image


@dataclass(frozen=True, eq=False)
class Placed:
    """A view and the grid around its object.

    Attributes:
        view: a `View` with a mask.
        grid: isotropic, the object in its middle.
        centroid: (3,) of the mask, mm.
    """

    view: View
    grid: Grid
    centroid: np.ndarray

    @classmethod
    def of(cls, view, augmentation):
        """Finds the object of a view."""
        points = voxels_of(view.mask)
        direction = view.grid.direction
        grid = isotropic_grid(points, direction, augmentation.spacing, augmentation.size)
        return cls(view, grid, points.mean(axis=0))

    def sampled(self, grid, transform, augmentation, rng=None):
        """Image and mask (x, y, z), float32, on a grid; with `rng` the image is changed."""
        image = self.view.image_on(grid, transform, augmentation.through)
        mask = self.view.mask_on(grid, transform, augmentation.through)
        image = image if rng is None else augmentation.changed(image, rng)
        return image, (mask >= 0.5).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PlacedExamination:
    """An `Examination` whose objects have been found.

    Attributes:
        examination: as it was given.
        views: a `Placed` for each of its views.
    """

    examination: Examination
    views: tuple[Placed, ...]

    @classmethod
    def of(cls, examination, augmentation):
        """Finds the objects of an examination."""
        views = tuple(Placed.of(view, augmentation) for view in examination.views)
        return cls(examination, views)

    @property
    def known(self):
        """Whether the patient's own motion is known."""
        return self.examination.transforms is not None

    def between(self, fixed, moving):
        """B: the `Rigid` from view `fixed` to view `moving`, as far as it is known."""
        if self.known:
            to_fixed, to_moving = (self.examination.transforms[k] for k in (fixed, moving))
            return to_moving @ to_fixed.inverse()
        shift = self.views[moving].centroid - self.views[fixed].centroid
        return Rigid(translation=tuple(shift))

    def single(self, view, augmentation, rng, still=False):
        """A view in a random pose: image and mask (x, y, z).

        Args:
            view: its index.
            augmentation: an `Augmentation`.
            rng: a `numpy.random.Generator`.
            still: whether it stays as it is.
        """
        placed = self.views[view]
        if still:
            return placed.sampled(placed.grid, Rigid(), augmentation)
        pose = augmentation.placement(placed.grid, rng)
        return placed.sampled(placed.grid, pose, augmentation, rng)

    def pair(self, fixed, moving, augmentation, rng, still=False):
        """Two views, one of them moved at random.

        Args:
            fixed: index of a view.
            moving: index of another.
            augmentation: an `Augmentation`.
            rng: a `numpy.random.Generator`.
            still: whether the fixed view stays as it is, and neither is changed otherwise.

        Returns:
            moving, fixed, their masks, each (x, y, z), the true matrix (3, 4) of
            `SpatialTransformer3D`, and whether it is true, float32.
        """
        grid = self.views[fixed].grid
        motion = augmentation.motion(grid, rng)
        pose = Rigid() if still else augmentation.placement(grid, rng)
        there = self.between(fixed, moving) @ pose @ motion.inverse()
        change = None if still else rng
        image_i, mask_i = self.views[moving].sampled(grid, there, augmentation, change)
        image_j, mask_j = self.views[fixed].sampled(grid, pose, augmentation, change)
        return image_i, image_j, mask_i, mask_j, motion.voxel_matrix(grid), np.float32(self.known)


def oriented(row, orientation):
    """What a patient in another orientation would have given.

    Args:
        row: arrays that belong together: volumes (n, n, n), matrices (3, 4) of
            `SpatialTransformer3D` between them, scalars.
        orientation: one of `supermask.geometry.ORIENTATIONS`.

    Returns:
        A tuple of them.
    """
    order, signs = orientation
    turn = np.eye(3, dtype=np.float32)[list(order)] * np.float32(signs)[:, np.newaxis]
    steps = tuple(slice(None, None, sign) for sign in signs)
    result = []
    for item in row:
        if np.ndim(item) == 3:
            item = item.transpose(order)[steps]
        elif np.ndim(item) == 2:
            item = turn @ item @ _around(turn)
        result.append(item)
    return tuple(result)


def _around(turn):
    """(4, 4): a matrix (3, 4) before it gives its rotation in the old axes, its shift as it is."""
    result = np.eye(4, dtype=np.float32)
    result[:3, :3] = turn.T
    return result
