# SPDX-License-Identifier: MIT
"""Patches drawn from sources, alone or in the place of a fraction of the real ones.

In every batch the same fraction of the patches, at positions drawn at random, is replaced::

    real        a b c d e f g h      in turn, as `Dataset` streams them
    drawn         1   2     3 4      half of them
    batch       a 1 c 2 e f 3 4

An epoch is thus as long as without drawn patches. Each patch has a random generator of its own,
made from the seed and its place, so that it does not matter who draws it, when, or whether the
training was stopped before. Threads draw them ahead.
"""

import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import channel_count, output_channels
from segsrgan.training.dataset import Batch
from segsrgan.training.sources import Acquisition, ImageSource

logger = logging.getLogger(__name__)

# What random numbers are drawn for; `dataset` has the kinds before.
_CHOICE, _PATCH, _EPSILON = range(3, 6)
# Bytes per voxel of a patch with margins, at most, while it is drawn; a test measures it.
_DRAWING = 48
_MARGINS = 24
_MOST_THREADS = 8


class MixedDataset:
    """Batches of drawn patches, or of a `Dataset` with drawn patches among its own.

    Args:
        sources: objects with `draw(rng)`, see `sources`.
        fractions: of all patches, those of each source; at most 1 together, and 1 where nothing is
            real.
        patch, batch_size, seed, spec, shard: as those of a `Dataset`.
        real: the `Dataset` whose patches are the others, or None.
        patches: how many come in turn in an epoch, needed where nothing is real.
        spacing: mm that a voxel of a drawn patch stands for.
        threads: that draw patches; by default as many as there are processors, 8 at most.
    """

    def __init__(
        self,
        sources,
        fractions,
        patch,
        batch_size,
        seed,
        *,
        real=None,
        patches=None,
        spacing=1.0,
        spec=None,
        shard=(0, 1),
        threads=None,
    ):
        self._sources, self._fraction = tuple(sources), float(np.sum(fractions))
        self._odds = np.divide(fractions, self._fraction)
        self._patch, self._batch_size, self._seed = patch, batch_size, seed
        self._real, self._spacing = real, spacing
        self.patches = real.patches if real else -(-patches // batch_size) * batch_size
        spec = spec or GeneratorSpec()
        self._channels, self._channel_count = output_channels(spec), channel_count(spec)
        worker, workers = shard
        self._part = batch_size // workers
        self._rows = range(worker * self._part, (worker + 1) * self._part)
        self._threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
        # Batches whose patches are drawn ahead: enough to keep the threads busy.
        self._ahead = 1 + -(-self._threads // max(1, int(self._fraction * self._part)))

    def cycles(self, epoch):
        """How many batches come in turn in an epoch."""
        return self._real.cycles(epoch) if self._real else self.patches // self._batch_size

    def memory(self):
        """Bytes that an epoch holds at most, what the sources draw from aside: an upper bound."""
        voxels = self._patch**3
        drawing = self._threads * _DRAWING * (self._patch + _MARGINS) ** 3
        waiting = (self._ahead + 1) * self._part * 12 * voxels
        batches = 2 * 4 * (1 + self._channel_count) * self._part * voxels
        return drawing + waiting + (self._real.memory() if self._real else batches)

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, see `Dataset.stream`."""

        def places():
            for epoch in epochs:
                for cycle in range(first_cycle if epoch == epochs[0] else 0, self.cycles(epoch)):
                    yield from ((epoch, cycle, n) for n in range(discriminator_batches + 1))

        if self._real:
            batches = self._real.stream(epochs, discriminator_batches, first_cycle)
        else:
            batches = (self._empty(place) for place in places())
        with closing(batches), closing(self._drawn(places())) as drawn:
            for batch, patches in zip(batches, drawn, strict=True):
                for row, patch in patches.items():
                    self._write(batch, row, patch.result())
                yield batch

    def _drawn(self, places):
        """The drawn patches of each batch of this worker, `{row: Future}`."""
        pool, coming = ThreadPoolExecutor(self._threads, "synthesis"), deque()
        try:
            for place in places:
                rows = [row for row in self._positions(place) if row in self._rows]
                first, draw = self._rows[0], self._draw
                coming.append({row - first: pool.submit(draw, place, row) for row in rows})
                if len(coming) > self._ahead:
                    yield coming.popleft()
            yield from coming
        finally:
            pool.shutdown(cancel_futures=True)

    def _positions(self, place):
        """The positions of drawn patches in the whole batch at a place."""
        rng = self._rng(_CHOICE, place)
        # The remainder is rounded at random, so that small batches keep the fraction on average.
        count = int(self._fraction * self._batch_size + rng.random())
        return sorted(rng.permutation(self._batch_size)[:count].tolist())

    def _draw(self, place, position):
        rng = self._rng(_PATCH, (*place, position))
        return self._sources[rng.choice(len(self._sources), p=self._odds)].draw(rng)

    def _write(self, batch, row, patch):
        batch.lr[row, ..., 0] = patch.lr
        for head, part in self._channels.items():
            batch.target[row, ..., part] = patch.truth[head.name][..., None]
        batch.resolution[row] = patch.resolution * self._spacing

    def _empty(self, place):
        """A batch without patches yet."""
        batch = Batch.zeros(self._part, self._patch, self._channel_count)
        epsilon = self._rng(_EPSILON, place).random(self._batch_size, dtype=np.float32)
        batch.epsilon[:] = epsilon[self._rows]
        return batch

    def _rng(self, kind, place):
        return np.random.default_rng([self._seed, place[0], kind, *place[1:]])


def mixed(settings, spec, maps, cases, *, real=None, patches=None, shard=(0, 1)):
    """The training data of settings with drawn patches, a `MixedDataset`.

    A fraction `synthetic_ratio` of the patches is painted on the `Map`s, each map's in proportion
    to its own fraction. The others come from `real`, a `Dataset`, or are drawn from the images of
    the `Case`s if these have a number of `patches` in an epoch. Without either, an epoch is as
    long as one of images of the maps' size. The images tell how large the voxel of a patch is, mm.
    A `VolumeError` names an image that cannot be used.
    """
    patch, fraction = settings.patch_size, 0.0
    spacing = float(np.median([np.mean(case.extent.spacing) for case in cases]))
    acquisition = Acquisition(
        ratio=settings.synthetic_thickness,
        noise=settings.percent_val_max,
        interp=spec.interp,
        slice_voxels=spec.slice_voxels,
    )
    options = {"patch": patch, "acquisition": acquisition}
    sources, fractions = [], []
    if maps:
        painted = {"strip": settings.stripped, "cropped": settings.cropped}
        sources = [item.source(spacing, **painted, **options) for item in maps]
        fraction, total = settings.synthetic_ratio, sum(item.file.fraction for item in maps)
        fractions = [fraction * item.file.fraction / total for item in maps]
        text = "%d label maps take %.0f MB; a fraction of %g of the patches is synthetic, their "
        text += "voxels stand for %.3g mm"
        size = sum(item.labels.labels.nbytes + item.labels.points.nbytes for item in maps)
        logger.info(text, len(maps), size / 1e6, fraction, spacing)
    if patches is not None:
        options |= {"power": settings.image_power, "inverted": settings.inverted}
        sources.append(ImageSource.of(cases, **options))
        fractions.append(1 - fraction)
    elif real is None:
        patches = sum(item.tiles(patch, settings.stride, spacing) for item in maps)
    return MixedDataset(
        sources,
        fractions,
        patch,
        settings.batch_size,
        settings.seed,
        real=real,
        patches=patches,
        spacing=spacing,
        spec=spec,
        shard=shard,
    )
