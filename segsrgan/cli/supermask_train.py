# SPDX-License-Identifier: MIT
"""The command `supermask-train`: trains the segmentor and the AlignNet of SuperMask."""

import sys

from segsrgan.cli.console import Parser, train
from segsrgan.training.stopping import Stop
from supermask.training.flags import build_parser, settings_of

_SCORES = ("dice", "overlap_before", "overlap", "similarity", "angle_error", "shift_error")
_REMEDY = "a smaller --batch_size or --grid_size, or fewer --repeats"


def main(argv=None, prog="supermask-train"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status, see `segsrgan.cli.console.train`.
    """

    def parse(argv):
        settings = settings_of(build_parser(prog, Parser).parse_args(argv))
        return settings, settings.epochs

    return train(argv, prog, parse, "supermask.training.run", _SCORES, Stop(), _REMEDY)


if __name__ == "__main__":
    sys.exit(main())
