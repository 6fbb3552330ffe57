# SPDX-License-Identifier: MIT
"""The training loop of the GAN: the discriminator's updates, then one of the generator."""

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segsrgan.networks import save_generator
from segsrgan.training.cycles import EpochLoop, snapshot_of
from segsrgan.training.picture import patch_picture
from segsrgan.training.validation import validate

logger = logging.getLogger(__name__)

# Epochs after which a segmentation that is still empty is reported, and again as many later.
_PATIENCE = 10
_COLLAPSED = 0.01


def snapshot_path(folder, epoch):
    """Where the weights after an epoch are."""
    return snapshot_of(folder, Loop.name, epoch)


@dataclass
class Loop(EpochLoop):
    """A training of a `Gan`, the `networks`; further attributes are those of `EpochLoop`.

    Attributes:
        step: a `Step` of it.
        data: the training patches: `cycles(epoch)` and `stream(epochs, …)` of a `Dataset`.
        test: the validation patches: an object with `all_patches()` and their number `patches`.
        discriminator_updates: per update of the generator.
    """

    name: ClassVar[str] = "SegSRGAN"
    rates: ClassVar[str] = "--lrgen and --lrdis"

    discriminator_updates: int = 5

    @property
    def gan(self):
        """The `Gan`."""
        return self.networks

    def updates(self, epoch):
        """See `EpochLoop`."""
        return ("discriminator",) * self._discriminator_updates() + ("generator",)

    def batches(self, epochs):
        """See `EpochLoop`."""
        return self.data.stream(epochs, self._discriminator_updates(), self.progress.cycle)

    def scores(self):
        """See `validate`."""
        loss = self.gan.objective.reconstruction
        return validate(self.step.predict, self.test.all_patches(), loss, self.test.patches)

    def save_weights(self, path, notes):
        """Writes generator and discriminator."""
        save_generator(self.gan.generator, path, self.gan.discriminator, **notes)

    def drawing(self):
        """A patch with much of the label."""
        batch = next(iter(self.test.all_patches()))
        index = int(np.argmax(batch.target[..., 1].sum(axis=(1, 2, 3))))
        output = self.step.predict(batch)[index]
        return patch_picture(batch.lr[index], output, batch.target[index])

    def report(self, row):
        """One line; a warning where the segmentation stays empty."""
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

    def _discriminator_updates(self):
        return self.discriminator_updates if self.gan.discriminator else 0
