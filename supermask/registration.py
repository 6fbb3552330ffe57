# SPDX-License-Identifier: MIT
"""The classical alignment: SimpleITK's rigid registration, coarse to fine, from many starts.

Two kinds of pictures are registered: the images near the object, and the masks as distances to
their surface. Whatever an optimiser returns is judged by one number, the cross-correlation of the
images plus the Dice of the masks, and is kept only if that grows. Nothing depends on chance and
one thread computes each candidate, so that the same input gives the same transform.
"""

import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from segsrgan.errors import UserError
from segsrgan.volumes.itk import quiet, to_itk
from supermask.pyramid import Pyramid
from supermask.rigid import Rigid
from supermask.settings import ON

logger = logging.getLogger(__name__)

_STEPS = (-2, -1, 0, 1, 2)  # starts along each angle
_NEAR = (-1, 0, 1)  # those around a transform to be refined
_KEPT = (6, 3, 2)  # candidates that leave the starts, the first level, the second ...
_APART = 10.0  # degrees, between candidates that leave the starts
_THREADS = 8
_GAIN = 1e-5  # of the judgement, below which a transform is not worth a change


@dataclass(frozen=True)
class Classical:
    """Settings of the classical alignment.

    Attributes:
        on: what is registered: "image", "mask", or "auto", both where both views have masks.
        angle: between the starts about each axis, degrees; five of them about each. 0: one start.
        iterations: of the optimiser, at each level.
        samples: voxels that the optimiser compares at a level, at most; the judgement ten times as
            many.

    Raises:
        UserError: if a value is out of range.
    """

    on: str = "auto"
    angle: float = 22.5
    iterations: int = 10
    samples: int = 100_000

    def __post_init__(self):
        if self.on not in ON:
            raise UserError(f"on must be one of {', '.join(ON)}, received {self.on!r}")
        if not 0 <= self.angle <= 45:
            raise UserError(
                f"angle must be between 0 and 45 degrees, received {self.angle:g}; try 22.5"
            )
        if self.iterations < 1 or self.samples < 1000:
            raise UserError(
                "iterations must be at least 1 and samples at least 1000, received "
                f"{self.iterations} and {self.samples}"
            )


class Registered(NamedTuple):
    """What a registration found.

    Attributes:
        transform: a `Rigid` from the fixed view to the moving one.
        score: its judgement at the finest level: cross-correlation of the images (0 to 1) plus
            Dice of the masks (0 to 1), as far as these were registered.
        before: the judgement of no motion, likewise.
    """

    transform: Rigid
    score: float
    before: float


def register(fixed, moving, settings=None):
    """Finds the rigid transform from one view to another.

    Args:
        fixed: a `View`, the reference.
        moving: a `View`.
        settings: a `Classical`.

    Returns:
        `Registered`.

    Raises:
        UserError: if there is nothing to register.

    Example:
        >>> found = register(axial, sagittal)
        >>> moved = sagittal.image_on(axial.grid, found.transform)
    """
    settings = settings or Classical()
    pyramid = Pyramid(fixed, moving, settings.on, settings.samples)
    found = _search(pyramid, _starts(pyramid, settings.angle), pyramid.spacings, settings)
    _warn(found, fixed, moving)
    return found


def refine(fixed, moving, transform, settings=None):
    """A few steps of the optimiser from a transform and the turns around it, coarse to fine.

    The transform is kept where nothing better is found.

    Args:
        fixed: a `View`, the reference.
        moving: a `View`.
        transform: a `Rigid` from the fixed view to the moving one.
        settings: a `Classical`.

    Returns:
        `Registered`; `before` is the judgement of `transform`.

    Raises:
        UserError: if there is nothing to register.
    """
    settings = settings or Classical()
    pyramid = Pyramid(fixed, moving, settings.on, settings.samples)
    start = transform.about(pyramid.centre)
    near = [start @ Rigid(turn, centre=pyramid.centre) for turn in _turns(settings.angle, _NEAR)]
    found = _search(pyramid, [start, *near], pyramid.spacings, settings, start)
    _warn(found, fixed, moving)
    return found


def _warn(found, fixed, moving):
    if found.score < 0:
        logger.warning(
            "%s and %s: too little of one lies in the field of view of the other to be compared; "
            "they stay as they were",
            fixed.path,
            moving.path,
        )


def _search(pyramid, candidates, spacings, settings, before=None):
    """The best of candidates after the optimiser has gone from each through the levels."""
    before = before or Rigid(centre=pyramid.centre)
    for number, spacing in enumerate(spacings):
        level = pyramid.level(spacing, candidates[0] if number else before)
        if number == 0:
            candidates = _best(level, candidates, _KEPT[0], _APART)
        tasks = [
            (level, picture, start, settings)
            for rank, start in enumerate(candidates)
            # Beyond the first level masks only correct the best: they cost as much as images.
            for picture in (level.pictures if number == 0 or rank == 0 else level.leading)
        ]
        with quiet():
            found = _at_once(_optimise, tasks)
        count = _KEPT[min(number + 1, len(_KEPT) - 1)]
        candidates = _best(level, [*candidates, *filter(None, found)], count)
    scores = [level.judge(candidate) for candidate in candidates]
    start = level.judge(before)
    best = int(np.argmax(scores))
    logger.debug("registration: %.4f before, %.4f after", start, scores[best])
    if scores[best] <= start + _GAIN:
        return Registered(before, start, start)
    return Registered(candidates[best], scores[best], start)


def _starts(pyramid, angle):
    """No motion, and the likely shifts with turns about all axes."""
    centre, turns = pyramid.centre, _turns(angle, _STEPS)
    starts = [Rigid(turn, tuple(shift), centre) for shift in pyramid.shifts for turn in turns]
    return [Rigid(centre=centre), *starts]


def _turns(angle, steps):
    """Angles about x, y, z: all combinations of steps of an angle; none, if that is 0."""
    turns = itertools.product(steps if angle else (0,), repeat=3)
    return [tuple(np.deg2rad(angle) * np.array(turn)) for turn in turns]


def _best(level, candidates, count, apart=0.0):
    """The candidates judged best, best first; at least `apart` degrees between them."""
    scores = np.array(_at_once(level.judge, [(candidate,) for candidate in candidates]))
    chosen = []
    for index in np.argsort(-scores, kind="stable"):
        candidate = candidates[index]
        turns = [(candidate @ other.inverse()).angle() for other in chosen]
        if len(chosen) < count and all(turn >= apart for turn in turns):
            chosen.append(candidate)
    return chosen


def _at_once(function, tasks):
    """What a function returns for each tuple of arguments, several at a time."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda task: function(*task), tasks))


def _optimise(level, picture, start, settings):
    """Where ITK's optimiser leads from a start; None if it fails there."""
    fixed, moving = level.pictures[picture]
    transform = start.to_itk()
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsCorrelation()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(to_itk(level.region))
    share = settings.samples / max(1, np.count_nonzero(level.region.array))
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share, seed=1)
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
        found = Rigid.from_itk(transform)
    except (RuntimeError, ValueError) as error:
        logger.debug("registration failed from %s: %s", start, str(error).splitlines()[-1])
        return None
    return found
