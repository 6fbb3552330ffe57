# SPDX-License-Identifier: MIT
"""The classical alignment: SimpleITK's rigid registration, coarse to fine, from many starts.

Two kinds of pictures are registered: the images near the object, and the masks as distances to
their surface. Whatever an optimiser returns is judged by one number, the cross-correlation of the
images plus the Dice of the masks, and is kept only if that grows. Nothing depends on chance and
one thread computes each candidate, so that the same input gives the same transform.

The region compared is the object and its surroundings where the fixed view has a mask, else its
whole field of view. Thick slices blur each view along its own normal, so that even perfectly
aligned views differ, and least where one of them is turned a little. Each is therefore blurred
along the normal of the other, too: then both show the same.
"""

import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from segsrgan.config import check, setting
from segsrgan.errors import UserError
from segsrgan.volumes import Volume
from segsrgan.volumes.itk import quiet, to_itk
from supermask.geometry import (
    Rigid,
    corners,
    isotropic_grid,
    middle_of,
    sample,
    sampling,
    voxels_of,
)
from supermask.settings import ON
from supermask.views import in_plane

logger = logging.getLogger(__name__)

IMAGE, MASK = "image", "mask"
_COARSEST = 14  # voxels along the region at the first level
_MOST_LEVELS = 4
_SURROUNDINGS = 0.15  # of the object's size
_LEAST_OVERLAP = 0.4  # fraction of the region that must lie in the moving view
_PROFILE = 1 / np.sqrt(8 * np.log(2))  # sigma of a slice profile, of the slice distance
_REACH = 2.0  # sigmas
_ROUNDING = 1e-6  # of an array's size, below which its deviation is none
_JUDGED = 10  # times the voxels that an optimiser compares
_STEPS = (-2, -1, 0, 1, 2)  # starts along each angle
_NEAR = (-1, 0, 1)  # those around a transform to be refined
_KEPT = (6, 3, 2)  # candidates that leave the starts, the first level, the second ...
_APART = 10.0  # degrees, between candidates that leave the starts
_THREADS = 8
_GAIN = 1e-5  # of the judgement, below which a transform is not worth a change


@dataclass(frozen=True, kw_only=True)
class RegistrationSettings:
    """How the classical alignment searches; a value out of range raises `UserError`."""

    # "image", "mask", or "auto": both where both views have masks.
    on: str = setting("auto", choices=ON)
    # Between the starts about each axis, degrees; five of them about each. 0: one start.
    angle: float = setting(22.5, interval="[0, 45]")
    iterations: int = setting(10, interval=">= 1")  # of the optimiser, at each level
    # Voxels that the optimiser compares at a level, at most; the judgement ten times as many.
    samples: int = setting(100_000, interval=">= 1000")

    def __post_init__(self):
        check(self)


class Registered(NamedTuple):
    """What a registration found.

    The scores are the images' cross-correlation (0 to 1) plus the masks' Dice (0 to 1) at the
    finest level, as far as these were registered.
    """

    transform: Rigid  # from the fixed view to the moving one
    score: float
    before: float  # of no motion, or of the transform to be refined


def register(fixed, moving, settings=None, start=None):
    """Finds the rigid transform from one view to another.

    Args:
        fixed: a `View`, the reference.
        moving: a `View`.
        settings: a `RegistrationSettings`.
        start: a `Rigid` to be refined: the search begins there and at the turns around it; None:
            at turns of all sizes.

    Returns:
        `Registered`, with the start, or no motion, where nothing better is found.

    Raises:
        UserError: if there is nothing to register.

    Examples:
        >>> found = register(axial, sagittal)
        >>> moved = sagittal.image_on(axial.grid, found.transform)
    """
    settings = settings or RegistrationSettings()
    pyramid = Pyramid(fixed, moving, settings.on, settings.samples)
    centre = pyramid.centre
    if start is None:
        turns, first = _turns(settings.angle, _STEPS), Rigid(centre=centre)
        starts = [Rigid(turn, tuple(shift), centre) for shift in pyramid.shifts for turn in turns]
    else:
        turns, first = _turns(settings.angle, _NEAR), Rigid.from_matrix(start.matrix, centre)
        starts = [first @ Rigid(turn, centre=centre) for turn in turns]
    return _search(pyramid, [first, *starts], settings)


def _search(pyramid, candidates, settings):
    """The best of candidates after the optimiser has gone from each through the levels.

    The first candidate is kept where nothing better is found.
    """
    before = candidates[0]
    for number, spacing in enumerate(pyramid.spacings):
        level = pyramid.level(spacing, candidates[0])
        if number == 0:
            candidates = _best(level, candidates, _KEPT[0], _APART)
        kinds = list(level.pictures)
        tasks = [
            (level, kind, start, settings)
            for rank, start in enumerate(candidates)
            # Beyond the first level masks only correct the best: they cost as much as images.
            for kind in (kinds if number == 0 or rank == 0 else kinds[:1])
        ]
        with quiet():
            found = _concurrently(_optimise, tasks)
        count = _KEPT[min(number + 1, len(_KEPT) - 1)]
        candidates = _best(level, [*candidates, *filter(None, found)], count)
    scores = [level.judge(candidate) for candidate in candidates]
    start = level.judge(before)
    best = int(np.argmax(scores))
    if scores[best] > start + _GAIN:
        return Registered(candidates[best], scores[best], start)
    if start < 0:
        text = "%s: too little of one lies in the field of view of the other to be compared; %s"
        logger.warning(text, pyramid.names, "they stay as they were")
    return Registered(before, start, start)


def _turns(angle, steps):
    """Angles about x, y, z: all combinations of steps of an angle; no turn where that is 0."""
    turns = itertools.product(steps if angle else (0,), repeat=3)
    return [tuple(np.deg2rad(angle) * np.array(turn)) for turn in turns]


def _best(level, candidates, count, apart=0.0):
    """The candidates judged best, best first; at least `apart` degrees between them."""
    scores = np.array(_concurrently(level.judge, [(candidate,) for candidate in candidates]))
    chosen = []
    for index in np.argsort(-scores, kind="stable"):
        candidate = candidates[index]
        turns = [(candidate @ other.inverse()).angle() for other in chosen]
        if len(chosen) < count and all(turn >= apart for turn in turns):
            chosen.append(candidate)
    return chosen


def _concurrently(function, tasks):
    """What a function returns for each tuple of arguments, several at a time."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda task: function(*task), tasks))


def _optimise(level, kind, start, settings):
    """Where ITK's optimiser leads from a start; None if it fails there."""
    fixed, moving = level.pictures[kind]
    transform = start.to_itk()
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(to_itk(level.region))
    fraction = settings.samples / max(1, np.count_nonzero(level.region.array))
    if fraction < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(fraction, seed=1)
    # Along the axes an angle times the object's radius counts like a shift: both are mm.
    method.SetOptimizerScales([level.radius] * 3 + [1.0] * 3)
    method.SetOptimizerAsPowell(
        numberOfIterations=settings.iterations,
        maximumLineIterations=30,
        stepLength=level.spacing / 2,
        stepTolerance=level.spacing / 100,
        valueTolerance=1e-4,
    )
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(fixed), to_itk(moving))
        return Rigid.from_itk(transform)
    except (RuntimeError, ValueError) as error:
        logger.debug("registration failed from %s: %s", start, str(error).splitlines()[-1])
        return None


class Pyramid:
    """What two `View`s show at several resolutions, whose `spacings` (mm) go from coarse to fine.

    It is turned about `centre`, the middle of the fixed view's object or field of view (mm).
    `shifts` are likely ones (mm): between the middles of the objects; without masks none, and
    between the centres of mass of the images.
    """

    def __init__(self, fixed, moving, on="auto", samples=100_000):
        self._fixed, self._moving, self._samples = fixed, moving, samples
        self._depth = cache(Depth)  # the same at every level, and slow
        self.names = f"{fixed.path} and {moving.path}"
        masks = fixed.has_object and moving.has_object
        if on == MASK and not masks:
            raise UserError(
                f"{self.names}: expected masks of both to register them; take the images instead"
            )
        self._kinds = [IMAGE] + [MASK] * masks if on == "auto" else [on]
        self._points = voxels_of(fixed.mask) if fixed.has_object else corners(fixed.grid)
        extent = np.ptp(self._points @ fixed.grid.direction, axis=0)
        self._margin, self.centre = 0.0, middle_of(fixed.grid)
        if fixed.has_object:
            self._margin = max(_SURROUNDINGS * extent.max(), fixed.thickness, moving.thickness)
            self.centre = self._points.mean(axis=0)
        if masks:
            self.shifts = [voxels_of(moving.mask).mean(axis=0) - self.centre]
        else:
            balance, other = (
                view.volume.grid.index_to_physical(ndimage.center_of_mass(view.scaled.array))
                for view in (fixed, moving)
            )
            self.shifts = [np.zeros(3), other - balance]
        # Halved from level to level, until finer ones would show nothing more.
        finest = max(max(in_plane(v.grid), v.thickness / 4) for v in (fixed, moving))
        size = float(np.cbrt(np.prod(extent + 2 * self._margin)))
        self.spacings = [max(finest, size / _COARSEST)]
        while self.spacings[-1] > 1.2 * finest and len(self.spacings) < _MOST_LEVELS:
            self.spacings.append(max(finest, self.spacings[-1] / 2))

    def level(self, spacing, pose=None):
        """The `Level` of a spacing (mm); the pose known so far says how the slices lie."""
        pose = pose or Rigid()
        fixed = self._fixed.grid
        grid = isotropic_grid(self._points, fixed.direction, spacing, margin=self._margin)
        inside = sampling(fixed, grid).inside
        if self._fixed.has_object:
            inside &= self._depth(self._fixed).on(grid) > -self._margin
        # Each view, its grid, and the profile of the other's slices as a vector in its space, mm.
        sides = (
            (self._fixed, grid, pose.rotation.T @ _profile(self._moving)),
            (self._moving, self._moving_grid(spacing), pose.rotation @ _profile(self._fixed)),
        )
        pictures, masks = {}, None
        if IMAGE in self._kinds:
            pictures[IMAGE] = tuple(
                _blurred(_smoothed(view.scaled, spacing), place, profile, order=3)
                for view, place, profile in sides
            )
        if MASK in self._kinds:
            pictures[MASK] = tuple(
                Volume.from_grid(self._depth(view).on(place), place) for view, place, _ in sides
            )
            masks = tuple(_blurred(view.mask, place, profile) for view, place, profile in sides)
        region = Volume.from_grid(inside.astype(np.uint8), grid)
        return Level(spacing, region, pictures, masks, _JUDGED * self._samples)

    def _moving_grid(self, spacing):
        """An isotropic grid along the moving view's axes, as far as the region may come."""
        grid = self._moving.grid
        ends = corners(grid) @ grid.direction
        low, high = ends.min(axis=0), ends.max(axis=0)
        if self._moving.has_object:
            along = voxels_of(self._moving.mask) @ grid.direction
            room = self._margin + _radius(self._points)
            low = np.maximum(low, along.min(axis=0) - room)
            high = np.minimum(high, along.max(axis=0) + room)
        box = np.stack([low, high]) @ grid.direction.T
        return isotropic_grid(box, grid.direction, spacing)


class Level:
    """Two views at one resolution (spacing, mm), compared where the uint8 `Volume` region is 1.

    `pictures` are `IMAGE` and `MASK` -> (fixed, moving), `Volume`s on isotropic grids; the kind
    that decides comes first. Of more than `most` voxels only so many are judged.
    """

    def __init__(self, spacing, region, pictures, masks=None, most=10**6):
        self.spacing, self.region, self.pictures = spacing, region, pictures
        index, self._fraction = np.argwhere(region.array), 1.0
        if not len(index):
            raise UserError("the region to register is empty; check the masks and headers")
        if len(index) > most:  # anywhere among them, but always the same ones
            chosen = np.random.default_rng(0).choice(len(index), most, replace=False)
            self._fraction, index = most / len(index), index[np.sort(chosen)]
        self._points = region.grid.index_to_physical(index)
        self.radius = _radius(self._points)
        compared = {IMAGE: pictures.get(IMAGE), MASK: masks}.items()
        # The values of the fixed view in the region, and the whole of the moving one.
        self._compared = {
            kind: (pair[0].array[tuple(index.T)], pair[1]) for kind, pair in compared if pair
        }
        self._total = sum(float(np.sum(mask.array, dtype=np.float64)) for mask in masks or ())

    def judge(self, transform):
        """The images' correlation in the region without its sign, plus the masks' Dice.

        It is -1 if the region hardly lies in the moving view.
        """
        points, result = transform.apply(self._points), 0.0
        if IMAGE in self._compared:
            fixed, moving = self._compared[IMAGE]
            values, inside = _look_up(moving, points)
            if inside.mean() < _LEAST_OVERLAP:
                return -1.0
            result += abs(correlation(fixed[inside], values[inside]))
        if MASK in self._compared and self._total > 0:  # they may lie between the level's voxels
            fixed, moving = self._compared[MASK]
            values, _ = _look_up(moving, points)
            common = float(np.minimum(fixed, values).sum(dtype=np.float64)) / self._fraction
            result += 2 * common / self._total
        return result


def correlation(a, b):
    """Pearson's correlation of two arrays of one shape; 0 where one of them is constant."""
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if a.size < 2:
        return 0.0
    noise = [_ROUNDING * np.sqrt(values @ values) for values in (a, b)]
    a, b = a - a.mean(), b - b.mean()
    scales = [np.sqrt(values @ values) for values in (a, b)]
    if any(scale <= least for scale, least in zip(scales, noise, strict=True)):
        return 0.0
    return float(a @ b / (scales[0] * scales[1]))


def _look_up(volume, points):
    """Linearly interpolated values at physical points, and which of these lie inside."""
    index = volume.grid.physical_to_index(points).T
    last = np.array(volume.array.shape)[:, None] - 1
    inside = ((index >= -0.5) & (index <= last + 0.5)).all(axis=0)
    values = ndimage.map_coordinates(
        volume.array, np.clip(index, 0, last), np.float32, order=1, prefilter=False
    )
    return np.where(inside, values, 0), inside


def _smoothed(volume, spacing):
    """A volume blurred so that it may be sampled at a spacing (mm), as far as it is finer."""
    steps = np.array(volume.spacing)
    sigma = np.sqrt(np.maximum(0, spacing**2 - steps**2)) / 2 / steps
    return volume.with_array(ndimage.gaussian_filter(volume.array, sigma, mode="nearest"))


def _profile(view):
    """The slice normal times the sigma of the slice profile, (3,) mm; 0 if isotropic."""
    return np.zeros(3) if view.normal is None else view.normal * view.thickness * _PROFILE


def _blurred(volume, grid, profile, order=1):
    """A volume on an isotropic grid, blurred along the line of a profile (3,), mm, of one sigma.

    The blur leaves out what lies beyond the field of view.
    """
    values = sample(volume, grid, order=order)
    inside = sampling(volume.grid, grid).inside.astype(np.float32)
    sigma, step = float(np.linalg.norm(profile)), grid.spacing[0]
    count = int(np.ceil(_REACH * sigma / step)) if sigma > step / 4 else 0
    if not count:
        return Volume.from_grid(values, grid)
    along = grid.direction.T @ profile / step  # voxels, of one sigma
    total, weights = np.zeros_like(values), np.zeros_like(values)
    for sigmas in np.linspace(-_REACH, _REACH, 2 * count + 1):
        weight = np.float32(np.exp(-0.5 * sigmas**2))
        for picture, result in ((values, total), (inside, weights)):
            result += weight * ndimage.shift(picture, sigmas * along, order=1, prefilter=False)
    mean = np.divide(total, weights, out=np.zeros_like(total), where=weights > 1e-3)
    return Volume.from_grid(np.where(inside > 0, mean, np.float32(0)), grid)


def _radius(points):
    return float(np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=-1))))


class Depth:
    """How deep in the object of a view a point lies, mm, negative outside; cut at its size.

    Unlike a mask it has a slope everywhere, which an optimiser can follow.
    """

    def __init__(self, view):
        mask, grid = view.mask.array >= 0.5, view.mask.grid
        near = _around(mask, (1, 1, 1))
        if mask[near].all():
            inside = np.full(mask[near].shape, max(grid.spacing))
        else:
            inside = ndimage.distance_transform_edt(mask[near], sampling=grid.spacing)
        self._lowest = -2 * inside.max()
        # Farther away it has its lowest value.
        near = _around(mask, np.ceil(-self._lowest / np.array(grid.spacing)).astype(int) + 1)
        mask = mask[near]
        depth = -ndimage.distance_transform_edt(~mask, sampling=grid.spacing)
        np.maximum(depth, self._lowest, out=depth)
        depth[mask] = inside[inside > 0]
        origin = grid.index_to_physical([part.start for part in near])
        height = (depth - self._lowest).astype(np.float32)  # volumes are 0 outside
        self._height = Volume(height, grid.spacing, origin, grid.direction)

    def on(self, grid):
        """Its values (x, y, z) on a grid, float32."""
        return sample(self._height, grid) + np.float32(self._lowest)


def _around(mask, margin):
    """Slices of the box around what is True, and of a margin in voxels as far as there are any."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(
        slice(max(0, part.start - room), min(size, part.stop + room))
        for part, room, size in zip(box, margin, mask.shape, strict=True)
    )
