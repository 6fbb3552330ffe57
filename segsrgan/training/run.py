# SPDX-License-Identifier: MIT
"""A whole training, from its settings to its snapshots."""

import contextlib
import importlib
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np

from segsrgan.config import to_toml, whole_numbers
from segsrgan.errors import TableError
from segsrgan.files import write_text
from segsrgan.training.augmentation import Deformation
from segsrgan.training.beginning import build_networks
from segsrgan.training.cache import Cache
from segsrgan.training.cases import read_cases
from segsrgan.training.configuration import REPEAT
from segsrgan.training.dataset import Cutting, Dataset, Simulation
from segsrgan.training.distribution import distribute, several_workers
from segsrgan.training.loop import Loop
from segsrgan.training.place import (
    SETTINGS,
    check_free,
    claim,
    compare,
    global_settings_kept,
    make_folders,
)
from segsrgan.training.records import Records
from segsrgan.training.state import Progress, has_state, newest_state
from segsrgan.training.synthetic.maps import read_maps
from segsrgan.training.synthetic.mixing import mixed

logger = logging.getLogger(__name__)

# Settings that may differ when a training is resumed, without the result being another.
_FREE = {"epoch", "resume", "snapshot", "state_minutes", "tensorboard", "multi_gpu", "workers"}
_FREE |= {
    "worker_index",
    "snapshot_folder",
    "folder_training_data",
    "keep_training_data",
    "dice_file",
    "mse_file",
}


def run(settings, progress=None, stop=None):
    """Trains networks as the settings say.

    Args:
        settings: a `Settings`.
        progress: called with (label, done, total, text) after each cycle.
        stop: function that says whether to stop after the current cycle, with the state saved.

    Returns:
        The last row of the history, a dict; None if stopped before the end of an epoch.

    Raises:
        TableError: if a CSV has problems, all of them in one message.
        WeightsError: if `weights` are unusable.
        StateError: if the training to resume cannot be gone on with.
        TrainingError: if the training cannot go on.
        ValueError, OSError: if the settings contradict each other or a folder cannot be written.
    """
    step_module = importlib.import_module(f"segsrgan.training.step_{keras.backend.backend()}")
    several = several_workers(settings.workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(global_settings_kept())
        stack.enter_context(step_module.translated(several))
        step_module.deterministic(several)
        distribution = distribute(
            settings.multi_gpu, settings.workers, settings.worker_index, settings.batch_size
        )
        distribution.check_batch(settings.batch_size)
        table, maps = _tables(settings)
        records = None
        if distribution.chief:
            records = _prepare_folders(settings, stack)
        cache = None
        if settings.folder_training_data is not None:
            cache = Cache(settings.folder_training_data, settings.keep_training_data)
            stack.enter_context(cache)
        loop = _loop(settings, step_module, table, maps, distribution, cache)
        loop.stop = stop
        if distribution.chief:
            loop.on_cycle = _reporter(settings, progress)
            loop.records = records
            records.add(*loop.progress.history)
            if loop.progress.epoch > settings.epoch:
                logger.warning("all epochs up to --epoch %d are done already", settings.epoch)
                return loop.progress.history[-1]
            text = to_toml(_repeatable(settings), REPEAT)
            write_text(Path(settings.snapshot_folder) / SETTINGS, text)
        return loop.run()


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
        )
    except TableError as error:
        problems.append(str(error))
    if settings.synthetic is not None:
        cortex = whole_numbers(settings.cortex_labels, "--cortex_labels", low=1)
        try:
            maps = read_maps(settings.synthetic, settings.base_path, cortex, settings.tissues)
        except TableError as error:
            problems.append(str(error))
    if problems:
        raise TableError("\n".join(problems))
    return table, maps


def _repeatable(settings):
    """The settings that repeat the training from any folder."""
    paths = ("csv", "base_path", "snapshot_folder", "dice_file", "mse_file", "folder_training_data")
    found = {name: getattr(settings, name) for name in (*paths, "synthetic")}
    if settings.weights and os.path.exists(settings.weights):  # else it is a name
        found["weights"] = settings.weights
    found = {name: os.path.abspath(path) for name, path in found.items() if path}
    return replace(settings, **found, resume=False, workers=None, worker_index=None)


def _loop(settings, step_module, table, maps, distribution, cache):
    """The `Loop`, from its beginning or from where it was stopped."""
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)
    folder, state = Path(settings.snapshot_folder), None
    if settings.resume and has_state(folder):
        state = newest_state(folder)
    elif settings.resume:
        logger.info("%s: no state to resume from, the training starts at its beginning", folder)
    with distribution.scope():
        gan = build_networks(settings, table.classes, state)
        if state is not None:
            state.restore(gan)
    # What its weights were trained with, if nothing was said.
    spec = gan.generator.spec
    train, test = _data(settings, spec, table, maps, distribution, cache)
    return Loop(
        gan,
        step_module.Step(gan, distribution),
        train,
        test,
        folder,
        settings.epoch,
        state.progress if state is not None else Progress(settings.init_epoch),
        discriminator_updates=settings.number_of_discriminator_iteration,
        snapshot=settings.snapshot,
        metadata={"training": asdict(settings)},
        distribution=distribution,
        state_minutes=settings.state_minutes,
    )


def _data(settings, spec, table, maps, distribution, cache):
    """The patches of the training and of the test images."""
    simulation = Simulation(
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
    deformation = None
    if settings.rotation or settings.elastic:
        deformation = Deformation(settings.rotation, settings.elastic)
    options = {
        "seed": settings.seed,
        "spec": spec,
        "images_in_memory": settings.images_in_memory,
        "cache": cache,
    }
    shard, train = (distribution.index, distribution.workers), None
    if settings.synthetic_ratio != 1:
        train = Dataset(
            table.train,
            simulation,
            cutting,
            settings.batch_size,
            deformation=deformation,
            shard=shard,
            **options,
        )
    if maps:
        cases = table.train if train is not None else table.test
        train = mixed(settings, spec, maps, train, cases, shard)
    # One device validates.
    share = settings.batch_size // distribution.replicas
    test = Dataset(table.test, simulation, cutting, share, **options)
    logger.info(
        "%d training and %d test images with %d and %d patches; up to %.0f MB in memory",
        len(table.train) if settings.synthetic_ratio != 1 else 0,
        len(table.test),
        train.patches,
        test.patches,
        train.memory() / 1e6,
    )
    _warn(settings, table)
    return train, test


def _warn(settings, table):
    """Points out images and settings that are allowed, but hardly meant."""
    cases = table.train + table.test
    largest = np.array(settings.low_res_upper)
    fine = [case for case in cases if not (largest > 1.01 * np.array(case.known.spacing)).any()]
    if fine:
        logger.warning(
            "%d of %d images have voxels as large as --new_low_res along every axis and will not "
            "be degraded, %s for one: expected high-resolution images",
            len(fine),
            len(cases),
            fine[0].image,
        )
    small = [case for case in cases if min(case.known.shape) < settings.patch_size]
    if small:
        logger.warning(
            "%d of %d images are smaller than --patch_size %d and are filled up with zeros, %s for "
            "one",
            len(small),
            len(cases),
            settings.patch_size,
            small[0].image,
        )
    if settings.synthetic_ratio == 1 and table.train:
        logger.warning(
            "--synthetic_ratio 1: the %d images of Train are not used; choose a smaller ratio to "
            "train on them, too",
            len(table.train),
        )
    if settings.stride > settings.patch_size:
        logger.warning("--stride is larger than --patch_size: voxels between patches are not seen")


def _prepare_folders(settings, stack):
    """Makes and claims the folders, and refuses to replace what an earlier training left.

    Returns:
        The `Records`; `stack` closes them.
    """
    folder = Path(settings.snapshot_folder)
    files = {"--dice_file": Path(settings.dice_file), "--mse_file": Path(settings.mse_file)}
    for flag, path in files.items():
        if path.exists() and not path.is_file():
            raise ValueError(f"{flag} {path}: is there and is no ordinary file; name another")
    make_folders(folder, *(path.parent for path in files.values()))
    claim(folder, stack)
    records = Records(folder, settings.dice_file, settings.mse_file, settings.tensorboard)
    stack.callback(records.close)
    epochs = range(settings.init_epoch, settings.epoch + 1)
    hint = "go on with --weights and --init_epoch"
    if check_free(folder, Loop.name, epochs, records, settings.resume, hint):
        compare(_repeatable(settings), folder / SETTINGS, _FREE)
    return records


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
