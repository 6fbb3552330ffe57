# SPDX-License-Identifier: MIT
"""A training from its settings to its last epoch, whatever is trained: folders, devices, state."""

import contextlib
import importlib
import logging
import os
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import keras

from segsrgan.config import to_toml
from segsrgan.errors import UserError
from segsrgan.files import write_text
from segsrgan.training.checkpoints import (
    SETTINGS,
    Progress,
    check_free,
    claim,
    compare,
    has_state,
    is_finished,
    make_folders,
    newest_state,
)
from segsrgan.training.distribution import Distribution, distribute, several_workers, this_worker
from segsrgan.training.history import History

logger = logging.getLogger(__name__)

# Settings that may differ when a training is resumed, without the result being another.
_FREE = {"resume", "snapshot", "state_minutes", "tensorboard", "multi_gpu", "workers"}
_FREE |= {"worker_index", "snapshot_folder"}


class Session(ABC):
    """A training as its settings say.

    Args:
        settings: a settings object with `snapshot_folder`, `resume`, `seed`, `precision`,
            `batch_size`, `snapshot`, `state_minutes`, `tensorboard`, `multi_gpu`, `workers`,
            `worker_index` and `weights`.

    Attributes:
        name: of the snapshots.
        repeat: the command that repeats a training, told in its settings file.
        paths: settings that are paths, which that file holds whole.
        free: further settings that may differ when a training is resumed.
        shown: `(letter, loss)` of the losses that a progress bar shows.
        smaller: the flags that save memory.
        start_hint: how to start where there are snapshots, but no state.
    """

    name: ClassVar[str]
    repeat: ClassVar[str]
    paths: ClassVar[tuple]
    free: ClassVar[frozenset]
    shown: ClassVar[tuple]
    smaller: ClassVar[str]
    start_hint: ClassVar[str]

    def __init__(self, settings):
        self.settings = settings

    @property
    @abstractmethod
    def epochs(self):
        """The range of the epochs."""

    @abstractmethod
    def load(self):
        """Reads and checks the data, before anything is written."""

    @abstractmethod
    def loop(self, distribution, state, stack):
        """The `EpochLoop` of networks that are new, or as a state says.

        Args:
            distribution: a `Distribution`.
            state: the `State` to go on from, or None.
            stack: an `ExitStack` that is closed at the end of the training.
        """

    def tables(self):
        """Further files that the history is written to, `{flag: path}`."""
        return {}

    def history(self):
        """The `History` of the training."""
        return History(self.folder, tensorboard=self.settings.tensorboard)

    @property
    def folder(self):
        """The `Path` of snapshots, states and history."""
        return Path(self.settings.snapshot_folder)

    def run(self, progress=None, stop=None):
        """Trains.

        Args:
            progress: called with (label, done, total, text) after each cycle.
            stop: function that says whether to stop after the current cycle, with the state saved.

        Returns:
            `(row, networks)`: the last row of the history, a dict, None if stopped before the end
            of an epoch; and what was trained, None in a worker that had nothing left to do.

        Raises:
            StateError: if the training to resume cannot be gone on with.
            TrainingError: if the training cannot go on.
            UserError, OSError: if the data have problems, the settings contradict each other, or a
                folder cannot be written.
        """
        settings = self.settings
        several = several_workers(settings.workers)
        finished = several and settings.resume and is_finished(self.folder, self.epochs[-1])
        if finished:
            # The others might have ended already; nobody may wait for them.
            several = False
            if this_worker(settings.workers, settings.worker_index)[1]:
                logger.info("all epochs up to %d are done already", self.epochs[-1])
                return newest_state(self.folder).progress.history[-1], None
        step = importlib.import_module(f"segsrgan.training.step_{keras.backend.backend()}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_global_settings_kept())
            stack.enter_context(step.translated(several, self.smaller))
            step.deterministic(several)
            return self._run(self._distribution(finished), progress, stop, stack)

    def _run(self, distribution, progress, stop, stack):
        distribution.check_batch(self.settings.batch_size)
        self.load()
        history = self._prepare_folder(stack) if distribution.chief else None
        loop = self._loop(distribution, stack)
        loop.stop = stop
        if distribution.chief:
            loop.on_cycle = self._reporter(progress)
            loop.history = history
            history.add(*loop.progress.history)
            if loop.progress.epoch > self.epochs[-1]:
                logger.warning("all epochs up to %d are done already", self.epochs[-1])
                return loop.progress.history[-1], loop.networks
            write_text(self.folder / SETTINGS, to_toml(self._repeatable(), self.repeat))
        return loop.run(), loop.networks

    def _distribution(self, finished):
        if finished:
            return Distribution()
        s = self.settings
        return distribute(s.multi_gpu, s.workers, s.worker_index, s.batch_size)

    def _loop(self, distribution, stack):
        settings, state = self.settings, None
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        if settings.resume and has_state(self.folder):
            state = newest_state(self.folder)
        elif settings.resume:
            logger.info(
                "%s: no state to resume from, the training starts at its beginning", self.folder
            )
        loop = self.loop(distribution, state, stack)
        if state is not None:
            with distribution.scope():
                state.restore(loop.networks)
        loop.progress = state.progress if state is not None else Progress(self.epochs[0])
        loop.folder, loop.epochs = self.folder, self.epochs[-1]
        loop.distribution, loop.metadata = distribution, {"training": asdict(settings)}
        loop.snapshot, loop.state_minutes = settings.snapshot, settings.state_minutes
        return loop

    def _prepare_folder(self, stack):
        """Makes and claims the folders, and refuses to replace what an earlier training left.

        Returns:
            The `History`; `stack` closes it.
        """
        settings, tables = self.settings, {f: Path(p) for f, p in self.tables().items()}
        for flag, path in tables.items():
            if path.exists() and not path.is_file():
                raise UserError(f"{flag} {path}: exists and is not an ordinary file; name another")
        make_folders(self.folder, *(path.parent for path in tables.values()))
        claim(self.folder, stack)
        history = self.history()
        stack.callback(history.close)
        going_on = check_free(
            self.folder, self.name, self.epochs, history, settings.resume, self.start_hint
        )
        if going_on:
            compare(self._repeatable(), self.folder / SETTINGS, _FREE | self.free)
        return history

    def _repeatable(self):
        """The settings that repeat the training from any folder."""
        settings = self.settings
        found = {name: getattr(settings, name) for name in self.paths}
        if settings.weights and os.path.exists(settings.weights):  # else it is a name
            found["weights"] = settings.weights
        found = {name: os.path.abspath(path) for name, path in found.items() if path}
        return replace(settings, **found, resume=False, workers=None, worker_index=None)

    def _reporter(self, progress):
        """A function for `EpochLoop.on_cycle` that shows epoch, cycle and losses."""
        if progress is None:
            return None

        def report(epoch, done, total, losses):
            texts = [f"{word} {losses[loss]:.4g}" for word, loss in self.shown if loss in losses]
            progress(f"epoch {epoch}/{self.epochs[-1]}", done, total, ", ".join(texts))

        return report


@contextlib.contextmanager
def _global_settings_kept():
    """Puts back what a training sets for the whole process."""
    policy, config = keras.config.dtype_policy(), os.environ.get("TF_CONFIG")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        os.environ.pop("TF_CONFIG", None)
        if config is not None:
            os.environ["TF_CONFIG"] = config
