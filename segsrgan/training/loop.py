# SPDX-License-Identifier: MIT
"""The training loop: updates, validation, history, snapshots and the whole state.

`SegSRGAN_epoch_<n>` are weight files that every command accepts, `SegSRGAN_best` the one with the
smallest validation loss; `state_*.h5` is what a stopped training goes on from.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segsrgan.networks import save_generator
from segsrgan.training.distribution import Distribution
from segsrgan.training.errors import TrainingError
from segsrgan.training.gan import Gan
from segsrgan.training.picture import patch_picture
from segsrgan.training.prefetch import prefetch
from segsrgan.training.state import Progress, save_state
from segsrgan.training.validation import validate
from segsrgan.volumes import VolumeError

logger = logging.getLogger(__name__)

# Epochs after which a segmentation that is still empty is reported, and again as many later.
_PATIENCE = 10
_COLLAPSED = 0.01


def snapshot_path(folder, epoch):
    """Where the weights after an epoch are."""
    return Path(folder) / f"SegSRGAN_epoch_{epoch}"


@dataclass
class Loop:
    """A training.

    Attributes:
        gan: a `Gan`.
        step: a `Step` of it.
        data: the training patches: `cycles(epoch)` and `stream(epochs, …)` of a `Dataset`.
        test: the validation patches: an object with `all_patches()` and their number `patches`.
        folder: of snapshots and states.
        epochs: the last epoch's number.
        progress: how far it has come.
        discriminator_updates: per update of the generator.
        snapshot: epochs between snapshots; the last epoch always gets one.
        metadata: written into the snapshots.
        records: keeps the history, a `Records`; None: nothing is recorded.
        distribution: a `Distribution`; the chief alone validates and writes.
        state_minutes: between states within an epoch.
        on_cycle: called with (epoch, cycles done, cycles of the epoch, losses) before the first
            cycle, with no losses, and after each.
        stop: function that says whether to stop; asked after each cycle and epoch.
    """

    gan: Gan
    step: Any
    data: Any
    test: Any
    folder: Path
    epochs: int
    progress: Progress = field(default_factory=Progress)
    discriminator_updates: int = 5
    snapshot: int = 1
    metadata: dict = field(default_factory=dict)
    records: Any = None
    distribution: Distribution = Distribution()
    state_minutes: float = 20.0
    on_cycle: Callable | None = None
    stop: Callable | None = None

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
            self.stop()  # from here on somebody listens
        epochs = range(self.progress.epoch, self.epochs + 1)
        updates = self.discriminator_updates if self.gan.discriminator else 0
        # One batch is made while one is in use.
        stream = prefetch(self.data.stream(epochs, updates, self.progress.cycle), depth=1)
        try:
            with closing(stream):
                for epoch in epochs:
                    if self._epoch(epoch, stream, updates):
                        break
        except (OSError, VolumeError) as error:
            raise TrainingError(
                f"epoch {epoch}: {error}; mend this and go on with --resume"
            ) from error
        return self.progress.history[-1] if self.progress.history else None

    def _agree_on_the_beginning(self):
        places = self.distribution.gather(self.progress.epoch * 1e6 + self.progress.cycle)
        if len(set(places)) > 1:
            raise TrainingError(
                f"the workers would start at different places (epoch * 1e6 + cycle: {places}); "
                f"{self.folder} must be one folder that all of them see"
            )

    def _epoch(self, epoch, stream, updates):
        """Trains the rest of the current epoch; returns whether it was told to stop."""
        progress, cycles = self.progress, self.data.cycles(epoch)
        saved, on_cycle = time.monotonic(), self.on_cycle or (lambda *_: None)
        on_cycle(epoch, progress.cycle, cycles, {})
        while progress.cycle < cycles:
            losses = self._cycle(stream, updates)
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

    def _cycle(self, stream, updates):
        """The discriminator's updates and one of the generator; returns the losses."""
        progress, start, metrics = self.progress, time.perf_counter(), []
        for index in range(updates + 1):
            before = time.perf_counter()
            batch = next(stream)
            progress.waiting += time.perf_counter() - before
            update = self.step.discriminator if index < updates else self.step.generator
            metrics.append(update(batch))
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
        if self.gan.scaled:
            bad = [name for name in bad if "gradient" not in name]
        if not bad:
            return
        path = Path(self.folder) / "SegSRGAN_last_finite"
        if self.distribution.chief:
            self._save_weights(path)
        raise TrainingError(
            f"epoch {self.progress.epoch}, cycle {self.progress.cycle}: {bad[0]} is "
            f"{losses[bad[0]]}; the last finite weights are in {path}. Try smaller --lrgen and "
            "--lrdis, or --precision float32; --resume goes on from the last state"
        )

    def _close_epoch(self):
        progress = self.progress
        row = {"epoch": progress.epoch}
        row |= {name: total / progress.counts[name] for name, total in progress.sums.items()}
        if self.distribution.chief:
            loss = self.gan.objective.reconstruction
            row |= validate(self.step.predict, self.test.all_patches(), loss, self.test.patches)
        row["seconds"] = round(progress.seconds, 2)
        row["waiting"] = round(progress.waiting / max(progress.seconds, 1e-9), 4)
        if self.distribution.chief:
            self._keep_weights(row)
        progress.next_epoch(row)
        if not self.distribution.chief:
            return
        self._save_state()
        if self.records:
            self.records.add(row)
        self._report(row)

    def _keep_weights(self, row):
        epoch, folder = row["epoch"], Path(self.folder)
        if epoch % self.snapshot == 0 or epoch == self.epochs:
            self._save_weights(snapshot_path(folder, epoch))
            self._save_picture(epoch)
        best = self.progress.best.get("val_loss", math.nan)
        if math.isnan(best) or row["val_loss"] < best:
            self._save_weights(folder / "SegSRGAN_best")
            self.progress.best = {"epoch": epoch, "val_loss": row["val_loss"]}

    def _save_weights(self, path):
        notes = {**self.metadata, "epoch": self.progress.epoch}
        save_generator(self.gan.generator, path, self.gan.discriminator, **notes)

    def _save_picture(self, epoch):
        if not self.records:
            return
        batch = next(iter(self.test.all_patches()))
        index = int(np.argmax(batch.target[..., 1].sum(axis=(1, 2, 3))))
        output = self.step.predict(batch)[index]
        self.records.picture(epoch, patch_picture(batch.lr[index], output, batch.target[index]))

    def _save_state(self):
        if self.distribution.chief:
            save_state(self.folder, self.gan, self.progress)

    def _report(self, row):
        keys = ("epoch", "generator_loss", "dice", "psnr", "psnr_input", "seconds")
        text = "epoch %d: loss %.4f, Dice %.3f, PSNR %.2f dB (input %.2f), %.0f s, waiting %.0f %%"
        logger.info(text, *(row[key] for key in keys), 100 * row["waiting"])
        recent = [past["dice"] for past in self.progress.history[-_PATIENCE:]]
        if row["epoch"] % _PATIENCE == 0 and len(recent) == _PATIENCE and max(recent) < _COLLAPSED:
            logger.warning(
                "the segmentation has been empty for %d epochs (Dice %.3f): look whether the "
                "labels lie on the images (epoch_%d.png), try --reconstruction_loss dice, a "
                "larger --lambrec or --lrgen",
                _PATIENCE,
                row["dice"],
                row["epoch"],
            )
