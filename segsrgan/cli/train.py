# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py`: trains SegSRGAN on the images of a CSV file."""

import sys

from segsrgan.cli.console import Parser, train
from segsrgan.training.settings import build_parser, settings_of
from segsrgan.training.stopping import Stop

_SCORES = ("dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse")
_REMEDY = "a smaller --images_in_memory, --batch_size or --patch_size"


def main(argv=None, prog="SegSRGAN_training.py"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status, see `segsrgan.cli.console.train`.
    """

    def parse(argv):
        settings = settings_of(build_parser(prog, Parser).parse_args(argv))
        return settings, settings.epoch

    return train(argv, prog, parse, "segsrgan.training.run", _SCORES, Stop(), _REMEDY)


if __name__ == "__main__":
    sys.exit(main())
