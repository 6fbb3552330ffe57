# SPDX-License-Identifier: MIT
"""A whole training, from its settings to its snapshots."""

import contextlib
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import keras

from segsrgan.config import to_toml
from segsrgan.errors import UserError
from segsrgan.files import write_text
from segsrgan.training.distribution import distribute, several_workers
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
from supermask.training.dataset import Dataset
from supermask.training.examinations import gather
from supermask.training.learners import build_learners
from supermask.training.loop import Loop
from supermask.training.poses import Augmentation
from supermask.weights import Networks

logger = logging.getLogger(__name__)

_REPEAT = "supermask-train --config THIS_FILE --snapshot_folder …"
# Settings that may differ when a training is resumed, without the result being another.
_FREE = {"stage2_epochs", "resume", "snapshot", "state_minutes", "tensorboard", "multi_gpu"}
_FREE |= {"workers", "worker_index", "snapshot_folder"}
_PATHS = ("csv", "synthetic_cases", "snapshot_folder")


def run(settings, progress=None, stop=None):
    """Trains networks on the files that settings name.

    Args:
        settings: a `TrainingSettings` with data and a snapshot folder.
        progress: called with (label, done, total, text) after each cycle.
        stop: function that says whether to stop after the current cycle, with the state saved.

    Returns:
        The last row of the history, a dict; None if stopped before the end of an epoch.

    Raises:
        UserError: if there are problems with the data, all of them in one message.
        WeightsError: if `weights` are unusable.
        StateError: if the training to resume cannot be gone on with.
        TrainingError: if the training cannot go on.
        ValueError, OSError: if the settings contradict each other or a folder cannot be written.
    """
    return _run(settings, lambda: gather(settings), progress, stop)[0]


def fit(cases, settings, folder, test=(), progress=None, stop=None):
    """Trains networks on examinations in memory.

    Args:
        cases: sequence of `Examination` or of simulated `Case`s: each has `views` with masks, and
            `transforms`, the true ones from the reference to each view, or None.
        settings: a `TrainingSettings`; its data and folder do not count.
        folder: of snapshots, history and states; with `settings.resume` the training goes on.
        test: likewise, to be scored after each epoch; `SuperMask_best` needs them.
        progress: as of `run`.
        stop: as of `run`.

    Returns:
        `Networks`: the segmentor and AlignNet as the training left them, and the last row of the
        history in their `metadata["history"]`. `supermask.predict` takes them as `weights`,
        `supermask.prediction.predict_views` as `networks`, `supermask.weights.save_networks` writes
        them. A training stopped before its end gives them as they were then.

    Raises:
        As `run`.

    Example:
        >>> cases = [simulate(image, mask, rng, Simulation(spacing=3.0)) for ...]
        >>> settings = TrainingSettings(grid_size=48, spacing=3.0, kernel=8, window=7)
        >>> networks = fit(cases[:-2], settings, "run", test=cases[-2:])
        >>> result = supermask.predict(["axial.nii.gz", "sagittal.nii.gz"], weights=networks)
    """
    settings = replace(settings, snapshot_folder=str(folder), csv=None, synthetic_cases=None)
    row, learners = _run(settings, lambda: (list(cases), list(test)), progress, stop)
    return Networks(learners.segmentor, learners.alignnet, {"history": row})


def _run(settings, load, progress, stop):
    """The last row of the history, and the `Learners`."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"training needs KERAS_BACKEND=tensorflow, received {keras.backend.backend()}"
        )
    from supermask.training import step as step_module

    if settings.snapshot_folder is None:
        raise ValueError("--snapshot_folder: required; name the folder of the results")
    several = several_workers(settings.workers)
    with contextlib.ExitStack() as stack:
        stack.enter_context(global_settings_kept())
        stack.enter_context(step_module.translated(several, "--batch_size or --grid_size"))
        step_module.deterministic(several)
        distribution = distribute(
            settings.multi_gpu, settings.workers, settings.worker_index, settings.batch_size
        )
        distribution.check_batch(settings.batch_size)
        if settings.precision == "mixed_float16" and not step_module.has_gpu():
            raise ValueError(
                "--precision mixed_float16 needs a GPU; take mixed_bfloat16, or float32"
            )
        train, test = load()
        records = _prepare_folder(settings, stack) if distribution.chief else None
        loop = _loop(settings, step_module, train, test, distribution)
        loop.stop = stop
        if distribution.chief:
            loop.on_cycle = _reporter(settings, progress)
            loop.records = records
            records.add(*loop.progress.history)
            if loop.progress.epoch > settings.epochs:
                logger.warning("all %d epochs are done already", settings.epochs)
                return loop.progress.history[-1], loop.networks
            text = to_toml(_repeatable(settings), _REPEAT)
            write_text(Path(settings.snapshot_folder) / SETTINGS, text)
        return loop.run(), loop.networks


def _repeatable(settings):
    """The settings that repeat the training from any folder."""
    found = {name: getattr(settings, name) for name in _PATHS}
    if settings.weights and os.path.exists(settings.weights):  # else it is a name
        found["weights"] = settings.weights
    found = {name: os.path.abspath(path) for name, path in found.items() if path}
    return replace(settings, **found, resume=False, workers=None, worker_index=None)


def _prepare_folder(settings, stack):
    """Makes and claims the folder; returns the `Records`, which `stack` closes."""
    folder = Path(settings.snapshot_folder)
    make_folders(folder)
    claim(folder, stack)
    records = Records(folder, tensorboard=settings.tensorboard)
    stack.callback(records.close)
    epochs = range(1, settings.epochs + 1)
    hint = "start from them with --weights"
    if check_free(folder, Loop.name, epochs, records, settings.resume, hint):
        compare(_repeatable(settings), folder / SETTINGS, _FREE)
    return records


def _loop(settings, step_module, train, test, distribution):
    """The `Loop`, from its beginning or from where it was stopped."""
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)
    folder, state = Path(settings.snapshot_folder), None
    if settings.resume and has_state(folder):
        state = newest_state(folder)
    elif settings.resume:
        logger.info("%s: no state to resume from, the training starts at its beginning", folder)
    data, scored = _data(settings, train, test, distribution)
    with distribution.scope():
        learners = build_learners(settings, data.cycles(1), state)
        if state is not None:
            state.restore(learners)
    return Loop(
        learners,
        step_module.Step(learners, distribution),
        data,
        scored,
        folder,
        settings.epochs,
        state.progress if state is not None else Progress(),
        snapshot=settings.snapshot,
        metadata={"training": asdict(settings)},
        distribution=distribution,
        state_minutes=settings.state_minutes,
        stage1_epochs=settings.stage1_epochs,
        spacing=settings.spacing,
    )


def _data(settings, train, test, distribution):
    augmentation = Augmentation(
        settings.grid_size,
        settings.spacing,
        settings.through,
        settings.rotation,
        settings.largest_motion,
        settings.contrast_max,
        settings.noise,
        settings.pose,
    )
    shard = (distribution.index, distribution.workers)
    data = Dataset(
        train,
        augmentation,
        settings.batch_size,
        settings.seed,
        settings.steps,
        shard,
        settings.orientations,
    )
    if settings.trains_alignnet and not data.pairs:
        raise UserError(
            "AlignNet needs patients with two views at least, received none; add --train "
            "segmentor --stage2_epochs 0 to do without it"
        )
    # One device validates.
    share = settings.batch_size // distribution.replicas
    scored = Dataset(test, augmentation, share, settings.seed) if test else None
    logger.info(
        "%d training and %d test patients with %d and %d views; %d cycles in an epoch",
        len(train),
        len(test),
        len(data.singles),
        len(scored.singles) if scored else 0,
        data.cycles(1),
    )
    _warn(settings, train)
    return data, scored


def _warn(settings, train):
    """Points out settings that are allowed, but hardly meant."""
    if settings.trains_alignnet and settings.rotation > settings.largest_angle:
        logger.warning(
            "--rotation %g is beyond the angles that AlignNet can answer, --largest_angle %g",
            settings.rotation,
            settings.largest_angle,
        )
    unknown = sum(item.transforms is None for item in train)
    if settings.trains_alignnet and settings.supervised_alignment == "transforms" and unknown:
        logger.warning(
            "the true transforms of %d of %d training patients are not known; AlignNet learns "
            "nothing from their transforms",
            unknown,
            len(train),
        )
    if not settings.stage1_epochs and not settings.weights:
        logger.warning("stage 2 begins with untrained networks; name --weights or --stage1_epochs")


def _reporter(settings, progress):
    """A function for `Loop.on_cycle` that shows epoch, cycle and losses."""
    if progress is None:
        return None

    def report(epoch, done, total, losses):
        names = (("S", "segmentor_loss"), ("A", "alignnet_loss"))
        texts = [f"{letter} {losses[name]:.4g}" for letter, name in names if name in losses]
        progress(f"epoch {epoch}/{settings.epochs}", done, total, ", ".join(texts))

    return report
