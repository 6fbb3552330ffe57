# SPDX-License-Identifier: MIT
"""The training command on volumes of a few voxels, for the tests of whole trainings."""

from training.samples import write_table

from segsrgan.SegSRGAN_training import main

# Most of a tiny training's time is the tracing of its graphs, hence one block instead of six.
TINY = "--kernel_gen 2 --blocks_gen 1"
PLAIN = f"--patch_size 8 --stride 8 {TINY} --batch_size 16 --lambadv 0 --tensorboard False"
GAN = f"--patch_size 16 --stride 8 {TINY} --kernel_dis 2 --batch_size 2"


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
