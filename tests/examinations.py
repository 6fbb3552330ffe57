# SPDX-License-Identifier: MIT
"""Small examinations of an object that is known exactly: an ellipsoid with spots in it."""

import numpy as np

from segsrgan.volumes import Grid, Volume
from supermask.geometry import Rigid
from supermask.views import View

RADII = np.array([22.0, 17.0, 13.0])  # mm
CENTRE = np.array([5.0, -3.0, 8.0])  # mm, anywhere
# Position (mm from the centre), width (mm) and height of spots that make every pose unique.
SPOTS = (
    ((9, 4, -3), 5, 1.0),
    ((-10, -5, 4), 4, -0.6),
    ((2, -8, 5), 4, 0.8),
    ((-4, 7, -5), 5, 0.5),
    ((14, -2, 2), 3, -0.8),
)
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


def inside(points):
    """Whether physical points (..., 3) lie in the ellipsoid."""
    return np.sum(((points - CENTRE) / RADII) ** 2, axis=-1) <= 1


def intensity(points):
    """The scan's value at physical points (..., 3)."""
    result = 1.0 + 0.004 * (points[..., 0] - CENTRE[0])
    for place, width, height in SPOTS:
        squares = np.sum((points - CENTRE - place) ** 2, axis=-1)
        result = result + height * np.exp(-0.5 * squares / width**2)
    edge = 1 / (1 + np.exp(np.sum(((points - CENTRE) / RADII) ** 2, axis=-1) * 4 - 4))
    return 100 * edge * result


def points_of(grid):
    """The physical points (x, y, z, 3) of a grid's voxels."""
    return grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))


def stack_grid(plane="axial", fine=2.0, thick=6.0, field=72.0, direction=None):
    """The grid of a stack around the object; columns of `direction` are its axes."""
    spacing = np.full(3, fine)
    spacing[AXES[plane]] = thick
    shape = np.round(field / spacing).astype(int)
    direction = np.eye(3) if direction is None else np.asarray(direction, float)
    origin = CENTRE + 0.7 - direction @ ((shape - 1) / 2 * spacing)
    return Grid(tuple(shape), tuple(spacing), tuple(origin), direction)


def acquire(grid, pose=None):
    """The view of a stack: means of five samples through each slice, of the patient moved.

    `pose` is the `Rigid` from the reference to this view.
    """
    back = (pose or Rigid()).inverse()
    axis = int(np.argmax(grid.spacing))
    image, fraction = np.zeros(grid.shape), np.zeros(grid.shape)
    for part in (-0.4, -0.2, 0, 0.2, 0.4):
        index = np.moveaxis(np.indices(grid.shape, float), 0, -1)
        index[..., axis] += part
        points = back.apply(grid.index_to_physical(index))
        image += intensity(points) / 5
        fraction += inside(points) / 5
    mask = Volume.from_grid((fraction >= 0.5).astype(np.float32), grid)
    return View(Volume.from_grid(image.astype(np.float32), grid), mask)


def examination(poses=None, planes=("axial", "coronal", "sagittal"), **options):
    """A view for each plane, each patient pose by plane."""
    return [acquire(stack_grid(plane, **options), (poses or {}).get(plane)) for plane in planes]


def truth_on(grid):
    """The object on a grid, bool."""
    return inside(points_of(grid))


def object_points():
    """Physical points (n, 3) in the object, to measure transforms by."""
    points = points_of(stack_grid(fine=6.0))
    return points[inside(points)]


def reordered(volume, order, flips):
    """The same volume, its voxels stored along other axes and, where `flips` says so, backwards."""
    first = np.where(flips, np.array(volume.array.shape) - 1, 0)
    array = np.flip(volume.array, np.flatnonzero(flips)).transpose(order)
    direction = (volume.direction * np.where(flips, -1, 1))[:, order]
    spacing = np.array(volume.spacing)[list(order)]
    return Volume(array, tuple(spacing), volume.grid.index_to_physical(first), direction)


def apart(first, second, points=None):
    """How far two transforms lead points (n, 3) apart, mm: the root of the mean square."""
    points = object_points() if points is None else points
    return np.sqrt(np.mean(np.sum((first.apply(points) - second.apply(points)) ** 2, axis=-1)))


def same(first, second, tolerance=1e-6):
    """Whether two transforms are one map, within a tolerance of the matrices' numbers."""
    return np.allclose(first.matrix, second.matrix, rtol=0, atol=tolerance)


def touch_files(folder, *names):
    """Makes empty files in a folder and its subfolders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


MOTION = Rigid(np.deg2rad((14, -18, 22)), (7.0, -5.0, 6.0), tuple(CENTRE))
