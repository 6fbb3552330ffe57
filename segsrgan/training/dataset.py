# SPDX-License-Identifier: MIT
"""Training patches of real images, cut on the fly: nothing is written to disk.

Delannoy et al. 2020, Figure 2(a): at each epoch every image is degraded anew (resolution,
contrast, noise), interpolated back and cut into patches. Memory holds a few images at a time,
whose patches are shuffled together, and as many again that a thread prepares::

    order of the epoch   | c a f | e b d | g |       images_in_memory = 3
    in use                 c a f
    being prepared                 e b d
"""

from contextlib import closing
from typing import NamedTuple

import numpy as np

from segsrgan.training.patches import Cutting, patch_starts
from segsrgan.training.prefetch import prefetch
from segsrgan.training.prepare import Plan, prepare
from segsrgan.training.simulate import Simulation

__all__ = ["Batch", "Cutting", "Dataset", "Simulation", "patch_starts"]

# What random numbers are drawn for: each draw has a generator of its own, so that an epoch can be
# entered anywhere without the draws before.
_ORDER, _IMAGE, _CYCLE = range(3)


class Batch(NamedTuple):
    """Patches for one update of a network, or for validation.

    Attributes:
        lr: (b, p, p, p, 1) float32, the interpolated low-resolution image; the thick axis is the
            last of the three, as at inference.
        target: (b, p, p, p, 2 + classes) float32: image, label, one-hot classes of the mask.
        resolution: (b,) float32, distance of the slices in mm.
        epsilon: (b,) float32 in [0, 1), where on the line between an output and a target the
            gradient penalty is taken.
    """

    lr: np.ndarray
    target: np.ndarray
    resolution: np.ndarray
    epsilon: np.ndarray


class Dataset:
    """The patches of the images of a CSV.

    All randomness follows from `seed` and an epoch's number: the same ones give the same batches,
    whatever has been asked for before.

    Args:
        cases: sequence of `Case`, see `read_table`.
        simulation: a `Simulation`.
        cutting: a `Cutting`. Patches lie where they lie in the image before its deformation.
        batch_size: patches in a batch, of all workers together.
        seed: a whole number from 0 up.
        mask_classes: classes of the masks that are appended to the target.
        deformation: a `Deformation`, or None.
        images_in_memory: images whose patches are shuffled together, see `memory`.
        cache: a `Cache`, or None.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch of an epoch.

    Raises:
        ValueError: if the batch cannot be divided among the workers, a mask is missing, or
            images have no patch; all of them are named.
        VolumeError: if an image or mask has to be read for its patches and cannot be.
    """

    def __init__(
        self,
        cases,
        simulation,
        cutting,
        batch_size,
        seed,
        mask_classes=0,
        deformation=None,
        images_in_memory=8,
        cache=None,
        shard=(0, 1),
    ):
        self._cases, self._simulation, self._cutting = list(cases), simulation, cutting
        self._batch_size, self._seed, self._mask_classes = batch_size, seed, mask_classes
        self._deformation, self._cache, self._shard = deformation, cache, shard
        self._together = images_in_memory
        self._check()
        self._plans = [Plan.of(case, simulation, cutting) for case in self._cases]
        self._check_plans()

    @property
    def patches(self):
        """How many patches the images have together."""
        return sum(len(plan.starts) for plan in self._plans)

    def cycles(self, epoch):
        """How many batches come in turn in an epoch: one for each update of the generator."""
        return sum(cycles for _, cycles in self._groups(epoch))

    def memory(self):
        """Bytes that an epoch holds at most: an upper bound.

        That is `2 * images_in_memory * voxels * (4 + 4 + 1 [+ 1])` bytes of images, where voxels
        are those of the box that an image's patches lie in and the last byte is of a mask; what
        the preparation of one image takes; and two batches, the one in use and the next.
        """
        boxes = sorted((plan.box_voxels for plan in self._plans), reverse=True)
        images = sum(boxes[: 2 * self._together]) * (4 + 4 + 1 + (self._mask_classes > 0))
        preparing = max(plan.preparing_bytes(self._deformation) for plan in self._plans)
        size, channels = self._batch_size // self._shard[1], 1 + 2 + self._mask_classes
        return images + preparing + (8 * size * channels + 1) * self._cutting.patch**3

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, one after the other; the next is prepared while one is in use.

        A cycle is `discriminator_batches` batches of patches drawn at random among the images in
        memory, then one of patches that come in turn. Each patch comes in turn once an epoch; the
        last batch of a group of images is filled up with patches of the group drawn at random.

        Args:
            epochs: range of their numbers, from 0 up.
            discriminator_batches: per cycle, 0 or more.
            first_cycle: how many cycles of the first epoch to leave out.

        Yields:
            `Batch`, this worker's part.

        Raises:
            VolumeError: if an image cannot be read or used; the message names it.
        """
        groups = [
            group
            for epoch in epochs
            for group in self._groups_from(epoch, first_cycle if epoch == epochs[0] else 0)
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

    def epoch(self, number, discriminator_batches, first_cycle=0):
        """The batches of one epoch, see `stream`."""
        return self.stream(range(number, number + 1), discriminator_batches, first_cycle)

    def all_patches(self):
        """The batches of a validation: every patch once, in order, the same every time.

        No contrast, noise, flip or deformation. The resolutions of the images are spread evenly
        from the lower to the upper bound, in the order of the CSV; a single image has the middle.
        `epsilon` is 0. Every worker gets all patches, whatever its shard.

        Yields:
            `Batch`; the last one may be smaller.

        Raises:
            VolumeError: as `epoch`.
        """
        count, size = len(self._cases), self._batch_size
        shares = np.linspace(0, 1, count) if count > 1 else [0.5]
        coming = (
            self._prepare(case, np.random.default_rng(0), float(share))
            for case, share in enumerate(shares)
        )
        left, row = self.patches, 0
        batch, scratch = self._empty(min(size, left))
        with closing(prefetch(coming, depth=1)) as images:
            for image in images:
                for patch in range(len(image.starts)):
                    image.write_patch(
                        patch, (False,) * 3, batch.lr[row], batch.target[row], scratch
                    )
                    batch.resolution[row] = image.resolution
                    row, left = row + 1, left - 1
                    if row == len(batch.lr):
                        yield batch
                        row, (batch, scratch) = 0, self._empty(min(size, left))
                del image

    def _groups(self, epoch):
        """The images of an epoch, a few at a time: `(indices, cycles)` of each group."""
        order = self._rng(epoch, _ORDER, 0).permutation(len(self._cases)).tolist()
        groups = []
        for first in range(0, len(order), self._together):
            members = order[first : first + self._together]
            patches = sum(len(self._plans[case].starts) for case in members)
            groups.append((members, -(-patches // self._batch_size)))
        return groups

    def _groups_from(self, epoch, first_cycle):
        """The groups that have cycles left: `(epoch, index, members, first cycle, cycles left)`."""
        begin = 0
        for index, (members, count) in enumerate(self._groups(epoch)):
            cycles = range(max(begin, first_cycle), begin + count)
            if cycles:
                yield epoch, index, members, begin, cycles
            begin += count

    def _prepare(self, index, rng, share=None):
        """A `Prepared` image; the one of a validation if `share` is given."""
        simulation, deformation = self._simulation, self._deformation
        if share is not None:
            simulation, deformation = simulation.without_augmentation(), None
        case, plan, masks = self._cases[index], self._plans[index], self._mask_classes > 0
        return prepare(case, plan, simulation, rng, share, masks, deformation, self._cache)

    def _batch(self, group, chosen, rng):
        """This worker's part of a batch of patches; draws for the parts of all."""
        flips = rng.random((len(chosen), 3)) < 0.5
        epsilon = rng.random(len(chosen), dtype=np.float32)
        worker, workers = self._shard
        part = len(chosen) // workers
        rows = range(worker * part, (worker + 1) * part)
        batch, scratch = self._empty(part)
        for row, source in enumerate(rows):
            image, patch = group.find(chosen[source])
            turned = flips[source] if self._cutting.flip else (False,) * 3
            image.write_patch(patch, turned, batch.lr[row], batch.target[row], scratch)
            batch.resolution[row] = image.resolution
        batch.epsilon[:] = epsilon[rows.start : rows.stop]
        return batch

    def _empty(self, size):
        """A `Batch` to be filled, and memory for a patch of the mask."""
        shape = (size, *(self._cutting.patch,) * 3)
        lr, target = (np.empty((*shape, n), np.float32) for n in (1, 2 + self._mask_classes))
        numbers = (np.zeros(size, np.float32) for _ in range(2))
        return Batch(lr, target, *numbers), np.empty(shape[1:], np.uint8)

    def _rng(self, epoch, kind, index):
        return np.random.default_rng([self._seed, epoch, kind, index])

    def _check(self):
        worker, workers = self._shard
        if not 0 <= worker < workers or self._batch_size < 1 or self._batch_size % workers:
            raise ValueError(
                f"a batch of {self._batch_size} patches cannot be divided among {workers} workers "
                f"(this is number {worker}, counted from 0); try {workers} or a multiple of it"
            )
        if self._together < 1:
            raise ValueError(f"images_in_memory must be 1 or more, received {self._together}")
        if not self._cases:
            raise ValueError("a dataset needs one image at least, received none")
        if self._mask_classes or self._cutting.method == "overlapping_with_mask":
            missing = [str(case.image) for case in self._cases if case.mask is None]
            if missing:
                raise ValueError(f"masks are needed, but there is none for {', '.join(missing)}")

    def _check_plans(self):
        pairs = zip(self._cases, self._plans, strict=True)
        empty = [str(case.image) for case, plan in pairs if not len(plan.starts)]
        if empty:
            raise ValueError(
                f"no patch of {self._cutting.patch}^3 voxels has more than half of its voxels in "
                f"the mask of {', '.join(empty)}; try a smaller --patch_size or --stride, or "
                "--image_cropping_method bounding_box"
            )


class _Group:
    """The images that are in memory together; their patches are numbered through."""

    def __init__(self, images, batch_size):
        self._images, self._batch_size = images, batch_size
        counts = [len(image.starts) for image in images]
        self._ends = np.cumsum(counts)
        self.patches = int(self._ends[-1])

    def turn(self, rng):
        """All patches in random order, the last batch filled up with patches drawn at random."""
        order = rng.permutation(self.patches)
        return np.concatenate(
            [order, rng.integers(self.patches, size=-len(order) % self._batch_size)]
        )

    def choose(self, rng):
        """The patches of a batch drawn at random: no patch twice if there are enough."""
        size = self._batch_size
        return rng.choice(self.patches, size, replace=size > self.patches)

    def find(self, patch):
        """The `Prepared` image of a patch, and the patch's number in it."""
        index = int(np.searchsorted(self._ends, patch, side="right"))
        return self._images[index], int(patch) - (int(self._ends[index - 1]) if index else 0)
