# SPDX-License-Identifier: MIT
"""Synthetic patches in the place of a share of the real ones.

In every batch the same share of the patches, at positions drawn at random, is replaced::

    real        a b c d e f g h      in their turn, as `Dataset` streams them
    synthetic     1   2     3 4      ratio = 0.5
    batch       a 1 c 2 e f 3 4

An epoch is thus as long as without synthetic patches. Each patch has a random generator of its
own, made from the seed and its place, so that it does not matter who draws it, when, or whether
the training was stopped before. Threads draw them ahead.
"""

import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from segsrgan.training.dataset import Batch
from segsrgan.training.maps import sources_of
from segsrgan.training.sources import Acquisition

logger = logging.getLogger(__name__)

# What random numbers are drawn for; `dataset` has the kinds before.
_CHOICE, _PATCH, _EPSILON = range(3, 6)
# Bytes per voxel of a patch with margins, at most, while it is drawn; a test measures it.
_DRAWING = 48
_MARGINS = 24
_MOST_THREADS = 8


class Blank:
    """Stands in for a `Dataset` where there are no real images: its batches are empty.

    Args:
        patches: how many make up an epoch.
        patch: edge in voxels.
        batch_size: patches in a batch, of all workers together.
        seed: of the only draw, `Batch.epsilon`.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch.
    """

    def __init__(self, patches, patch, batch_size, seed, shard=(0, 1)):
        self.patches = patches
        self._patch, self._batch_size, self._seed, self._shard = patch, batch_size, seed, shard

    def cycles(self, epoch):
        """How many batches come in turn in an epoch."""
        return -(-self.patches // self._batch_size)

    def memory(self):
        """Bytes that are held at most: two batches."""
        return 2 * 12 * self._batch_size // self._shard[1] * self._patch**3

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, in the order of `Dataset.stream`."""
        worker, workers = self._shard
        part = self._batch_size // workers
        for place in places(self, epochs, discriminator_batches, first_cycle):
            rng = np.random.default_rng([self._seed, place[0], _EPSILON, *place[1:]])
            epsilon = rng.random(self._batch_size, dtype=np.float32)
            shape = (part, *(self._patch,) * 3)
            lr, target = (np.zeros((*shape, channels), np.float32) for channels in (1, 2))
            mine = epsilon[worker * part : (worker + 1) * part]
            yield Batch(lr, target, np.zeros(part, np.float32), mine)


class MixedDataset:
    """The batches of a `Dataset` with synthetic patches among the real ones.

    Args:
        real: a `Dataset` without mask classes, or a `Blank`.
        sources: objects with `draw(rng)`, see `sources`; each patch is drawn from one of them.
        ratio: share of the patches that are synthetic, above 0; 1 for all.
        patch: edge in voxels.
        batch_size: patches in a batch, of all workers together.
        seed: of the synthetic patches and of their places.
        spacing: mm that a voxel of a synthetic patch stands for.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch.
        threads: that draw patches; by default as many as there are processors, 8 at most.
    """

    def __init__(
        self, real, sources, ratio, patch, batch_size, seed, spacing=1.0, shard=(0, 1), threads=None
    ):
        self._real, self._sources, self._ratio, self._patch = real, tuple(sources), ratio, patch
        self._batch_size, self._seed, self._spacing = batch_size, seed, spacing
        self._shard = shard
        self._threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)

    @property
    def patches(self):
        """How many patches come in turn in an epoch."""
        return self._real.patches

    def cycles(self, epoch):
        """How many batches come in turn in an epoch: as many as of the real images alone."""
        return self._real.cycles(epoch)

    def memory(self):
        """Bytes that an epoch holds at most, label maps aside: an upper bound."""
        drawing = self._threads * _DRAWING * (self._patch + _MARGINS) ** 3
        waiting = (self._ahead + 1) * self._part * 12 * self._patch**3
        return self._real.memory() + drawing + waiting

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, in the order of `Dataset.stream`.

        Args:
            epochs: range of their numbers, from 0 up.
            discriminator_batches: per cycle, 0 or more.
            first_cycle: how many cycles of the first epoch to leave out.

        Yields:
            `Batch`, this worker's part.

        Raises:
            VolumeError: if an image cannot be read or used; the message names it.
        """
        order = (epochs, discriminator_batches, first_cycle)
        with (
            closing(self._real.stream(*order)) as real,
            closing(self._drawn(places(self, *order))) as drawn,
        ):
            for batch, patches in zip(real, drawn, strict=True):
                for row, patch in patches.items():
                    lr, hr, label, resolution = patch.result()
                    batch.lr[row, ..., 0] = lr
                    batch.target[row, ..., 0], batch.target[row, ..., 1] = hr, label
                    batch.resolution[row] = resolution * self._spacing
                yield batch

    def epoch(self, number, discriminator_batches, first_cycle=0):
        """The batches of one epoch, see `stream`."""
        return self.stream(range(number, number + 1), discriminator_batches, first_cycle)

    @property
    def _part(self):
        return self._batch_size // self._shard[1]

    @property
    def _ahead(self):
        """Batches whose patches are drawn ahead: enough to keep the threads busy."""
        return 1 + -(-self._threads // max(1, int(self._ratio * self._part)))

    def _drawn(self, order):
        """The synthetic patches of each batch of this worker, `{row: Future}`."""
        pool = ThreadPoolExecutor(self._threads, "synthesis")
        coming = deque()
        first = self._shard[0] * self._part
        try:
            for place in order:
                rows = [row - first for row in self._rows(place)]
                rows = [row for row in rows if 0 <= row < self._part]
                coming.append({row: pool.submit(self._draw, place, first + row) for row in rows})
                if len(coming) > self._ahead:
                    yield coming.popleft()
            while coming:
                yield coming.popleft()
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows(self, place):
        """The positions of synthetic patches in the whole batch at a place."""
        rng = self._rng(_CHOICE, place)
        # The remainder is rounded at random, so that small batches keep the ratio on average.
        count = int(self._ratio * self._batch_size + rng.random())
        return sorted(rng.permutation(self._batch_size)[:count].tolist())

    def _draw(self, place, position):
        rng = self._rng(_PATCH, (*place, position))
        return self._sources[rng.integers(len(self._sources))].draw(rng)

    def _rng(self, kind, place):
        return np.random.default_rng([self._seed, place[0], kind, *place[1:]])


def mixed(settings, spec, maps, real, table, shard=(0, 1)):
    """The training data of settings with label maps, a `MixedDataset`.

    Args:
        settings: a `Settings`.
        spec: the generator's `GeneratorSpec`.
        maps: list of `Map`.
        real: the `Dataset` of the training images, or None; then an epoch is as long as one of
            images of the maps' size.
        table: the `Table` whose images tell how large the voxel of a patch is, mm.
        shard: see `MixedDataset`.
    """
    cases = table.train if real is not None else table.test
    spacing = float(np.median([np.mean(case.known.spacing) for case in cases]))
    patch, size = settings.patch_size, settings.batch_size
    if real is None:
        patches = sum(item.tiles(patch, settings.stride, spacing) for item in maps)
        real = Blank(patches, patch, size, settings.seed, shard)
    acquisition = Acquisition(
        ratio=settings.synthetic_thickness,
        noise=settings.percent_val_max,
        interp=spec.interp,
        slice_voxels=spec.slice_voxels,
    )
    sources = sources_of(maps, patch, acquisition, spacing=spacing)
    logger.info(
        "%d label maps take %.0f MB; a share of %g of the patches is synthetic, their voxels stand "
        "for %.3g mm",
        len(maps),
        sum(item.labels.labels.nbytes + item.labels.points.nbytes for item in maps) / 1e6,
        settings.synthetic_ratio,
        spacing,
    )
    ratio, seed = settings.synthetic_ratio, settings.seed
    return MixedDataset(real, sources, ratio, patch, size, seed, spacing, shard)


def places(data, epochs, discriminator_batches, first_cycle=0):
    """Where the batches of epochs belong, in their order: `(epoch, cycle, update)`.

    Args:
        data: an object with `cycles(epoch)`.
        epochs: range of their numbers.
        discriminator_batches: per cycle, before the one of the generator.
        first_cycle: how many cycles of the first epoch to leave out.
    """
    for epoch in epochs:
        for cycle in range(first_cycle if epoch == epochs[0] else 0, data.cycles(epoch)):
            for update in range(discriminator_batches + 1):
                yield epoch, cycle, update
