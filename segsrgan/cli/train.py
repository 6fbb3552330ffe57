# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py`: trains SegSRGAN on the images of a CSV file."""

import argparse
import sys
from dataclasses import MISSING, fields

from segsrgan.cli.console import Parser, train
from segsrgan.config import add_flags, from_toml, rules_of
from segsrgan.errors import UserError
from segsrgan.training.settings import TrainingSettings, flag_of

_SCORES = ("dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse")
_REMEDY = "a smaller --images_in_memory, --batch_size or --patch_size"

_EPILOG = """
data:
  The CSV has the columns HR_image, Label_image and Base (Train or Test), and Mask_image for
  --fit_mask and for --image_cropping_method overlapping_with_mask. In every epoch each image is
  degraded anew to the low resolution, interpolated back and cut into patches; without
  --folder_training_data nothing of it is written to disk. With --synthetic a fraction of the
  patches is cut from images of random contrast that are painted on label maps, a new one for each
  patch.

training:
  A cycle is --number_of_discriminator_iteration updates of the discriminator and one of the
  generator; an epoch is as many cycles as the patches of all images make batches. --lambadv 0
  trains the generator alone, on its reconstruction loss.

results, in the snapshot folder:
  SegSRGAN_epoch_<n>   weights, for job_model.py --weights_path
  SegSRGAN_best        those with the smallest loss on the test images
  epoch_<n>.png        a test patch: low and high resolution, result, label, prediction
  history.csv          a row of losses and scores for each epoch; the Dice and the mean squared
                       error also in --dice_file and --mse_file
  tensorboard          the same, for: tensorboard --logdir FOLDER
                       (pip install SegSRGAN[report])
  settings.toml        these flags, for --config: the same training again, or with --resume
                       the rest of it
  state_*.h5           all that --resume needs; the newest two

SIGTERM or Ctrl-C ends the training after the current cycle with its state saved, a second Ctrl-C
at once.

exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted by Ctrl-C,
143 by SIGTERM.
"""


def build_parser(prog, parser_class=Parser):
    """The parser of the command line; the namespace holds only what was typed."""
    parser = parser_class(
        prog=prog,
        description="Trains SegSRGAN on the images of a CSV file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.toml",
        help="settings of an earlier training, or your own: any of the flags below by its long "
        "name, and low_res and low_res_upper for --new_low_res; what is typed goes first",
    )
    parser.add_argument(
        "-n",
        "--new_low_res",
        nargs=3,
        type=rules_of(TrainingSettings)["low_res"].parse,
        action="append",
        metavar="MM",
        help="low resolution in mm, e.g. 0.5 0.5 3; given twice: bounds between which it is "
        "drawn for each image and epoch",
    )
    add_flags(parser, TrainingSettings)
    return parser


def settings_of(args):
    """The `TrainingSettings` of parsed arguments.

    Raises:
        UserError: if one is missing, or a value is not possible.
    """
    typed = dict(vars(args))
    config, bounds = typed.pop("config", None), typed.pop("new_low_res", None)
    values = {**from_toml(config, TrainingSettings), **typed} if config else typed
    if bounds:
        if len(bounds) > 2:
            raise UserError(
                f"--new_low_res may be given once or twice, received {len(bounds)} times"
            )
        values |= {"low_res": bounds[0], "low_res_upper": bounds[-1]}
    elif "low_res" in values:
        values.setdefault("low_res_upper", values["low_res"])
    required = (item.name for item in fields(TrainingSettings) if item.default is MISSING)
    missing = [flag_of(name) for name in required if name not in values and name != "low_res_upper"]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: required, on the command line or in the file of --config "
            "(see --help)"
        )
    return TrainingSettings(**values)


def main(argv=None, prog="SegSRGAN_training.py"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status, see `segsrgan.cli.console.train`.
    """

    def parse(argv):
        settings = settings_of(build_parser(prog).parse_args(argv))
        return settings, settings.epoch

    return train(argv, prog, parse, "segsrgan.training.run", _SCORES, _REMEDY)


if __name__ == "__main__":
    sys.exit(main())
