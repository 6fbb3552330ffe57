# SPDX-License-Identifier: MIT
"""Tiny trainings that the tests share: settings, networks, and the command on small volumes."""

from training.samples import write_table

from segsrgan.networks import GeneratorSpec, build_discriminator, build_generator
from segsrgan.SegSRGAN_training import main
from segsrgan.training.gan import Gan, matching
from segsrgan.training.settings import TrainingSettings

# Most of a tiny training's time is the tracing of its graphs, hence one block instead of six.
TINY = "--kernel_gen 2 --blocks_gen 1"
PLAIN = f"--patch_size 8 --stride 8 {TINY} --batch_size 16 --lambadv 0 --tensorboard False"
GAN = f"--patch_size 16 --stride 8 {TINY} --kernel_dis 2 --batch_size 2"


def make_settings(**values):
    """`TrainingSettings` for patches of 16 voxels, whose files do not exist."""
    files = {name: name for name in ("csv", "snapshot_folder", "dice_file", "mse_file")}
    mm = {"low_res": (1.0, 1.0, 3.0), "low_res_upper": (1.0, 1.0, 3.0)}
    return TrainingSettings(**{**files, **mm, "patch_size": 16, **values})


def make_gan(spec=None, adam=None, **settings):
    """A `Gan` of settings; without another spec its generator has one block of two channels."""
    settings, spec = make_settings(**settings), spec or GeneratorSpec(2, blocks=1)
    patch, critic = settings.patch_size, None
    if settings.lambadv:
        critic = build_discriminator(matching(spec, patch, 4))
    return Gan(build_generator(spec, (patch,) * 3), critic, settings, **(adam or {}))


class Command:
    """The command in a folder with two training images and a test image."""

    def __init__(self, folder):
        self.folder, self.run = folder, folder / "run"
        self.table = write_table(
            folder, ("Train", "Train", "Test"), True, shape=(32, 32, 32), radius=12
        )

    def flags(self, *flags, run="run"):
        folder = self.folder / run
        flags = [word for flag in flags for word in str(flag).split()]
        return (
            ["--csv", str(self.table), "-n", "1", "1", "3", "-sf", str(folder)]
            + ["-dice", str(folder / "dice.csv"), "-mse", str(folder / "mse.csv")]
            + flags
        )

    def __call__(self, *flags, run="run"):
        return main(self.flags(*flags, run=run))
