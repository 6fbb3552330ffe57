# SPDX-License-Identifier: MIT
"""The batches of a training: every one follows from the seed, the epoch and the cycle."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from supermask.geometry import ORIENTATIONS
from supermask.training.poses import PlacedExamination, oriented

# What random numbers are drawn for, each with a generator of its own.
_SINGLES, _PAIRS = range(2)
_TURN, _ROW, _ORIENTATION = range(3)


class Singles(NamedTuple):
    """Images for an update of the segmentor alone.

    Attributes:
        image: (b, n, n, n, 1) float32 in [0, 1].
        mask: likewise, 0 or 1.
    """

    image: np.ndarray
    mask: np.ndarray


class Pairs(NamedTuple):
    """Pairs of views of one patient each.

    Attributes:
        moving, fixed: images (b, n, n, n, 1) float32 in [0, 1].
        moving_mask, fixed_mask: likewise, 0 or 1.
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


class Dataset:
    """The views of examinations, in random poses.

    Args:
        examinations: sequence of `Examination`.
        augmentation: an `Augmentation`.
        batch_size: images, or pairs, in a batch, of all workers together.
        seed: a whole number from 0 up.
        steps: cycles in an epoch; None: as many as give each view its turn.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch.
        orientations: in how many cycles in a row what was drawn is used, each image or pair in
            one of the 48 orientations of the grid each time; 1: in one cycle, as it is.

    Raises:
        UserError: if a view has no object; all of them are named.
    """

    def __init__(
        self,
        examinations,
        augmentation,
        batch_size,
        seed=0,
        steps=None,
        shard=(0, 1),
        orientations=1,
    ):
        _check(examinations)
        self._augmentation, self._batch_size, self._seed = augmentation, batch_size, seed
        self._worker, self._workers = shard
        self._orientations = orientations
        self._cases = [PlacedExamination.of(item, augmentation) for item in examinations]
        self.singles = [(c, v) for c, case in enumerate(self._cases) for v in range(_views(case))]
        self.pairs = [(c, v) for c, v in self.singles if _views(self._cases[c]) > 1]
        self._steps = steps or -(-len(self.singles) // batch_size) * orientations

    def cycles(self, epoch):
        """How many cycles an epoch has."""
        return self._steps

    def stream(self, epochs, kinds, first_cycle=0):
        """The batches of epochs, one after the other.

        Args:
            epochs: range of their numbers, from 1 up.
            kinds: function from an epoch to the classes of the batches of a cycle, `Singles` or
                `Pairs`, in their order.
            first_cycle: how many cycles of the first epoch to leave out.

        Yields:
            `Singles` or `Pairs`, this worker's part.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for epoch in epochs:
                first = first_cycle if epoch == epochs[0] else 0
                drawn = {}
                for cycle in range(first, self._steps):
                    turn = cycle // self._orientations
                    for position, kind in enumerate(kinds(epoch)):
                        if position not in drawn or cycle % self._orientations == 0:
                            drawn[position] = self._rows(pool, kind, epoch, turn, position)
                        rows = drawn[position]
                        if self._orientations > 1:
                            rows = self._oriented(rows, epoch, cycle, position)
                        yield _stacked(kind, rows)

    def _rows(self, pool, kind, epoch, turn, position):
        """This worker's rows of a batch."""
        chosen = self._turn(kind, epoch, turn)
        # A generator of its own for each row, so that it matters not who makes it.
        drawn = pool.map(
            lambda row: self._draw(kind, *chosen[row], self._rng(_ROW, epoch, turn, position, row)),
            self._numbers(),
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
        rows = self._batch_size // self._workers
        return range(self._worker * rows, (self._worker + 1) * rows)

    def _rng(self, *key):
        return np.random.default_rng([self._seed, *key])

    def _turn(self, kind, epoch, turn):
        """The views whose turn it is: every one once before any is seen again."""
        views = self.pairs if kind is Pairs else self.singles
        first, result = turn * self._batch_size, []
        for number in range(first, first + self._batch_size):
            round_, place = divmod(number, len(views))
            label = _PAIRS if kind is Pairs else _SINGLES
            rng = self._rng(_TURN, epoch, label, round_)
            result.append(views[rng.permutation(len(views))[place]])
        return result

    def _draw(self, kind, case, view, rng):
        placed = self._cases[case]
        if kind is Singles:
            return placed.single(view, self._augmentation, rng)
        others = [index for index in range(_views(placed)) if index != view]
        return placed.pair(view, others[rng.integers(len(others))], self._augmentation, rng)

    def fixed_singles(self):
        """The batches of a validation: every view as it is, in order.

        Yields:
            `Singles`; the last one may be smaller.
        """
        for group in self._groups(self.singles):
            yield _stacked(Singles, [self._still(Singles, *place) for place in group])

    def fixed_pairs(self):
        """Every view and the next one of its patient, moved in the same way each time.

        Yields:
            `Pairs`, likewise.
        """
        for group in self._groups(self.pairs):
            yield _stacked(Pairs, [self._still(Pairs, *place) for place in group])

    def _still(self, kind, case, view):
        placed, rng = self._cases[case], np.random.default_rng([case, view])
        if kind is Singles:
            return placed.single(view, self._augmentation, rng, still=True)
        following = (view + 1) % _views(placed)
        return placed.pair(view, following, self._augmentation, rng, still=True)

    def _groups(self, places):
        size = self._batch_size
        return [places[first : first + size] for first in range(0, len(places), size)]


def _stacked(kind, rows):
    """A batch of rows; volumes get their channel."""
    columns = (np.stack(column) for column in zip(*rows, strict=True))
    return kind(*(c[..., np.newaxis] if c.ndim == 4 else c for c in columns))


def _views(placed):
    return len(placed.views)


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
