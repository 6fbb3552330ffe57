# SPDX-License-Identifier: MIT
"""The batches of a training: views on the cubic grid that the networks see, in random poses.

The grid lies around the object of a view j, as at inference. With its random pose Q and the motion
N that AlignNet is to find, both of points of the grid, the images are (Gu et al. 2023, section
2.2)::

    fixed(p)  = view j at  Q p
    moving(p) = view i at  B Q N^-1 p       so that moving(N p) is the anatomy of fixed(p)

B leads from view j to view i: what is known of the patient's own motion, or else, as at inference,
the shift between the middles of the masks; N is then only near to what AlignNet is to find. Every
draw follows from the seed, the epoch and the cycle.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from supermask.geometry import ORIENTATIONS, Rigid, isotropic_grid, voxels_of

# What random numbers are drawn for, each with a generator of its own.
_SINGLES, _PAIRS = range(2)
_TURN, _ROW, _ORIENTATION = range(3)


class Singles(NamedTuple):
    """Images (b, n, n, n, 1) float32 in [0, 1] and their masks, 0 or 1, of views alone."""

    image: np.ndarray
    mask: np.ndarray


class Pairs(NamedTuple):
    """Pairs of views of one patient each; images and masks as `Singles`.

    Attributes:
        matrix: (b, 3, 4) float32, the motion to be found, for `SpatialTransformer3D`.
        known: (b,) float32, 1 where that is the whole of it, 0 where the patient has moved in an
            unknown way besides.
    """

    moving: np.ndarray
    fixed: np.ndarray
    moving_mask: np.ndarray
    fixed_mask: np.ndarray
    matrix: np.ndarray
    known: np.ndarray


class PlacedExamination:
    """An `Examination` and the grids around its objects, in the poses that settings bound.

    Args:
        examination: an `Examination`; each view has a mask that is not empty.
        settings: a `TrainingSettings`.
    """

    def __init__(self, examination, settings):
        self._settings, self._transforms = settings, examination.transforms
        self.views, self.known = examination.views, examination.transforms is not None
        points = [voxels_of(view.mask) for view in self.views]
        self.grids = [
            isotropic_grid(p, view.grid.direction, settings.spacing, settings.grid_size)
            for p, view in zip(points, self.views, strict=True)
        ]
        self._centroids = [p.mean(axis=0) for p in points]

    def single(self, view, rng, still=False):
        """A view, by its index, in a random pose or `still`: image and mask (x, y, z)."""
        grid = self.grids[view]
        pose = Rigid() if still else self.pose(grid, rng)
        return self._sampled(view, grid, pose, None if still else rng)

    def pair(self, fixed, moving, rng, still=False):
        """Two views, by their indices, one of them moved at random.

        Returns moving, fixed, their masks, each (x, y, z), the true matrix (3, 4) of
        `SpatialTransformer3D`, and whether it is true, float32. Where `still` the fixed view stays
        as it is, and neither is changed otherwise.
        """
        grid = self.grids[fixed]
        motion = self.motion(grid, rng)
        pose = Rigid() if still else self.pose(grid, rng)
        place = self._between(fixed, moving) @ pose @ motion.inverse()
        change = None if still else rng
        image_i, mask_i = self._sampled(moving, grid, place, change)
        image_j, mask_j = self._sampled(fixed, grid, pose, change)
        return image_i, image_j, mask_i, mask_j, motion.voxel_matrix(grid), np.float32(self.known)

    def motion(self, grid, rng):
        """A random motion of points of a grid, a `Rigid`."""
        return self._drawn(self._settings.rotation, grid, rng)

    def pose(self, grid, rng):
        """A random pose of a single view, or of both views of a pair, a `Rigid`."""
        s = self._settings
        return self._drawn(s.rotation if s.pose is None else s.pose, grid, rng)

    def _drawn(self, angle, grid, rng):
        s = self._settings
        bounds = [np.deg2rad(angle)] * 3 + [s.largest_motion * s.spacing] * 3
        return Rigid.in_grid(rng.uniform(-1, 1, 6) * bounds, grid)

    def _between(self, fixed, moving):
        """B: the `Rigid` from view `fixed` to view `moving`, as far as it is known."""
        if self.known:
            return self._transforms[moving] @ self._transforms[fixed].inverse()
        return Rigid(translation=tuple(self._centroids[moving] - self._centroids[fixed]))

    def _sampled(self, view, grid, transform, rng=None):
        """Image and mask (x, y, z), float32; with `rng` of another contrast and noise."""
        s, view = self._settings, self.views[view]
        image = view.image_on(grid, transform, s.through)
        mask = view.mask_on(grid, transform, s.through)
        if rng is not None and s.contrast_max:
            image = image ** np.float32(1 + s.contrast_max * rng.uniform(-1, 1))
        if rng is not None and s.noise:
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            image = np.clip(image + np.float32(s.noise) * noise, 0, 1)
        return image, (mask >= 0.5).astype(np.float32)


class Dataset:
    """The views of examinations, in random poses.

    Args:
        examinations: sequence of `Examination`.
        settings: a `TrainingSettings`; its batches are those of all workers together.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch.

    Raises:
        UserError: if a view has no object; all of them are named.
    """

    def __init__(self, examinations, settings, shard=(0, 1)):
        _check(examinations)
        self._settings, (self._worker, self._workers) = settings, shard
        self._cases = [PlacedExamination(item, settings) for item in examinations]
        self.singles = [
            (c, v) for c, case in enumerate(self._cases) for v in range(len(case.views))
        ]
        self.pairs = [(c, v) for c, v in self.singles if len(self._cases[c].views) > 1]
        turns = -(-len(self.singles) // settings.batch_size)
        self._steps = settings.steps or turns * settings.orientations

    def cycles(self, epoch):
        """How many cycles an epoch has."""
        return self._steps

    def stream(self, epochs, kinds, first_cycle=0):
        """Yields this worker's part of the batches of a range of epochs, counted from 1.

        `kinds` is a function from an epoch to the classes of the batches of a cycle, `Singles` or
        `Pairs`, in their order; `first_cycle` cycles of the first epoch are left out.
        """
        orientations = self._settings.orientations
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for epoch in epochs:
                first = first_cycle if epoch == epochs[0] else 0
                drawn = {}
                for cycle in range(first, self._steps):
                    turn = cycle // orientations
                    for position, kind in enumerate(kinds(epoch)):
                        if position not in drawn or cycle % orientations == 0:
                            drawn[position] = self._rows(pool, kind, epoch, turn, position)
                        rows = drawn[position]
                        if orientations > 1:
                            rows = self._oriented(rows, epoch, cycle, position)
                        yield _stacked(kind, rows)

    def _rows(self, pool, kind, epoch, turn, position):
        """This worker's rows of a batch."""
        chosen = self._turn(kind, epoch, turn)
        # A generator of its own for each row, so that it matters not who makes it.
        key = _ROW, epoch, turn, position
        drawn = pool.map(
            lambda row: self._draw(kind, *chosen[row], self._rng(*key, row)), self._numbers()
        )
        return list(drawn)

    def _oriented(self, rows, epoch, cycle, position):
        """Rows, each in an orientation drawn for this cycle."""
        result = []
        for number, row in zip(self._numbers(), rows, strict=True):
            rng = self._rng(_ORIENTATION, epoch, cycle, position, number)
            result.append(oriented(row, ORIENTATIONS[rng.integers(len(ORIENTATIONS))]))
        return result

    def _numbers(self):
        """The numbers of this worker's rows within the batch."""
        rows = self._settings.batch_size // self._workers
        return range(self._worker * rows, (self._worker + 1) * rows)

    def _rng(self, *key):
        return np.random.default_rng([self._settings.seed, *key])

    def _turn(self, kind, epoch, turn):
        """The views whose turn it is: every one once before any is seen again."""
        views, label = (self.pairs, _PAIRS) if kind is Pairs else (self.singles, _SINGLES)
        size, result = self._settings.batch_size, []
        for number in range(turn * size, (turn + 1) * size):
            round_, place = divmod(number, len(views))
            rng = self._rng(_TURN, epoch, label, round_)
            result.append(views[rng.permutation(len(views))[place]])
        return result

    def _draw(self, kind, case, view, rng):
        placed = self._cases[case]
        if kind is Singles:
            return placed.single(view, rng)
        others = [index for index in range(len(placed.views)) if index != view]
        return placed.pair(view, others[rng.integers(len(others))], rng)

    def fixed(self, kind):
        """The batches of a validation, the same ones each time; the last one may be smaller.

        `Singles` of every view as it is, or `Pairs` of every view and the next one of its patient,
        moved.
        """
        places, size = self.pairs if kind is Pairs else self.singles, self._settings.batch_size
        for first in range(0, len(places), size):
            yield _stacked(kind, [self._still(kind, *p) for p in places[first : first + size]])

    def _still(self, kind, case, view):
        placed, rng = self._cases[case], np.random.default_rng([case, view])
        if kind is Singles:
            return placed.single(view, rng, still=True)
        return placed.pair(view, (view + 1) % len(placed.views), rng, still=True)


def oriented(row, orientation):
    """What a patient in another of `ORIENTATIONS` would have given, a list.

    `row` holds what belongs together: volumes (n, n, n), matrices (3, 4) of
    `SpatialTransformer3D` between them, scalars.
    """
    order, signs = orientation
    turn = np.eye(3, dtype=np.float32)[list(order)] * np.float32(signs)[:, np.newaxis]
    steps = tuple(slice(None, None, sign) for sign in signs)
    result = []
    for item in row:
        if np.ndim(item) == 3:
            item = item.transpose(order)[steps]
        elif np.ndim(item) == 2:
            item = turn @ np.column_stack([item[:, :3] @ turn.T, item[:, 3]])
        result.append(item)
    return result


def _stacked(kind, rows):
    """A batch of rows; volumes get their channel."""
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    return kind(*(c[..., np.newaxis] if c.ndim == 4 else c for c in columns))


def _check(examinations):
    if not examinations:
        raise UserError("a training needs one examination at least, received none")
    problems = [
        f"{getattr(item, 'name', 'a case')}, {view.name}"
        for item in examinations
        for view in item.views
        if not view.has_object
    ]
    if problems:
        raise UserError(
            f"{len(problems)} view(s) have no mask, or an empty one: {'; '.join(problems)}; a "
            "training needs the object's mask in each view"
        )
