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
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.networks import GeneratorSpec
from segsrgan.networks.outputs import channel_count, output_channels
from segsrgan.training.cases import CLASSES, MASK, Extent, at_spacing
from segsrgan.training.patches import box_starts, cut, overlapping_starts
from segsrgan.training.prefetch import prefetch
from segsrgan.volumes import Volume, resample

# What random numbers are drawn for: each draw has a generator of its own, so that an epoch can be
# entered anywhere without the draws before.
_ORDER, _IMAGE, _CYCLE = range(3)
# Bytes per voxel of a whole image, at most, while it is read and degraded; a test measures it.
_PREPARING = 40
_LEVELS = 255  # labels that are probabilities are kept in a byte


class Batch(NamedTuple):
    """Patches for one update of a network, or for validation.

    Attributes:
        lr: (b, p, p, p, 1) float32, the interpolated low-resolution image; the thick axis is the
            last of the three, as at inference.
        target: (b, p, p, p, channels) float32, the truth of each head of the network, see
            `segsrgan.networks.outputs`; classes are one-hot.
        resolution: (b,) float32, distance of the slices in mm.
        epsilon: (b,) float32 in [0, 1), where on the line between an output and a target the
            gradient penalty is taken.
    """

    lr: np.ndarray
    target: np.ndarray
    resolution: np.ndarray
    epsilon: np.ndarray

    @classmethod
    def empty(cls, size, patch, channels):
        """A batch whose patches are to be written; resolution and epsilon are 0."""
        shape = (size, *(patch,) * 3)
        lr, target = (np.empty((*shape, n), np.float32) for n in (1, channels))
        return cls(lr, target, *(np.zeros(size, np.float32) for _ in range(2)))


@dataclass(frozen=True)
class Plan:
    """What is needed of an image, in voxels of `Simulation.network_spacing`.

    Attributes:
        extent: the image's `Extent`.
        stored: voxels of the image as it is stored.
        starts: (n, 3) int, the first corners of its patches.
        box: per axis the `(first, last + 1)` of all patches together, within the image.
        region: per axis the `(first, last + 1)` of what the simulation has to see: the box, all
            that is not 0, and a margin. What lies outside is 0, so that nothing is lost.
    """

    extent: Extent
    stored: int
    starts: np.ndarray
    box: tuple
    region: tuple

    @classmethod
    def of(cls, case, simulation, cutting):
        """Plans a `Case` for a `Simulation` and a `Cutting`.

        Raises:
            VolumeError: if a file has to be read and cannot be.
        """
        stored, patch = case.extent(), cutting.patch
        extent = stored.at(simulation.network_spacing(stored.spacing))
        # The first voxels of the image are the first of a slice: so are those of all patches.
        unit = np.where(np.equal(extent.spacing, stored.spacing), 1, simulation.slice_voxels)
        if cutting.method == "bounding_box":
            starts = box_starts(extent.positive, extent.shape, patch, cutting.stride)
        else:
            mask = Volume(case.load_label(MASK), stored.spacing)
            mask = resample(mask, extent.spacing, spline_order=0)
            starts = overlapping_starts(mask.array > 0, patch, cutting.stride)
        voxels = math.prod(stored.shape)
        if not len(starts):
            return cls(extent, voxels, starts, extent.positive, extent.content)
        starts = np.unique(starts - starts % unit, axis=0)
        first, last = starts.min(axis=0), np.minimum(starts.max(axis=0) + patch, extent.shape)
        low, high = np.transpose(extent.content)
        margin = np.array(simulation.margin(extent.spacing))
        low = np.maximum(np.minimum(low, first) - margin, 0)
        low -= low % unit
        high = np.minimum(np.maximum(high, last) + margin, extent.shape)
        return cls(extent, voxels, starts, _pairs(first, last), _pairs(low, high))

    @property
    def box_voxels(self):
        """Voxels of the box."""
        return math.prod(last - first for first, last in self.box)

    def preparing_bytes(self, deformation):
        """Bytes that preparing the image takes at most, with a `Deformation` or None."""
        voxels = max(math.prod(self.extent.shape), self.stored)
        return voxels * _PREPARING + (deformation.memory(voxels) if deformation else 0)

    def read(self, case, columns):
        """The arrays of a case within the region, `{column: array}`, the image as `image`.

        Labels that are probabilities are uint8, in steps of 1 / 255.
        """
        image, labels = at_spacing(*case.load(columns), self.extent.spacing)
        window = tuple(slice(first, last) for first, last in self.region)
        for column, label in labels.items():
            if label.dtype == np.float32:
                labels[column] = np.rint(label * np.float32(_LEVELS)).astype(np.uint8)
        arrays = {"image": image.array, **labels}
        return {part: np.array(array[window], order="C") for part, array in arrays.items()}


class Prepared(NamedTuple):
    """A degraded image, thick axis last. All arrays have one shape (x, y, z).

    Attributes:
        lr, hr: float32.
        labels: `{column: array}`: bool, uint8 in steps of 1 / 255, or uint8 classes of masks.
        starts: (n, 3) int, the first corners of the patches.
        resolution: distance of the slices, mm.
    """

    lr: np.ndarray
    hr: np.ndarray
    labels: dict
    starts: np.ndarray
    resolution: float

    def write_patch(self, index, flips, lr, target, channels):
        """Cuts one patch.

        Args:
            index: of the patch.
            flips: three bool, axes to turn over.
            lr: (p, p, p, 1) float32, written.
            target: (p, p, p, channels) float32, written; what lies beyond the image is 0, and
                class 0.
            channels: see `output_channels`.
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
                for value in range(out.shape[3]):
                    out[..., value] = classes == value
                continue
            cut(label.view(np.uint8), start, flips, out[..., 0])  # bool is cast slowly
            if label.dtype != bool:
                out /= np.float32(_LEVELS)


def degraded(arrays, plan, simulation, deformation, rng, position=None):
    """An image ready to be cut, a `Prepared`.

    Args:
        arrays: as `Plan.read` returns them.
        plan: the image's `Plan`.
        simulation: a `Simulation`.
        deformation: a `Deformation`, or None.
        rng: a `numpy.random.Generator`.
        position: see `Simulation.draw`.
    """
    image = Volume(arrays["image"], plan.extent.spacing)
    labels = {column: array for column, array in arrays.items() if column != "image"}
    if deformation is not None:
        image, labels = deformation.apply(image, labels, rng, CLASSES)
    draw = simulation.draw(image, rng, position)
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
    return Prepared(keep(draw.lr), keep(draw.hr), labels, starts[:, order], draw.resolution)


class Dataset:
    """The patches of the images of a CSV.

    All randomness follows from `seed` and an epoch's number: the same ones give the same batches,
    whatever has been asked for before.

    Args:
        cases: sequence of `Case`, see `read_cases`.
        simulation: a `Simulation`.
        cutting: a `Cutting`. Patches lie where they lie in the image before its deformation.
        batch_size: patches in a batch, of all workers together.
        seed: a whole number from 0 up.
        spec: the generator's `GeneratorSpec`, whose heads are the channels of the target.
        deformation: a `Deformation`, or None.
        images_in_memory: images whose patches are shuffled together, see `memory`.
        cache: a `Cache`, or None.
        shard: `(i, n)`: worker i of n gets the i-th part of each batch of an epoch.

    Raises:
        ValueError: if the batch cannot be divided among the workers, a label is missing, or
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
        *,
        spec=None,
        deformation=None,
        images_in_memory=8,
        cache=None,
        shard=(0, 1),
    ):
        self._cases, self._simulation, self._cutting = list(cases), simulation, cutting
        self._batch_size, self._seed, self._spec = batch_size, seed, spec or GeneratorSpec()
        self._deformation, self._cache, self._shard = deformation, cache, shard
        self._together = images_in_memory
        self._channels = output_channels(self._spec)
        self._columns = [head.target for head in self._channels if head.activation != "image"]
        self._check()
        self._plans = [Plan.of(case, simulation, cutting) for case in self._cases]
        self._check_plans()

    @property
    def patches(self):
        """How many patches the images have together."""
        return sum(len(plan.starts) for plan in self._plans)

    def cycles(self, epoch):
        """How many batches come in turn in an epoch: one for each update of the generator."""
        return sum(len(cycles) for *_, cycles in self._groups(epoch))

    def memory(self):
        """Bytes that an epoch holds at most: an upper bound.

        That is `2 * images_in_memory * voxels * (4 + 4 + labels)` bytes of images, where voxels
        are those of the box that an image's patches lie in; what the preparation of one image
        takes; and two batches, the one in use and the next.
        """
        boxes = sorted((plan.box_voxels for plan in self._plans), reverse=True)
        images = sum(boxes[: 2 * self._together]) * (4 + 4 + len(self._columns))
        preparing = max(plan.preparing_bytes(self._deformation) for plan in self._plans)
        size, channels = self._batch_size // self._shard[1], 1 + channel_count(self._spec)
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
            VolumeError: if an image cannot be read or used; the message names it.
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

        Yields:
            `(epoch, index, members, begin, cycles)`: the group's number, the indices of its
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
        case, plan, simulation = self._cases[index], self._plans[index], self._simulation
        deformation = self._deformation
        if position is not None:
            simulation, deformation = simulation.without_augmentation(), None
        try:
            arrays = self._arrays(case, plan)
            return degraded(arrays, plan, simulation, deformation, rng, position)
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
        return Batch.empty(size, self._cutting.patch, channel_count(self._spec))

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
            raise ValueError("a dataset needs at least one image, received none")
        columns = {*self._columns}
        if self._cutting.method != "bounding_box":
            columns.add(MASK)
        missing = [str(case.image) for case in self._cases if columns - case.labels.keys()]
        if missing:
            raise ValueError(
                f"{', '.join(sorted(columns))} are needed, but not given for {', '.join(missing)}"
            )

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


def _pairs(first, last):
    return tuple((int(a), int(b)) for a, b in zip(first, last, strict=True))
