# SPDX-License-Identifier: MIT
"""A whole training, from its settings to its snapshots."""

import csv
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from segsrgan.networks import GeneratorSpec, build_generator, load_generator
from segsrgan.training.dataset import Simulation, count_patches, epoch_batches
from segsrgan.training.loop import fit, snapshot_path
from segsrgan.training.losses import charbonnier
from segsrgan.training.step_tensorflow import compiled_prediction, reconstruction_step
from segsrgan.training.table import read_table

_VALIDATION_SEED = 2**31


@dataclass(frozen=True)
class Settings:
    """What the flags of `SegSRGAN_training.py` say; the names are theirs.

    `low_res` and `low_res_upper` are the bounds of `--new_low_res`, mm.
    """

    csv: str
    low_res: tuple
    low_res_upper: tuple
    snapshot_folder: str
    dice_file: str
    mse_file: str
    base_path: str = ""
    contrast_max: float = 0.5
    percent_val_max: float = 0.03
    patch_size: int = 64
    stride: int = 20
    interp: str = "scipy"
    interpolation_type: str = "Spline"
    kernel_gen: int | None = None
    u_net_generator: bool | None = None
    is_residual: bool | None = None
    weights: str | None = None
    epoch: int = 200
    init_epoch: int = 1
    batch_size: int = 32
    snapshot: int = 1
    lrgen: float = 1e-4
    lambrec: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.patch_size % 4:
            below = self.patch_size - self.patch_size % 4
            raise ValueError(
                f"--patch_size must be divisible by 4, received {self.patch_size}; try {below or 4}"
            )
        if self.init_epoch > self.epoch:
            raise ValueError(
                f"--init_epoch {self.init_epoch} lies beyond the last epoch, --epoch {self.epoch}"
            )
        if self.contrast_max >= 1:
            raise ValueError(f"--contrast_max must be below 1, received {self.contrast_max}")
        if any(low > high for low, high in zip(self.low_res, self.low_res_upper, strict=True)):
            raise ValueError(
                "the first --new_low_res is the lower bound, received "
                f"{self.low_res} and {self.low_res_upper}; swap them"
            )

    def simulation(self, augment=True):
        """The `Simulation` of the training images, or of the test images without augmentation."""
        return Simulation(
            self.low_res,
            self.low_res_upper,
            self.contrast_max if augment else 0.0,
            self.percent_val_max if augment else 0.0,
            self.interp,
            self.interpolation_type,
        )


def run(settings, progress=None):
    """Trains a generator as the settings say.

    Args:
        settings: a `Settings`.
        progress: called with (label, done, total) after each step.

    Returns:
        The last row of the history, a dict.

    Raises:
        TableError: if the CSV has problems, all of them in one message.
        WeightsError: if `weights` are unusable.
        TrainingError: if the training cannot go on.
    """
    _check_folder(settings)
    train, test = read_table(settings.csv, settings.base_path)
    folder = Path(settings.snapshot_folder)
    for place in (folder, Path(settings.dice_file).parent, Path(settings.mse_file).parent):
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{place}: cannot be written; choose another folder")

    keras.utils.set_random_seed(settings.seed)
    generator = _generator(settings)
    patch, stride, size = settings.patch_size, settings.stride, settings.batch_size
    optimizer = keras.optimizers.Adam(settings.lrgen, beta_1=0.5, beta_2=0.999)
    step = reconstruction_step(
        generator,
        optimizer,
        lambda target, output: settings.lambrec * charbonnier(target, output[..., :2]),
    )
    steps = -(-count_patches(train, patch, stride) // size)

    def batches(epoch):
        rng = _rng(settings, epoch)
        return epoch_batches(train, settings.simulation(), patch, stride, size, rng)

    def validation():
        rng = _rng(settings, _VALIDATION_SEED)
        return epoch_batches(test, settings.simulation(False), patch, stride, size, rng)

    def on_step(epoch, index, loss):
        if progress:
            if index == 0:
                progress(f"epoch {epoch}/{settings.epoch}", 0, steps)
            progress(f"epoch {epoch}/{settings.epoch}", index + 1, steps)

    def on_epoch(row):
        _append(settings.dice_file, row["epoch"], "Dice", row["dice"])
        _append(settings.mse_file, row["epoch"], "MSE", row["mse"])

    return fit(
        generator,
        step,
        compiled_prediction(generator),
        batches,
        folder,
        settings.epoch,
        validation,
        first_epoch=settings.init_epoch,
        snapshot=settings.snapshot,
        metadata={"training": asdict(settings)},
        on_step=on_step,
        on_epoch=on_epoch,
    )


def _rng(settings, epoch):
    """A generator of its own for each epoch, so that epochs differ and can be repeated."""
    return np.random.default_rng([settings.seed, epoch])


def _generator(settings):
    shape = (settings.patch_size,) * 3
    wished = {
        "kernel": settings.kernel_gen,
        "unet": settings.u_net_generator,
        "residual": settings.is_residual,
    }
    wished = {field: value for field, value in wished.items() if value is not None}
    weights = settings.weights
    if weights is None and settings.init_epoch > 1:
        weights = snapshot_path(settings.snapshot_folder, settings.init_epoch - 1)
        if not weights.is_file():
            raise ValueError(
                f"--init_epoch {settings.init_epoch} needs --weights, or the snapshot {weights}"
            )
    if weights is None:
        return build_generator(GeneratorSpec(**wished), shape)
    generator = load_generator(weights, patch=shape)
    for field, value in wished.items():
        if getattr(generator.spec, field) != value:
            raise ValueError(
                f"{weights}: its generator has {field} {getattr(generator.spec, field)}, the "
                f"flags say {value}; leave the flag out"
            )
    if generator.spec.conditional:
        raise ValueError(f"{weights}: conditional generators cannot be trained on yet")
    return generator


def _check_folder(settings):
    """Refuses to replace snapshots of an earlier run."""
    folder = Path(settings.snapshot_folder)
    for epoch in range(settings.init_epoch, settings.epoch + 1):
        path = snapshot_path(folder, epoch)
        if path.exists():
            raise ValueError(
                f"{path}: exists already and would be replaced; choose another "
                "--snapshot_folder, or go on with --init_epoch"
            )


def _append(path, epoch, name, value):
    path = Path(path)
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["epoch", name])
        writer.writerow([epoch, value])
