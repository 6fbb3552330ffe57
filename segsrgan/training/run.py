# SPDX-License-Identifier: MIT
"""A whole training, from its settings to its snapshots."""

import contextlib
import importlib
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import keras

from segsrgan.atomic import write_text
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    WeightsError,
    build_discriminator,
    build_generator,
    load_discriminator,
    load_generator,
)
from segsrgan.training.augment import Deformation
from segsrgan.training.cache import Cache
from segsrgan.training.configuration import from_toml, to_toml
from segsrgan.training.dataset import Cutting, Dataset, Simulation
from segsrgan.training.distribution import distribute
from segsrgan.training.gan import RECONSTRUCTION, Gan, Objective, matching
from segsrgan.training.loop import Loop, snapshot_path
from segsrgan.training.records import Records
from segsrgan.training.state import Progress, has_state, load_state
from segsrgan.training.table import read_table

logger = logging.getLogger(__name__)

# Settings that may differ when a training is resumed, without the result being another.
_FREE = {"epoch", "resume", "snapshot", "state_minutes", "tensorboard", "multi_gpu", "workers"}
_FREE |= {"worker_index", "folder_training_data", "keep_training_data", "dice_file", "mse_file"}


def run(settings, progress=None, stop=None):
    """Trains networks as the settings say.

    Args:
        settings: a `Settings`.
        progress: called with (label, done, total, text) after each cycle.
        stop: function that says whether to stop after the current cycle, with the state saved.

    Returns:
        The last row of the history, a dict; None if stopped before the end of an epoch.

    Raises:
        TableError: if the CSV has problems, all of them in one message.
        WeightsError: if `weights` are unusable.
        StateError: if the training to resume cannot be gone on with.
        TrainingError: if the training cannot go on.
        ValueError, OSError: if the settings contradict each other or a folder cannot be written.
    """
    distribution = distribute(settings.multi_gpu, settings.workers, settings.worker_index)
    distribution.check_batch(settings.batch_size)
    table = read_table(
        settings.csv,
        settings.base_path,
        fit_mask=settings.fit_mask,
        crop_to_mask=settings.image_cropping_method == "overlapping_with_mask",
    )
    with contextlib.ExitStack() as stack:
        records = None
        if distribution.chief:
            _prepare_folders(settings)
            records = Records(
                settings.snapshot_folder,
                settings.dice_file,
                settings.mse_file,
                settings.tensorboard,
            )
            stack.callback(records.close)
        cache = None
        if settings.folder_training_data is not None:
            cache = Cache(settings.folder_training_data, settings.keep_training_data)
            stack.enter_context(cache)
        train, test = _data(settings, table, distribution, cache)
        loop = _loop(settings, table.classes, distribution, train, test)
        loop.stop = stop
        if distribution.chief:
            loop.on_cycle = _reporter(settings, progress)
            loop.records = records
            repeatable = replace(settings, resume=False, workers=None, worker_index=None)
            write_text(Path(settings.snapshot_folder) / "settings.toml", to_toml(repeatable))
            records.add(*loop.progress.history)
        return loop.run()


def _loop(settings, classes, distribution, train, test):
    """The `Loop`, from its beginning or from where it was stopped."""
    step_module = importlib.import_module(f"segsrgan.training.step_{keras.backend.backend()}")
    step_module.deterministic()
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)
    folder = Path(settings.snapshot_folder)
    resuming = settings.resume and has_state(folder)
    if settings.resume and not resuming:
        logger.info("%s: no state to resume from, the training starts at its beginning", folder)
    with distribution.scope():
        gan = _networks(settings, classes, resuming)
        progress = load_state(folder, gan) if resuming else Progress(settings.init_epoch)
    return Loop(
        gan,
        step_module.Step(gan, distribution),
        train,
        test,
        folder,
        settings.epoch,
        progress,
        discriminator_updates=settings.number_of_discriminator_iteration,
        snapshot=settings.snapshot,
        metadata={"training": asdict(settings)},
        writes=distribution.chief,
        state_minutes=settings.state_minutes,
    )


def _data(settings, table, distribution, cache):
    """The patches of the training and of the test images."""
    simulation = Simulation(
        settings.low_res,
        settings.low_res_upper,
        settings.contrast_max,
        settings.percent_val_max,
        settings.interp,
        settings.interpolation_type,
        settings.slice_thickness,
    )
    cutting = Cutting(
        settings.patch_size, settings.stride, settings.image_cropping_method, settings.flip
    )
    deformation = None
    if settings.rotation or settings.elastic:
        deformation = Deformation(settings.rotation, settings.elastic)
    options = {
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "mask_classes": table.classes,
        "images_in_memory": settings.images_in_memory,
        "cache": cache,
    }
    train = Dataset(
        table.train,
        simulation,
        cutting,
        deformation=deformation,
        shard=(distribution.index, distribution.workers),
        **options,
    )
    test = Dataset(table.test, simulation, cutting, **options)
    logger.info(
        "%d images, %d patches an epoch, %d test patches; images and a batch take up to %.1f GB",
        len(table.train),
        train.patches,
        test.patches,
        train.memory() / 1e9,
    )
    return train, test


def _prepare_folders(settings):
    """Makes the folders, and refuses to replace what an earlier training left."""
    folder = Path(settings.snapshot_folder)
    for place in (folder, Path(settings.dice_file).parent, Path(settings.mse_file).parent):
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{place}: cannot be written; choose another folder")
    if settings.resume:
        _compare(settings, folder / "settings.toml")
        return
    if has_state(folder) and settings.init_epoch == 1:
        raise ValueError(
            f"{folder}: holds the state of a training; go on with --resume, or choose another "
            "--snapshot_folder"
        )
    for epoch in range(settings.init_epoch, settings.epoch + 1):
        path = snapshot_path(folder, epoch)
        if path.exists():
            raise ValueError(
                f"{path}: exists already and would be replaced; choose another "
                "--snapshot_folder, or go on with --resume"
            )


def _compare(settings, path):
    """Warns about settings that are not those of the training that is resumed."""
    if not path.is_file():
        return
    now = {key: value for key, value in asdict(settings).items() if value is not None}
    before = from_toml(path)
    for key in sorted((now.keys() | before.keys()) - _FREE):
        if now.get(key) != before.get(key):
            logger.warning(
                "resuming with %s %s, which was %s: the training will not be the same",
                f"--{key}",
                now.get(key),
                before.get(key),
            )


def _networks(settings, classes, resuming):
    """The networks, from scratch or from weights, and their optimisers."""
    objective = Objective(
        settings.lambrec,
        settings.lambadv,
        settings.lambgp,
        RECONSTRUCTION[settings.reconstruction_loss],
    )
    weights = None if resuming else _weights(settings)
    generator = _generator(settings, weights, classes)
    discriminator = None
    if settings.lambadv:
        discriminator = _discriminator(settings, weights, generator.spec)
    return Gan(
        generator,
        discriminator,
        objective,
        settings.lrgen,
        settings.lrdis,
        loss_scaling=settings.precision == "mixed_float16",
    )


def _weights(settings):
    """The weights file to start from, or None."""
    if settings.weights is not None or settings.init_epoch == 1:
        return settings.weights
    path = snapshot_path(settings.snapshot_folder, settings.init_epoch - 1)
    if not path.is_file():
        raise ValueError(
            f"--init_epoch {settings.init_epoch} needs --weights, or the snapshot {path}"
        )
    return path


def _generator(settings, weights, classes):
    shape = (settings.patch_size,) * 3
    wished = {
        "kernel": settings.kernel_gen,
        "unet": settings.u_net_generator,
        "conditional": settings.is_conditional,
        "residual": settings.is_residual,
        "scaled": settings.scaled_residual,
    }
    wished = {field: value for field, value in wished.items() if value is not None}
    if weights is None:
        return build_generator(GeneratorSpec(**wished, mask_classes=classes), shape)
    generator = load_generator(weights, patch=shape)
    for field, value in {**wished, "mask_classes": classes}.items():
        if getattr(generator.spec, field) != value:
            raise ValueError(
                f"{weights}: its generator has {field} {getattr(generator.spec, field)}, the "
                f"flags and images say {value}; leave the flag out, or start without --weights"
            )
    return generator


def _discriminator(settings, weights, spec):
    wished = matching(spec, settings.patch_size, settings.kernel_dis or DiscriminatorSpec.kernel)
    if wished.depth != 5:
        logger.info(
            "patches of %d^3: the discriminator has %d levels instead of 5, so that its answer "
            "is still one number",
            settings.patch_size,
            wished.depth,
        )
    if weights is not None:
        try:
            discriminator = load_discriminator(weights)
        except WeightsError as error:
            logger.info("a new discriminator is trained: %s", error)
            return build_discriminator(wished)
        if settings.kernel_dis is None:
            wished = replace(wished, kernel=discriminator.spec.kernel)
        if discriminator.spec == wished:
            return discriminator
        logger.info("%s: its discriminator does not fit %s; a new one is trained", weights, wished)
    return build_discriminator(wished)


def _reporter(settings, progress):
    """A function for `Loop.on_cycle` that shows epoch, cycle and losses."""
    if progress is None:
        return None

    def report(epoch, done, total, losses):
        texts = [
            f"{letter} {losses[name]:.4g}"
            for letter, name in (("G", "generator_loss"), ("D", "discriminator_loss"))
            if name in losses
        ]
        progress(f"epoch {epoch}/{settings.epoch}", done, total, ", ".join(texts))

    return report
