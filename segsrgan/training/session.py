# SPDX-License-Identifier: MIT
"""A training from its settings to its last epoch, whatever is trained: folders, devices, epochs.

`<name>_epoch_<n>` are weight files that every command accepts, `<name>_best` the one with the
smallest validation loss; `state_*.h5` is what a stopped training goes on from. What is trained,
on what, and how it is scored and drawn, is for the classes derived from `Session` and `EpochLoop`.
"""

import contextlib
import importlib
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from segsrgan.config import from_toml, to_toml
from segsrgan.errors import TrainingError, UserError, VolumeError
from segsrgan.files import check_writable, locked, write_text
from segsrgan.training.checkpoints import (
    Progress,
    has_state,
    is_finished,
    newest_state,
    save_state,
    snapshot_of,
)
from segsrgan.training.dataset import prefetch
from segsrgan.training.distribution import Distribution, distribute, process_of
from segsrgan.training.history import History
from segsrgan.training.settings import flag_of

logger = logging.getLogger(__name__)

_SETTINGS = "settings.toml"
# Settings that may differ when a training is resumed, without the result being another.
_FREE = {"resume", "snapshot", "state_minutes", "tensorboard", "multi_gpu", "workers"}
_FREE |= {"worker_index", "snapshot_folder"}


@dataclass
class EpochLoop(ABC):
    """Cycles of updates, validation, history, snapshots and states.

    Attributes:
        networks: what is trained; has `state()`, `specs()` and `scaled` as `Gan`.
        step: compiled updates of it; its methods are named by `updates`.
        data: the training batches: `cycles(epoch)`, and what `batches` takes them from.
        test: the validation batches, as `scores` needs them.
        name: of the snapshots.
        rates: what the learning rates are called in messages.

    `Session` sets the others: `folder` of all files, the last of the `epochs`, the `metadata` of
    snapshots, and `on_cycle`, which is called with (epoch, cycles done, cycles of the epoch,
    losses) before the first cycle and after each. The chief alone validates and writes.
    """

    networks: Any
    step: Any
    data: Any
    test: Any
    folder: Path = Path()
    epochs: int = 0
    progress: Progress = field(default_factory=Progress)
    snapshot: int = 1
    metadata: dict = field(default_factory=dict)
    history: Any = None
    distribution: Distribution = Distribution()
    state_minutes: float = 20.0
    on_cycle: Callable | None = None
    stop: Callable | None = None

    @abstractmethod
    def updates(self, epoch):
        """The names of the step's methods that make up a cycle of an epoch, in their order."""

    @abstractmethod
    def batches(self, epochs):
        """Yields a batch for each update of a range of epochs, from `progress.cycle` on."""

    @abstractmethod
    def scores(self):
        """The scores of the networks on the test data: a dict, with `val_loss` if it has any."""

    @abstractmethod
    def save_weights(self, path, notes):
        """Writes the networks to a weight file, with a dict of JSON values."""

    def averaged(self):
        """A context in which the networks have the weights that are scored and saved."""
        return contextlib.nullcontext()

    @abstractmethod
    def drawing(self):
        """A picture of what has been learnt, uint8 (height, width, 3), or None."""

    @abstractmethod
    def report(self, row):
        """Tells the user of an epoch, by its row of the history."""

    def run(self):
        """Trains up to the last epoch or until told to stop; returns the last row of the history.

        A loss that is not a number, data that cannot be read and a full disk raise
        `TrainingError`; the last whole state is then what it was.
        """
        places = self.distribution.gather(self.progress.epoch * 1e6 + self.progress.cycle)
        if len(set(places)) > 1:
            raise TrainingError(
                f"the workers would start at different places (epoch * 1e6 + cycle: {places}); "
                f"{self.folder} must be one folder that all of them see"
            )
        if self.stop is not None:
            self.stop()  # from here on a signal is answered at the end of a cycle
        epochs = range(self.progress.epoch, self.epochs + 1)
        # One batch is made while one is in use.
        stream = prefetch(self.batches(epochs), depth=1)
        try:
            with contextlib.closing(stream):
                for epoch in epochs:
                    if self._epoch(epoch, stream):
                        break
        except (OSError, VolumeError) as error:
            raise TrainingError(
                f"epoch {epoch}: {error}; repair this and go on with --resume"
            ) from error
        return self.progress.history[-1] if self.progress.history else None

    def _epoch(self, epoch, stream):
        """Trains the rest of the current epoch; returns whether it was told to stop."""
        progress, cycles = self.progress, self.data.cycles(epoch)
        saved, on_cycle = time.monotonic(), self.on_cycle or (lambda *_: None)
        on_cycle(epoch, progress.cycle, cycles, {})
        while progress.cycle < cycles:
            losses = self._cycle(stream)
            on_cycle(epoch, progress.cycle, cycles, losses)
            stopping = self._is_stopping()
            if stopping or time.monotonic() - saved > 60 * self.state_minutes:
                self._save_state()
                saved = time.monotonic()
            if stopping:
                self.distribution.gather(0)  # nobody leaves before the state is saved
                return True
        self._save_state()  # validation may be long
        self._close_epoch()
        return self._is_stopping()

    def _is_stopping(self):
        """Whether any of the workers was told to stop; all of them ask at the same time."""
        return self.stop is not None and any(self.distribution.gather(bool(self.stop())))

    def _cycle(self, stream):
        """The updates of a cycle; returns the losses."""
        progress, start, metrics = self.progress, time.perf_counter(), []
        for name in self.updates(progress.epoch):
            before = time.perf_counter()
            batch = next(stream)
            progress.waiting += time.perf_counter() - before
            metrics.append(getattr(self.step, name)(batch))
        # Read only now, so that an accelerator need not wait for us between the updates.
        losses = {}
        for values in metrics:
            for name, value in values.items():
                losses[name] = value = float(np.asarray(value))
                if math.isfinite(value):  # a gradient in float16 may overflow now and then
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                    progress.counts[name] = progress.counts.get(name, 0) + 1
        progress.cycle += 1
        progress.seconds += time.perf_counter() - start
        self._check_finite(losses)
        return losses

    def _check_finite(self, losses):
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if self.networks.scaled:
            bad = [name for name in bad if "gradient" not in name]
        if not bad:
            return
        path = self.folder / f"{self.name}_last_finite"
        if self.distribution.chief:
            self._save_weights(path)
        raise TrainingError(
            f"epoch {self.progress.epoch}, cycle {self.progress.cycle}: {bad[0]} is "
            f"{losses[bad[0]]}; the last finite weights are in {path}. Try smaller {self.rates}, "
            "or --precision float32; --resume goes on from the last state"
        )

    def _close_epoch(self):
        progress = self.progress
        row = {"epoch": progress.epoch}
        row |= {name: total / progress.counts[name] for name, total in progress.sums.items()}
        row["seconds"] = round(progress.seconds, 2)
        row["waiting"] = round(progress.waiting / max(progress.seconds, 1e-9), 4)
        if self.distribution.chief:
            with self.averaged():
                row |= self.scores()
                self._keep_weights(row)
        done = [*progress.history, row]
        self.progress = Progress(progress.epoch + 1, history=done, best=progress.best)
        if self.distribution.chief:
            self._save_state()
            self.history.add(row)
            self.report(row)

    def _keep_weights(self, row):
        epoch, best = row["epoch"], self.progress.best.get("val_loss", math.nan)
        if epoch % self.snapshot == 0 or epoch == self.epochs:
            self._save_weights(snapshot_of(self.folder, self.name, epoch))
            image = self.drawing()
            if image is not None:
                self.history.picture(epoch, image)
        loss = row.get("val_loss")
        if loss is not None and (math.isnan(best) or loss < best):
            self._save_weights(self.folder / f"{self.name}_best")
            self.progress.best = {"epoch": epoch, "val_loss": loss}

    def _save_weights(self, path):
        self.save_weights(path, {**self.metadata, "epoch": self.progress.epoch})

    def _save_state(self):
        if self.distribution.chief:
            save_state(self.folder, self.networks, self.progress)


class Session(ABC):
    """A training as its settings say, a `TrainingSettings` of one of the packages.

    Attributes:
        name: of the snapshots.
        repeat: the command that repeats a training, for its settings file.
        paths: settings that are paths, which that file holds whole.
        free: further settings that may differ when a training is resumed.
        shown: `(letter, loss)` of the losses that a progress bar shows.
        smaller: the flags that save memory.
        start_hint: how to start where there are snapshots, but no state.
    """

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
        """The `EpochLoop` of networks that are new, or as a `State` says.

        `stack` is an `ExitStack` that is closed at the end of the training.
        """

    def tables(self):
        """Further tables that the history is written to, `{"Dice": path of --dice_file}`."""
        return {}

    @property
    def folder(self):
        """The `Path` of snapshots, states and history."""
        return Path(self.settings.snapshot_folder)

    def run(self, progress=None, stop=None):
        """Trains, with the arguments and errors of `segsrgan.training.run.run`.

        Returns:
            `(row, networks)`: the last row of the history, a dict, None if stopped before the end
            of an epoch; and what was trained, None in a worker that had nothing left to do.
        """
        s = self.settings
        count, index = process_of(s.workers, s.worker_index)
        # The other workers might have ended already; nobody may wait for them.
        finished = count > 1 and s.resume and is_finished(self.folder, self.epochs[-1])
        if finished and index:
            logger.info("all epochs up to %d are done already", self.epochs[-1])
            return newest_state(self.folder).progress.history[-1], None
        several = count > 1 and not finished
        step = importlib.import_module(f"segsrgan.training.step_{keras.backend.backend()}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_global_settings_kept())
            stack.enter_context(step.translated(several, self.smaller))
            step.deterministic(several)
            distribution = Distribution()
            if not finished:
                distribution = distribute(s.multi_gpu, s.workers, s.worker_index, s.batch_size)
            return self._run(distribution, progress, stop, stack)

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
            write_text(self.folder / _SETTINGS, to_toml(self._repeatable(), self.repeat))
        return loop.run(), loop.networks

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
        """Makes and claims the folders; returns the `History`, which `stack` closes."""
        tables = {name: Path(path) for name, path in self.tables().items()}
        for name, path in tables.items():
            if path.exists() and not path.is_file():
                raise UserError(
                    f"--{name.lower()}_file {path}: exists and is not an ordinary file; name "
                    "another"
                )
        for folder in (self.folder, *(path.parent for path in tables.values())):
            check_writable(folder)
            _make_folder(folder, stack)
        try:
            stack.enter_context(locked(self.folder, wait=False))
        except BlockingIOError as error:
            raise UserError(
                f"{self.folder}: another training is writing there; wait for its end, or choose "
                "another --snapshot_folder"
            ) from error
        history = History(self.folder, tables, self.settings.tensorboard)
        stack.callback(history.close)
        if has_state(self.folder):
            self._check_resumed()
        else:
            self._check_free(history)
        return history

    def _check_free(self, history):
        """Refuses to replace what a training left without a state."""
        for path in (snapshot_of(self.folder, self.name, epoch) for epoch in self.epochs):
            if path.exists():
                raise UserError(
                    f"{path}: exists already and would be replaced, and there is no state to "
                    f"resume from; choose another --snapshot_folder, or {self.start_hint}"
                )
        history.check_free(self.epochs)

    def _check_resumed(self):
        """Warns about settings that are not those of the training that is resumed."""
        if not self.settings.resume:
            raise UserError(
                f"{self.folder}: holds the state of a training; go on with --resume, or choose "
                "another --snapshot_folder"
            )
        path, settings = self.folder / _SETTINGS, self._repeatable()
        if not path.is_file():
            return
        # A setting that the file does not know has come since, and was what is its default now.
        before = {f.name: f.default for f in fields(settings) if f.default is not MISSING}
        before |= from_toml(path, type(settings))
        for name, value in asdict(settings).items():
            if name not in _FREE | self.free and value != before.get(name):
                logger.warning(
                    "resuming with %s %s, which was %s: the training will not be the same",
                    flag_of(name),
                    value,
                    before.get(name),
                )

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


def _make_folder(folder, stack):
    """Makes a folder and those above it; the end of `stack` removes what has stayed empty."""
    missing = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        stack.callback(_remove_empty, path)


def _remove_empty(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()


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
