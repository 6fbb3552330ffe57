# SPDX-License-Identifier: MIT
"""The training loop of SuperMask: stage 1, each network by itself, then stage 2, in turn."""

import logging
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from segsrgan.training.losses import soft_dice_loss
from segsrgan.training.session import EpochLoop
from segsrgan.training.step_tensorflow import ReplicatedStep
from segsrgan.training.validation import planes_picture
from segsrgan.volumes import dice
from supermask.geometry import turn_between
from supermask.losses import similarity_loss
from supermask.networks import save_networks
from supermask.training.dataset import Pairs, Singles

logger = logging.getLogger(__name__)

# Of each update the network and what it learns from; the loss is `Learners.<update>_loss`.
_UPDATES = {
    "segmentor": ("segmentor", Singles),
    "alignnet": ("alignnet", Pairs),
    "consistent_segmentor": ("segmentor", Pairs),
    "consistent_alignnet": ("alignnet", Pairs),
}


class Step(ReplicatedStep):
    """Compiled updates of `Learners`, and what the networks answer, as NumPy arrays.

    The updates are methods named as in `_UPDATES`, from this worker's part of a batch to a dict of
    scalars.
    """

    def __init__(self, learners, distribution=None):
        super().__init__(learners, distribution)
        for name, (network, _) in _UPDATES.items():
            update = self._update(network, getattr(learners, f"{name}_loss"))
            setattr(self, name, self.compile(update))
        self._segment = tf.function(lambda image: learners.segmentor(image, training=False))
        self._align = tf.function(learners.motion)
        self._move = tf.function(learners.moved)

    def _update(self, network, loss):
        return lambda batch: self.minimise(network, lambda: loss(batch))

    def segment(self, images):
        """The segmentor's answer (b, n, n, n, 1)."""
        return self._segment(images).numpy()

    def align(self, moving, fixed):
        """AlignNet's motion (b, 3, 4), for `SpatialTransformer3D`."""
        return self._align(moving, fixed).numpy()

    def move(self, volumes, matrices):
        """Volumes moved by matrices (b, n, n, n, 1)."""
        return self._move(volumes, matrices).numpy()


@dataclass
class Loop(EpochLoop):
    """A training of `Learners`, the `networks`; further attributes are those of `EpochLoop`.

    Attributes:
        step: a `Step` of them.
        data: a `Dataset`.
        test: a `Dataset`, or None: nothing is scored.
        settings: a `TrainingSettings`.
    """

    name: ClassVar[str] = "SuperMask"
    rates: ClassVar[str] = "--lr1 and --lr2"

    settings: Any = None

    def stage(self, epoch):
        """1 or 2."""
        return 1 if epoch <= self.settings.stage1_epochs else 2

    def updates(self, epoch):
        """See `EpochLoop`: an update of each network."""
        if self.stage(epoch) == 2:
            return "consistent_segmentor", "consistent_alignnet"
        return tuple(self.networks.models)

    def batches(self, epochs):
        """See `EpochLoop`."""
        return self.data.stream(
            epochs,
            lambda epoch: [_UPDATES[name][1] for name in self.updates(epoch)],
            self.progress.cycle,
        )

    def scores(self):
        """The stage, and means over the views and pairs of the test data, as far as they are known.

        `dice` is the segmentor's. Of AlignNet, each also before it with the suffix `_before`:
        `similarity`, the local cross-correlation; `overlap`, the Dice of the masks; where the
        motion is known `angle_error`, degrees, and `shift_error`, mm of the grid's middle.
        `val_loss`: the soft Dice loss plus the similarity loss.
        """
        row, loss, models = {"stage": self.stage(self.progress.epoch)}, 0.0, self.networks.models
        if self.test is None:
            return row
        if "segmentor" in models:
            found = _means(self._mask_scores())
            loss += found.pop("dice_loss")
            row |= found
        if "alignnet" in models and self.test.pairs:
            row |= _means(self._pair_scores())
            loss += 1 - row["similarity"]
        return {**row, "val_loss": loss}

    def _mask_scores(self):
        """Yields the scores of each view."""
        for batch in self.test.fixed(Singles):
            answers = self.step.segment(batch.image)
            for mask, answer in zip(batch.mask, answers, strict=True):
                soft = float(np.asarray(soft_dice_loss(mask[np.newaxis], answer[np.newaxis])))
                overlap = dice(answer[..., 0] >= 0.5, mask[..., 0] > 0.5)
                yield {"dice": overlap, "dice_loss": soft}

    def _pair_scores(self):
        """Yields the scores of each pair."""
        for batch in self.test.fixed(Pairs):
            found = self.step.align(batch.moving, batch.fixed)
            nothing = np.tile(np.eye(3, 4, dtype=np.float32), (len(found), 1, 1))
            rows = [{} for _ in found]
            for suffix, matrices in (("", found), ("_before", nothing)):
                images = self.step.move(batch.moving, matrices)
                masks = self.step.move(batch.moving_mask, matrices)
                for index, row in enumerate(rows):
                    scores = self._pair_score(batch, index, images, masks, matrices)
                    row |= {f"{name}{suffix}": value for name, value in scores.items()}
            yield from rows

    def _pair_score(self, batch, index, images, masks, matrices):
        settings, at = self.settings, slice(index, index + 1)
        unlike = similarity_loss(images[at], batch.fixed[at], settings.window)
        moved, fixed = masks[index, ..., 0] >= 0.5, batch.fixed_mask[index, ..., 0] > 0.5
        scores = {"similarity": 1 - float(np.asarray(unlike)), "overlap": dice(moved, fixed)}
        if batch.known[index]:
            scores |= motion_errors(matrices[index], batch.matrix[index], settings.spacing)
        return scores

    def save_weights(self, path, notes):
        """Writes the networks that there are."""
        save_networks(path, self.networks.segmentor, self.networks.alignnet, **notes)

    def drawing(self):
        """The first pair of the test data, or its first view where there is no AlignNet."""
        if self.test is None:
            return None
        models = self.networks.models
        if "alignnet" not in models or not self.test.pairs:
            batch = next(self.test.fixed(Singles))
            image, volumes = batch.image, {"image": batch.image, "mask": batch.mask}
        else:
            batch = next(self.test.fixed(Pairs))
            moved = self.step.move(batch.moving, self.step.align(batch.moving, batch.fixed))
            volumes = {"moving": batch.moving, "fixed": batch.fixed, "aligned": moved}
            image, volumes["mask"] = batch.fixed, batch.fixed_mask
        if "segmentor" in models:
            volumes["prediction"] = self.step.segment(image)
        return planes_picture({t: (v[0, ..., 0], 0.0, 1.0) for t, v in volumes.items()})

    def report(self, row):
        """One line, of what there is."""
        names = {"dice": "Dice", "overlap_before": "overlap before", "overlap": "after alignment"}
        names |= {"angle_error": "angle error"}
        losses = [row[n] for n in ("segmentor_loss", "alignnet_loss") if n in row]
        texts = ["losses " + ", ".join(f"{loss:.4f}" for loss in losses)]
        texts += [f"{text} {row[name]:.3f}" for name, text in names.items() if name in row]
        texts += [f"{row['seconds']:.0f} s", f"waiting {100 * row['waiting']:.0f} %"]
        logger.info("epoch %d, stage %d: %s", row["epoch"], row["stage"], ", ".join(texts))
        if row.get("dice", 1.0) < 0.01 and row["epoch"] % 10 == 0:
            logger.warning(
                "epoch %d: the segmentation is empty (Dice %.3f): see whether the masks lie on the "
                "images (epoch_<n>.png), try another --lr1",
                row["epoch"],
                row["dice"],
            )


def motion_errors(first, second, spacing):
    """How far two motions (3, 4) are apart: degrees, and mm at the grid's middle."""
    angle = turn_between(first[:, :3], second[:, :3])
    shift = float(spacing * np.linalg.norm(first[:, 3] - second[:, 3]))
    return {"angle_error": angle, "shift_error": shift}


def _means(rows):
    """The mean of each score over the rows where it is defined."""
    found = {}
    for name, value in (item for row in rows for item in row.items()):
        found.setdefault(name, []).extend([] if math.isnan(value) else [value])
    return {name: float(np.mean(values)) for name, values in found.items() if values}
