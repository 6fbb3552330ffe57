# SPDX-License-Identifier: MIT
"""The command `supermask-train`: trains the segmentor and the AlignNet of SuperMask."""

import argparse
import sys

from segsrgan.cli.console import Parser, train
from segsrgan.config import add_flags, from_toml
from segsrgan.errors import UserError
from supermask.training.settings import TrainingSettings

_SCORES = ("dice", "overlap_before", "overlap", "similarity", "angle_error", "shift_error")
_REMEDY = "a smaller --batch_size or --grid_size, or fewer --repeats"

_EPILOG = """
data, either or both:
  --csv              a CSV of patients (columns view_1, view_2, view_3 or axial, coronal, sagittal;
                     mask_1, ... or axial_mask, ...; base: Train or Test), or a folder of them.
                     Stacks of supermask-simulate bring their true transforms along
  --synthetic_cases  a CSV with the columns mask, perhaps image and base (Train or Test), or a
                     folder of masks. Thick stacks of moved patients are made of them in memory;
                     where there is no image, one is painted

training:
  Stage 1 trains the segmentor by its Dice and AlignNet by the cross-correlation of what it aligns.
  Stage 2 trains both in turn, each with a loss that the other one gives it. In an epoch each view
  has its turn once, unless --steps says otherwise.

results, in the snapshot folder:
  SuperMask_epoch_<n>  weights of both, for supermask-predict --weights
  SuperMask_best       those with the smallest loss on the test patients
  epoch_<n>.png        a test pair: moving, fixed, aligned, mask, prediction
  history.csv          a row of losses and scores for each epoch
  tensorboard          the same, for: tensorboard --logdir FOLDER (pip install SegSRGAN[report])
  settings.toml        these flags, for --config: the same training again, or with --resume
                       the rest of it
  state_*.h5           all that --resume needs; the newest two

SIGTERM or Ctrl-C ends the training after the current cycle with its state saved, a second Ctrl-C
at once.

exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted by Ctrl-C,
143 by SIGTERM. docs/use/supermask_training.md tells more.
"""


def build_parser(prog="supermask-train"):
    """The parser of the command line; the namespace holds only what was typed."""
    parser = Parser(
        prog=prog,
        description="Trains the segmentor and the AlignNet of SuperMask.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="settings of an earlier training, or your own: any of the flags below by its long "
        "name; what is typed goes first",
    )
    add_flags(parser, TrainingSettings)
    return parser


def settings_of(args):
    """The `TrainingSettings` of parsed arguments.

    Raises:
        UserError: if one is missing, or a value is not possible.
    """
    typed = dict(vars(args))
    config = typed.pop("config", None)
    values = {**from_toml(config, TrainingSettings), **typed} if config else typed
    if not values.get("csv") and not values.get("synthetic_cases"):
        raise UserError("nothing to train on; give --csv or --synthetic_cases (see --help)")
    if not values.get("snapshot_folder"):
        raise UserError(
            "--snapshot_folder: required, on the command line or in the file of --config "
            "(see --help)"
        )
    return TrainingSettings(**values)


def main(argv=None, prog="supermask-train"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status, see `segsrgan.cli.console.train`.
    """

    def parse(argv):
        settings = settings_of(build_parser(prog).parse_args(argv))
        return settings, settings.epochs

    return train(argv, prog, parse, "supermask.training.run", _SCORES, _REMEDY)


if __name__ == "__main__":
    sys.exit(main())
