# SPDX-License-Identifier: MIT
"""A whole training of SegSRGAN, from its settings to its snapshots."""

import importlib
import logging
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import keras
import numpy as np

from segsrgan.errors import TableError, UserError
from segsrgan.networks import save_generator
from segsrgan.training.augmentation import Deformation
from segsrgan.training.cache import Cache
from segsrgan.training.cases import read_cases
from segsrgan.training.checkpoints import snapshot_of
from segsrgan.training.dataset import Dataset
from segsrgan.training.degradation import Degradation
from segsrgan.training.gan import Gan, build_networks
from segsrgan.training.label_maps import read_maps
from segsrgan.training.mixing import mixed
from segsrgan.training.optimizers import learning_rate
from segsrgan.training.patches import Cutting, plans_of
from segsrgan.training.session import EpochLoop, Session
from segsrgan.training.validation import patch_picture, validate

logger = logging.getLogger(__name__)

# Epochs after which a segmentation that is still empty is reported, and again as many later.
_PATIENCE = 10
_COLLAPSED = 0.01
_FEWEST = 3  # slices of a low-resolution image


def run(settings, progress=None, stop=None):
    """Trains networks as the settings say.

    Args:
        settings: a `TrainingSettings`.
        progress: called with (label, done, total, text) after each cycle.
        stop: function that says whether to stop after the current cycle, with the state saved.

    Returns:
        The last row of the history, a dict; None if stopped before the end of an epoch.

    Raises:
        TableError: if a CSV has problems, all of them in one message.
        WeightsError: if `weights` are unusable.
        StateError: if the training to resume cannot be gone on with.
        TrainingError: if the training cannot go on.
        UserError, OSError: if the settings contradict each other or a folder cannot be written.
    """
    return _Training(settings).run(progress, stop)[0]


@dataclass
class Loop(EpochLoop):
    """The loop of a `Gan` and a `Step` of it over the streams of a `Dataset`.

    Attributes:
        discriminator_updates: per update of the generator.
    """

    name = "SegSRGAN"
    rates = "--lrgen and --lrdis"

    discriminator_updates: int = 5

    def updates(self, epoch):
        """See `EpochLoop`."""
        return ("discriminator",) * self._discriminator_updates() + ("generator",)

    def batches(self, epochs):
        """See `EpochLoop`."""
        return self.data.stream(epochs, self._discriminator_updates(), self.progress.cycle)

    def scores(self):
        """See `validate`."""
        gan, patches = self.networks, self.test.all_patches()
        return validate(
            self.step.predict, patches, gan.channels, gan.reconstruction_loss, self.test.patches
        )

    def averaged(self):
        """See `EpochLoop`."""
        return self.networks.averaged()

    def save_weights(self, path, notes):
        """Writes generator and discriminator."""
        save_generator(self.networks.generator, path, self.networks.discriminator, **notes)

    def drawing(self):
        """A patch with much of the label."""
        batch = next(iter(self.test.all_patches()))
        label = batch.target[..., 1:].sum(axis=(1, 2, 3, 4))
        index = int(np.argmax(label))
        output = self.step.predict(batch)[index]
        return patch_picture(batch.lr[index], output, batch.target[index], self.networks.channels)

    def report(self, row):
        """One line; a warning where the segmentation stays empty."""
        keys = ("epoch", "generator_loss", "dice", "psnr", "psnr_input", "seconds")
        text = "epoch %d: loss %.4f, Dice %.3f, PSNR %.2f dB (input %.2f), %.0f s, waiting %.0f %%"
        logger.info(text, *(row[key] for key in keys), 100 * row["waiting"])
        recent = [past["dice"] for past in self.progress.history[-_PATIENCE:]]
        if row["epoch"] % _PATIENCE == 0 and len(recent) == _PATIENCE and max(recent) < _COLLAPSED:
            logger.warning(
                "epoch %d: the segmentation has been empty for %d epochs (Dice %.3f): look whether "
                "the labels lie on the images (epoch_<n>.png), try --reconstruction_loss dice, a "
                "larger --lambrec or --lrgen",
                row["epoch"],
                _PATIENCE,
                row["dice"],
            )

    def _discriminator_updates(self):
        return self.discriminator_updates if self.networks.discriminator else 0


class FixedEpochs:
    """A data set in epochs of a given number of cycles, which follow each other in its own epochs.

    ```
    data's epochs    | a b c d e | f g h i j | k ...
    steps = 3        | a b c | d e f | g h i | j ...
    ```

    Args:
        data: a `Dataset` or `MixedDataset`.
        steps: cycles in an epoch.
    """

    def __init__(self, data, steps):
        self._data, self._steps = data, steps
        self.patches, self.memory = data.patches, data.memory

    def cycles(self, epoch):
        """How many batches come in turn in an epoch."""
        return self._steps

    def stream(self, epochs, discriminator_batches, first_cycle=0):
        """The batches of epochs, see `Dataset.stream`."""
        skipped, first = (epochs[0] - 1) * self._steps + first_cycle, 1
        while skipped >= self._data.cycles(first):
            skipped, first = skipped - self._data.cycles(first), first + 1
        cycles, last = len(epochs) * self._steps - first_cycle, first
        found = self._data.cycles(first) - skipped
        while found < cycles:
            last += 1
            found += self._data.cycles(last)
        data_epochs = range(first, last + 1)
        with closing(self._data.stream(data_epochs, discriminator_batches, skipped)) as batches:
            yield from islice(batches, cycles * (discriminator_batches + 1))


class _Training(Session):
    """See `run`."""

    name = Loop.name
    repeat = "segsrgan train --config THIS_FILE --snapshot_folder … --dice_file … --mse_file …"
    paths = (
        *("csv", "base_path", "snapshot_folder", "dice_file", "mse_file", "folder_training_data"),
        "synthetic",
    )
    shown = (("G", "generator_loss"), ("D", "discriminator_loss"))
    smaller = "--batch_size or --patch_size"
    start_hint = "go on with --weights and --init_epoch"

    @property
    def free(self):
        """See `Session`."""
        free = {"folder_training_data", "keep_training_data", "dice_file", "mse_file"}
        # The last epoch is where a rate that falls ends.
        return free | {"epoch"} if self.settings.schedule == "constant" else free

    @property
    def epochs(self):
        """See `Session`."""
        return range(self.settings.init_epoch, self.settings.epoch + 1)

    def tables(self):
        """See `Session`."""
        return {"Dice": self.settings.dice_file, "MSE": self.settings.mse_file}

    def load(self):
        """See `Session`."""
        self._table, self._maps = _tables(self.settings)

    def loop(self, distribution, state, stack):
        """See `Session`."""
        settings, cache = self.settings, None
        if settings.folder_training_data is not None:
            cache = Cache(settings.folder_training_data, settings.keep_training_data)
            stack.enter_context(cache)
        step = importlib.import_module(f"segsrgan.training.step_{keras.backend.backend()}")
        with distribution.scope():
            weights = None if state is not None else self._weights()
            models = build_networks(settings, weights, self._table.classes, state)
        data, test = self._data(models[0].spec, distribution, cache)
        with distribution.scope():
            gan = Gan(*models, settings, self._rates(data))
        loop = Loop(gan, step.Step(gan, distribution), data, test)
        loop.discriminator_updates = settings.number_of_discriminator_iteration
        return loop

    def _weights(self):
        """The weights to start from, or None."""
        settings = self.settings
        if settings.weights is not None or settings.init_epoch == 1:
            return settings.weights
        path = snapshot_of(self.folder, self.name, settings.init_epoch - 1)
        if not path.is_file():
            raise UserError(
                f"--init_epoch {settings.init_epoch} needs --weights, or the snapshot {path}"
            )
        return path

    def _rates(self, data):
        """The learning rates of generator and discriminator."""
        s, each = self.settings, self.settings.number_of_discriminator_iteration
        updates = sum(map(data.cycles, self.epochs)) if s.schedule != "constant" else 0
        return (
            learning_rate(s.lrgen, updates, s.schedule, s.warm_up),
            learning_rate(s.lrdis, each * updates, s.schedule, each * s.warm_up),
        )

    def _data(self, spec, distribution, cache):
        """The patches of the training and of the test images."""
        settings, table = self.settings, self._table
        degradation = Degradation(
            settings.low_res,
            settings.low_res_upper,
            settings.contrast_max,
            settings.percent_val_max,
            spec.interp,
            settings.interpolation_type,
            settings.slice_thickness,
            spec.slice_voxels,
        )
        cutting = Cutting(
            settings.patch_size, settings.stride, settings.image_cropping_method, settings.flip
        )
        options = {
            "seed": settings.seed,
            "spec": spec,
            "images_in_memory": settings.images_in_memory,
            "cache": cache,
        }
        # One device validates.
        part = settings.batch_size // distribution.replicas
        test = Dataset(table.test, degradation, cutting, part, **options)
        shard = (distribution.index, distribution.workers)
        train = patches = None
        if settings.synthetic_ratio == 1:
            cases = table.test
        elif settings.image_patches == "drawn":
            cases = table.train
            patches = sum(len(plan.starts) for plan in plans_of(cases, degradation, cutting))
        else:
            cases = table.train
            options |= {
                "deformation": Deformation(settings.rotation, settings.elastic),
                "shard": shard,
            }
            train = Dataset(cases, degradation, cutting, settings.batch_size, **options)
        if settings.draws:
            source = {"real": train, "patches": patches, "shard": shard}
            train = mixed(settings, spec, self._maps, cases, **source)
        logger.info(
            "%d training and %d test images with %d and %d patches; up to %.0f MB in memory",
            len(table.train) if settings.synthetic_ratio != 1 else 0,
            len(table.test),
            train.patches,
            test.patches,
            train.memory() / 1e6,
        )
        _warn(settings, table)
        return (train if settings.steps is None else FixedEpochs(train, settings.steps)), test


def _tables(settings):
    """The `Cases` and the list of label maps; the problems of both in one message."""
    table, maps, problems = None, [], []
    try:
        table = read_cases(
            settings.csv,
            settings.base_path,
            fit_mask=settings.fit_mask,
            crop_to_mask=settings.image_cropping_method == "overlapping_with_mask",
            test_alone=settings.synthetic_ratio == 1,
            label_values=settings.label_values or (),
            unlabelled=settings.image_patches == "drawn" and not settings.lambadv,
        )
    except TableError as error:
        problems.append(str(error))
    if settings.synthetic is not None:
        given = settings.synthetic, settings.base_path, settings.cortex_labels, settings.tissues
        try:
            maps = read_maps(*given)
        except TableError as error:
            problems.append(str(error))
    if problems:
        raise TableError("\n".join(problems))
    return table, maps


def _warn(settings, table):
    """Points out images and settings that are allowed, but hardly meant."""
    cases = table.train + table.test
    largest = np.array(settings.low_res_upper)
    fine = [case for case in cases if not (largest > 1.01 * np.array(case.extent.spacing)).any()]
    small = [case for case in cases if min(case.extent.shape) < settings.patch_size]
    extents = [np.multiply(case.extent.shape, case.extent.spacing) for case in cases]
    thin = [c for c, mm in zip(cases, extents, strict=True) if (mm < _FEWEST * largest).any()]
    for found, text in (
        (
            fine,
            "have voxels as large as --new_low_res along every axis and will not be degraded, %s "
            "for one: expected high-resolution images",
        ),
        (
            thin,
            f"have fewer than {_FEWEST} slices at --new_low_res, which is in mm, %s for one",
        ),
        (
            small,
            f"are smaller than --patch_size {settings.patch_size} and are filled up with zeros, "
            "%s for one",
        ),
    ):
        if found:
            logger.warning("%d of %d images " + text, len(found), len(cases), found[0].image)
    if settings.synthetic_ratio == 1 and table.train:
        logger.warning(
            "--synthetic_ratio 1: the %d images of Train are not used; choose a smaller ratio to "
            "train on them, too",
            len(table.train),
        )
    if (settings.rotation or settings.elastic) and (
        settings.synthetic_ratio == 1 or settings.image_patches == "drawn"
    ):
        logger.warning("--rotation and --elastic are of no effect: every patch is drawn")
    if settings.stride > settings.patch_size:
        logger.warning("--stride is larger than --patch_size: voxels between patches are not seen")
