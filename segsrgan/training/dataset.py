# SPDX-License-Identifier: MIT
"""Training patches of real images, cut on the fly: nothing is written to disk.

Delannoy et al. 2020, Figure 2(a): at each epoch every image is degraded anew (resolution,
contrast, noise), interpolated back and cut into patches. Memory holds a few images at a time,
whose patches are shuffled together, and as many again that a thread prepares::

    order of the epoch   | c a f | e b d | g |       images_in_memory = 3
    in use                 c a f
    being prepared                 e b d
"""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import channel_count, output_channels
from segsrgan.training.augmentation import STILL
from segsrgan.training.cases import CLASSES
from segsrgan.training.patches import LEVELS, cut, plans_of
from segsrgan.volumes import Volume

# What random numbers are drawn for: each draw has a generator of its own, so that an epoch can be
# entered anywhere without the draws before.
_ORDER, _IMAGE, _CYCLE = range(3)


def prefetch(items, depth=4):
    """Yields the items of an iterable, made by a thread while earlier ones are used.

    At most `depth` items are ahead of the one in use, the one being made included. An exception
    of the iterable is raised here, after the items before it. When the consumer stops early, the
    thread ends after the item it is making, and closes the iterable if that is a generator.
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "prefetch")
    coming = deque(pool.submit(next, iterator, end) for _ in range(depth))
    try:
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, iterator, end))
            yield item
            del item  # or it would stay in memory until the next one is there
    finally:
        for future in coming:
            future.cancel()
        if hasattr(iterator, "close"):
            pool.submit(iterator.close)
        pool.shutdown(wait=False)


class Batch(NamedTuple):
    """Patches for one update of a network, or for validation; all float32.

    The target is the truth of each head, see `segsrgan.networks.outputs`; classes are one-hot. The
    gradient penalty is taken at `epsilon`, [0, 1), of the way between an output and a target.
    """

    lr: np.ndarray  # (b, p, p, p, 1), interpolated; the thick axis is the last of the three
    target: np.ndarray  # (b, p, p, p, channels)
    resolution: np.ndarray  # (b,), distance of the slices in mm
    epsilon: np.ndarray  # (b,)

    @classmethod
    def zeros(cls, size, patch, channels):
        """A batch whose patches are to be written."""
        shapes = (size, *(patch,) * 3, 1), (size, *(patch,) * 3, channels), size, size
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))


class Prepared(NamedTuple):
    """A degraded image, thick axis last. All arrays have one shape (x, y, z)."""

    lr: np.ndarray  # float32
    hr: np.ndarray  # float32
    labels: dict  # {column: array}: bool, uint8 in steps of 1 / 255, or uint8 classes of masks
    starts: np.ndarray  # (n, 3) int, the first corners of the patches
    resolution: float  # distance of the slices, mm

    @classmethod
    def of(cls, arrays, plan, degradation, deformation, rng, position=None):
        """Degrades the arrays that a `Plan` has read; for `position` see `Degradation.draw`."""
        image = Volume(arrays["image"], plan.extent.spacing)
        labels = {column: array for column, array in arrays.items() if column != "image"}
        image, labels = deformation.apply(image, labels, rng, CLASSES)
        draw = degradation.draw(image, rng, position)
        window = tuple(
            slice(first - begin, last - begin)
            for (first, last), (begin, _) in zip(plan.box, plan.region, strict=True)
        )

        def keep(array):
            # The network meets the thick axis as its last, as at inference.
            return np.array(np.moveaxis(array[window], draw.axis, 2), order="C")

        order = [k for k in range(3) if k != draw.axis] + [draw.axis]
        starts = plan.starts - [first for first, _ in plan.box]
        labels = {column: keep(label) for column, label in labels.items()}
        return cls(keep(draw.lr), keep(draw.hr), labels, starts[:, order], draw.resolution)

    def write_patch(self, index, flips, lr, target, channels):
        """Cuts a patch into `lr` (p, p, p, 1) and `target` (p, p, p, channels), float32.

        What lies beyond the image is 0, and class 0. For the channels see `output_channels`.
        """
        start = self.starts[index]
        cut(self.lr, start, flips, lr[..., 0])
        for head, part in channels.items():
            out = target[..., part]
            if head.activation == "image":
                cut(self.hr, start, flips, out[..., 0])
                continue
            label = self.labels[head.target]
            if head.activation == "softmax":
                classes = np.empty(out.shape[:3], np.uint8)
                cut(label, start, flips, classes)
                out[...] = classes[..., None] == np.arange(out.shape[3])
                continue
            cut(label.view(np.uint8), start, flips, out[..., 0])  # bool is cast slowly
            if label.dtype != bool:
                out /= np.float32(LEVELS)


class Dataset:
    """The patches of the images of a CSV; a `UserError` names all those that have none.

    All randomness follows from `seed` and an epoch's number: the same ones give the same batches,
    whatever has been asked for before. Patches lie where they lie in the image before its
    deformation.

    Args:
        cases: sequence of `Case`, see `read_cases`.
        degradation, cutting, deformation: a `Degradation`, a `Cutting` and a `Deformation`.
        batch_size: patches in a batch, of all workers together.
        seed: a whole number from 0 up.
        spec: the generator's `GeneratorSpec`, whose heads are the channels of the target.
        images_in_memory: images whose patches are shuffled together, see `memory`.
        cache: a `Cache`, or None.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch of an epoch.
    """

    def __init__(
        self,
        cases,
        degradation,
        cutting,
        batch_size,
        seed,
        *,
        spec=None,
        deformation=STILL,
        images_in_memory=8,
        cache=None,
        shard=(0, 1),
    ):
        self._cases, self._degradation, self._cutting = list(cases), degradation, cutting
        self._batch_size, self._seed, spec = batch_size, seed, spec or GeneratorSpec()
        self._deformation, self._cache, self._shard = deformation, cache, shard
        self._together = images_in_memory
        self._channels, self._channel_count = output_channels(spec), channel_count(spec)
        self._columns = [head.target for head in self._channels if head.activation != "image"]
        self._plans = plans_of(self._cases, degradation, cutting)
        self.patches = sum(len(plan.starts) for plan in self._plans)

    def cycles(self, epoch):
        """How many batches come in turn in an epoch: one for each update of the generator."""
        return sum(len(cycles) for *_, cycles in self._groups(epoch))

    def memory(self):
        """Bytes that an epoch holds at most: an upper bound.

        That is `2 * images_in_memory * voxels * (4 + 4 + labels)` bytes of images, where voxels
        are those of the box that an image's patches lie in; what the preparation of one image
        takes; and two batches, the one in use and the next.
        """
        sizes = (math.prod(last - first for first, last in plan.box) for plan in self._plans)
        boxes = sorted(sizes, reverse=True)
        images = sum(boxes[: 2 * self._together]) * (4 + 4 + len(self._columns))
        preparing = max(plan.preparing_bytes(self._deformation) for plan in self._plans)
        size, channels = self._batch_size // self._shard[1], 1 + self._channel_count
        return images + preparing + (8 * size * channels + 1) * self._cutting.patch**3

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, one after the other; the next is prepared while one is in use.

        A cycle is `discriminator_batches` batches of patches drawn at random among the images in
        memory, then one of patches that come in turn. Each patch comes in turn once an epoch; the
        last batch of a group of images is filled up with patches of the group drawn at random.
        Every worker gets its part of each batch. A `VolumeError` names an image that cannot be
        read or used.

        Args:
            epochs: range of their numbers, from 0 up.
            discriminator_batches: per cycle, 0 or more.
            first_cycle: how many cycles of the first epoch to leave out.
        """
        groups = [
            group
            for epoch in epochs
            for group in self._groups(epoch, first_cycle if epoch == epochs[0] else 0)
        ]
        coming = (
            self._prepare(case, self._rng(epoch, _IMAGE, case))
            for epoch, _, members, *_ in groups
            for case in members
        )
        with closing(prefetch(coming, depth=self._together)) as images:
            for epoch, index, members, begin, cycles in groups:
                group = _Group([next(images) for _ in members], self._batch_size)
                turn = group.turn(self._rng(epoch, _ORDER, 1 + index))
                for cycle in cycles:
                    rng = self._rng(epoch, _CYCLE, cycle)
                    for _ in range(discriminator_batches):
                        yield self._batch(group, group.choose(rng), rng)
                    first = (cycle - begin) * self._batch_size
                    yield self._batch(group, turn[first : first + self._batch_size], rng)
                del group  # before the next one is collected

    def all_patches(self):
        """The batches of a validation: every patch once, in order, the same every time.

        No contrast, noise, flip or deformation. The resolutions of the images are spread evenly
        from the lower to the upper bound, in the order of the CSV; a single image has the middle.
        `epsilon` is 0. Every worker gets all patches, whatever its shard; the last batch may be
        smaller. A `VolumeError` names an image that cannot be read or used.
        """
        count, size = len(self._cases), self._batch_size
        positions = np.linspace(0, 1, count).tolist() if count > 1 else [0.5]
        coming = (
            self._prepare(case, np.random.default_rng(0), position)
            for case, position in enumerate(positions)
        )
        left, row = self.patches, 0
        batch = self._empty(min(size, left))
        with closing(prefetch(coming, depth=1)) as images:
            for image in images:
                for patch in range(len(image.starts)):
                    self._write(batch, row, image, patch, (False,) * 3)
                    row, left = row + 1, left - 1
                    if row == len(batch.lr):
                        yield batch
                        row, batch = 0, self._empty(min(size, left))
                del image

    def _groups(self, epoch, first_cycle=0):
        """The images of an epoch, a few at a time, as far as they have cycles left.

        Yields `(epoch, index, members, begin, cycles)`: the group's number, the indices of its
        images, its first cycle and the cycles that are left.
        """
        order = self._rng(epoch, _ORDER, 0).permutation(len(self._cases)).tolist()
        begin = 0
        for index, first in enumerate(range(0, len(order), self._together)):
            members = order[first : first + self._together]
            patches = sum(len(self._plans[case].starts) for case in members)
            end = begin + -(-patches // self._batch_size)
            if cycles := range(max(begin, first_cycle), end):
                yield epoch, index, members, begin, cycles
            begin = end

    def _prepare(self, index, rng, position=None):
        """A `Prepared` image; the one of a validation if `position` is given."""
        case, plan, degradation = self._cases[index], self._plans[index], self._degradation
        deformation = self._deformation
        if position is not None:
            degradation, deformation = replace(degradation, contrast_max=0.0, noise=0.0), STILL
        try:
            arrays = self._arrays(case, plan)
            return Prepared.of(arrays, plan, degradation, deformation, rng, position)
        except VolumeError:
            raise
        except (ValueError, MemoryError) as error:
            raise VolumeError(
                f"{case.image}: cannot be made into a training image ({error})"
            ) from error

    def _arrays(self, case, plan):
        if self._cache is None:
            return plan.read(case, self._columns)
        return self._cache.load(
            [case.image, *(case.labels[column] for column in self._columns)],
            {"region": plan.region, "spacing": plan.extent.spacing, "values": case.values},
            ["image", *self._columns],
            lambda: plan.read(case, self._columns),
        )

    def _batch(self, group, chosen, rng):
        """This worker's part of a batch of patches; draws for the parts of all."""
        flips = rng.random((len(chosen), 3)) < 0.5
        flips &= self._cutting.flip
        epsilon = rng.random(len(chosen), dtype=np.float32)
        worker, workers = self._shard
        part = len(chosen) // workers
        mine = slice(worker * part, (worker + 1) * part)
        batch = self._empty(part)
        for row, (patch, flip) in enumerate(zip(chosen[mine], flips[mine], strict=True)):
            self._write(batch, row, *group.find(patch), flip)
        batch.epsilon[:] = epsilon[mine]
        return batch

    def _write(self, batch, row, image, patch, flips):
        image.write_patch(patch, flips, batch.lr[row], batch.target[row], self._channels)
        batch.resolution[row] = image.resolution

    def _empty(self, size):
        return Batch.zeros(size, self._cutting.patch, self._channel_count)

    def _rng(self, epoch, kind, index):
        return np.random.default_rng([self._seed, epoch, kind, index])


class _Group:
    """The images that are in memory together; their patches are numbered through."""

    def __init__(self, images, batch_size):
        self._images, self._batch_size = images, batch_size
        self._ends = np.cumsum([len(image.starts) for image in images])
        self.patches = int(self._ends[-1])

    def turn(self, rng):
        """All patches in random order, the last batch filled up with patches drawn at random."""
        order = rng.permutation(self.patches)
        filling = rng.integers(self.patches, size=-len(order) % self._batch_size)
        return np.concatenate([order, filling])

    def choose(self, rng):
        """The patches of a batch drawn at random: no patch twice if there are enough."""
        size = self._batch_size
        return rng.choice(self.patches, size, replace=size > self.patches)

    def find(self, patch):
        """The `Prepared` image of a patch, and the patch's number in it."""
        index = int(np.searchsorted(self._ends, patch, side="right"))
        return self._images[index], int(patch) - (int(self._ends[index - 1]) if index else 0)
