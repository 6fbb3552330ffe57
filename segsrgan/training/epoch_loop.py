# SPDX-License-Identifier: MIT
"""The frame of a training: cycles of updates, validation, history, snapshots and the whole state.

`<name>_epoch_<n>` are weight files that every command accepts, `<name>_best` the one with the
smallest validation loss; `state_*.h5` is what a stopped training goes on from. What is trained,
and how it is scored and drawn, is for the classes that are derived from `EpochLoop`.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segsrgan.errors import TrainingError, VolumeError
from segsrgan.training.checkpoints import Progress, save_state, snapshot_of
from segsrgan.training.dataset import prefetch
from segsrgan.training.distribution import Distribution


@dataclass
class EpochLoop(ABC):
    """A training.

    Attributes:
        networks: what is trained; has `state()`, `specs()` and `scaled` as `Gan`.
        step: compiled updates of it; its methods are named by `updates`.
        data: the training batches: `cycles(epoch)`, and what `batches` takes them from.
        test: the validation batches, as `scores` needs them.
        folder: of snapshots and states.
        epochs: the last epoch's number.
        progress: how far it has come.
        snapshot: epochs between snapshots; the last epoch always gets one.
        metadata: written into the snapshots.
        history: a `History`; None: nothing is recorded.
        distribution: a `Distribution`; the chief alone validates and writes.
        state_minutes: between states within an epoch.
        on_cycle: called with (epoch, cycles done, cycles of the epoch, losses) before the first
            cycle, with no losses, and after each.
        stop: function that says whether to stop; asked after each cycle and epoch.
        name: of the snapshots.
        rates: what the learning rates are called in messages.
    """

    name: ClassVar[str]
    rates: ClassVar[str]

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
        """Writes the networks to a weight file.

        Args:
            path: of the file.
            notes: a dict of JSON values to be kept in it.
        """

    def averaged(self):
        """A context in which the networks have the weights that are scored and saved."""
        return nullcontext()

    def drawing(self):
        """A picture of what has been learnt, uint8 (height, width, 3), or None."""
        return None

    @abstractmethod
    def report(self, row):
        """Tells the user of an epoch, by its row of the history."""

    def run(self):
        """Trains up to the last epoch or until told to stop.

        Returns:
            The last row of the history, None if there is none yet.

        Raises:
            TrainingError: if a loss is no number, data cannot be read, or the disk is full. The
                last whole state is then what it was.
        """
        self._agree_on_the_beginning()
        if self.stop is not None:
            self.stop()  # from here on a signal is answered at the end of a cycle
        epochs = range(self.progress.epoch, self.epochs + 1)
        # One batch is made while one is in use.
        stream = prefetch(self.batches(epochs), depth=1)
        try:
            with closing(stream):
                for epoch in epochs:
                    if self._epoch(epoch, stream):
                        break
        except (OSError, VolumeError) as error:
            raise TrainingError(
                f"epoch {epoch}: {error}; repair this and go on with --resume"
            ) from error
        return self.progress.history[-1] if self.progress.history else None

    def _agree_on_the_beginning(self):
        places = self.distribution.gather(self.progress.epoch * 1e6 + self.progress.cycle)
        if len(set(places)) > 1:
            raise TrainingError(
                f"the workers would start at different places (epoch * 1e6 + cycle: {places}); "
                f"{self.folder} must be one folder that all of them see"
            )

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
                self._add(name, float(np.asarray(value)), losses)
        progress.cycle += 1
        progress.seconds += time.perf_counter() - start
        self._check_finite(losses)
        return losses

    def _add(self, name, value, losses):
        losses[name] = value
        if math.isfinite(value):  # a gradient in float16 may overflow now and then
            sums, counts = self.progress.sums, self.progress.counts
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1

    def _check_finite(self, losses):
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if self.networks.scaled:
            bad = [name for name in bad if "gradient" not in name]
        if not bad:
            return
        path = Path(self.folder) / f"{self.name}_last_finite"
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
        progress.next_epoch(row)
        if not self.distribution.chief:
            return
        self._save_state()
        if self.history is not None:
            self.history.add(row)
        self.report(row)

    def _keep_weights(self, row):
        epoch, folder = row["epoch"], Path(self.folder)
        if epoch % self.snapshot == 0 or epoch == self.epochs:
            self._save_weights(snapshot_of(folder, self.name, epoch))
            image = self.drawing() if self.history is not None else None
            if image is not None:
                self.history.picture(epoch, image)
        best, loss = self.progress.best.get("val_loss", math.nan), row.get("val_loss")
        if loss is not None and (math.isnan(best) or loss < best):
            self._save_weights(folder / f"{self.name}_best")
            self.progress.best = {"epoch": epoch, "val_loss": loss}

    def _save_weights(self, path):
        self.save_weights(path, {**self.metadata, "epoch": self.progress.epoch})

    def _save_state(self):
        if self.distribution.chief:
            save_state(self.folder, self.networks, self.progress)
