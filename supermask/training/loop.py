# SPDX-License-Identifier: MIT
"""The training loop of SuperMask: stage 1, each network by itself, then stage 2, in turn."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segsrgan.training.epoch_loop import EpochLoop
from segsrgan.training.picture import planes_picture
from supermask.networks import save_networks
from supermask.training.dataset import Pairs, Singles
from supermask.training.validation import validate

logger = logging.getLogger(__name__)

_KINDS = {
    "segmentor": Singles,
    "alignnet": Pairs,
    "consistent_segmentor": Pairs,
    "consistent_alignnet": Pairs,
}


@dataclass
class Loop(EpochLoop):
    """A training of `Learners`, the `networks`; further attributes are those of `EpochLoop`.

    Attributes:
        step: a `Step` of them.
        data: a `Dataset`.
        test: a `Dataset`, or None: nothing is scored.
        stage1_epochs: after which stage 2 begins.
        spacing: of the grid, mm.
    """

    name: ClassVar[str] = "SuperMask"
    rates: ClassVar[str] = "--lr1 and --lr2"

    stage1_epochs: int = 40
    spacing: float = 1.0

    def stage(self, epoch):
        """1 or 2."""
        return 1 if epoch <= self.stage1_epochs else 2

    def updates(self, epoch):
        """See `EpochLoop`: an update of each network."""
        if self.stage(epoch) == 2:
            return "consistent_segmentor", "consistent_alignnet"
        return tuple(n for n in ("segmentor", "alignnet") if getattr(self.networks, n) is not None)

    def batches(self, epochs):
        """See `EpochLoop`."""
        return self.data.stream(
            epochs,
            lambda epoch: [_KINDS[name] for name in self.updates(epoch)],
            self.progress.cycle,
        )

    def scores(self):
        """The stage, and see `validate`."""
        row, learners = {"stage": self.stage(self.progress.epoch)}, self.networks
        if self.test is None:
            return row
        present = learners.segmentor is not None, learners.alignnet is not None
        return row | validate(
            self.step, self.test, self.spacing, learners.objective.window, *present
        )

    def save_weights(self, path, notes):
        """Writes the networks that there are."""
        save_networks(path, self.networks.segmentor, self.networks.alignnet, **notes)

    def drawing(self):
        """The first pair of the test data, or its first view where there is no AlignNet."""
        if self.test is None:
            return None
        segmentor, alignnet = self.networks.segmentor, self.networks.alignnet
        if alignnet is None or not self.test.pairs:
            batch = next(self.test.fixed_singles())
            images = {"image": batch.image}
            image, masks = batch.image, {"mask": batch.mask}
        else:
            batch = next(self.test.fixed_pairs())
            matrices = self.step.align(batch.moving, batch.fixed)
            moved = self.step.move(batch.moving, matrices)
            images = {"moving": batch.moving, "fixed": batch.fixed, "aligned": moved}
            image, masks = batch.fixed, {"mask": batch.fixed_mask}
        if segmentor is not None:
            masks["prediction"] = self.step.segment(image)
        volumes = {**images, **masks}
        return planes_picture({t: (v[0, ..., 0], 0.0, 1.0) for t, v in volumes.items()})

    def report(self, row):
        """One line, of what there is."""
        names = {"dice": "Dice", "overlap_before": "overlap before", "overlap": "after alignment"}
        names |= {"angle_error": "angle error"}
        texts = [f"{text} {row[name]:.3f}" for name, text in names.items() if name in row]
        losses = [row[n] for n in ("segmentor_loss", "alignnet_loss") if n in row]
        texts.insert(0, "losses " + ", ".join(f"{loss:.4f}" for loss in losses))
        logger.info(
            "epoch %d, stage %d: %s, %.0f s, waiting %.0f %%",
            row["epoch"],
            row["stage"],
            ", ".join(texts),
            row["seconds"],
            100 * row["waiting"],
        )
        empty = row.get("dice", 1.0) < 0.01 and np.isfinite(row["dice"])
        if empty and row["epoch"] % 10 == 0:
            logger.warning(
                "the segmentation is empty (Dice %.3f): see whether the masks lie on the images "
                "(epoch_<n>.png), try another --lr1",
                row["dice"],
            )
