# SPDX-License-Identifier: MIT
"""The flags of `SegSRGAN_training.py`; needs neither NumPy nor Keras."""

import argparse
import math

_INTERPOLATIONS = (
    "NearestNeighbor Linear Spline Gaussian Hamming Cosine Welch Lanczos Blackman".split()
)
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")

_EPILOG = """
The CSV has the columns HR_image, Label_image and Base (Train or Test). Every epoch each image is
degraded anew to the low resolution, interpolated back and cut into patches; nothing is written to
disk but SegSRGAN_epoch_<n> and history.csv in the snapshot folder and the two CSV files. A
snapshot can be given to job_model.py --weights_path.

This version trains the generator on its reconstruction loss (section 5.1 of the paper, without
the adversarial term).

exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted.
"""


def boolean(text):
    """True or False from the words users write."""
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"expected True or False, received {text!r}")


def _number(low, kind=float, strict=False):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or value < low or (strict and value == low):
            bound = f"above {low}" if strict else f"from {low} up"
            raise argparse.ArgumentTypeError(f"expected a number {bound}, received {text!r}")
        return value

    return parse


def build_parser(prog, parser_class=argparse.ArgumentParser):
    """The parser of the command line."""
    parser = parser_class(
        prog=prog,
        description="Trains a SegSRGAN generator on the images of a CSV file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data(parser.add_argument_group("data").add_argument)
    _add_network(parser.add_argument_group("network").add_argument)
    _add_training(parser.add_argument_group("training").add_argument)
    return parser


def _add_data(add):
    positive = _number(0, strict=True)
    add("-csv", "--csv", required=True, help="CSV of the training and test images")
    add(
        "-begining_path",
        "--base_path",
        default="",
        help="where relative paths in the CSV start (default: the CSV's folder)",
    )
    add(
        "-n",
        "--new_low_res",
        nargs=3,
        type=positive,
        action="append",
        required=True,
        metavar="MM",
        help="low resolution in mm, e.g. 0.5 0.5 3; given twice: bounds between which it is "
        "drawn for each image and epoch",
    )
    add(
        "-contrast_max",
        "--contrast_max",
        type=_number(0),
        default=0.5,
        help="intensities are raised to a power within 1 +- this (default: %(default)s)",
    )
    add(
        "-percent_val_max",
        "--percent_val_max",
        type=_number(0),
        default=0.03,
        help="noise of the low-resolution images, as a share of their maximum (default: 0.03)",
    )
    add("-ps", "--patch_size", type=_number(4, int), default=64, help="voxels (default: 64)")
    add("--stride", type=_number(1, int), default=20, help="between patches (default: 20)")
    add("-int", "--interp", choices=("scipy", "sitk"), default="scipy", help="default: scipy")
    add(
        "-it",
        "--interpolation_type",
        choices=_INTERPOLATIONS,
        default="Spline",
        help="with --interp sitk (default: Spline)",
    )


def _add_network(add):
    # No defaults here: with --weights the file's architecture holds.
    add("--kernel_gen", type=_number(1, int), help="channels of the first layer (default: 16)")
    flag = {"type": boolean, "metavar": "True|False"}
    add("-u_net", "--u_net_generator", help="U-Net generator (default: False)", **flag)
    add(
        "-is_residual",
        "--is_residual",
        help="the network predicts a correction of its input (default: True)",
        **flag,
    )
    add("-w", "--weights", help="weights to start from, ours or the original's")


def _add_training(add):
    positive = _number(0, strict=True)
    whole = _number(1, int)
    add("-sf", "--snapshot_folder", required=True, help="for SegSRGAN_epoch_<n> and history.csv")
    add("-dice", "--dice_file", required=True, help="CSV of the Dice after each epoch")
    add("-mse", "--mse_file", required=True, help="CSV of the mean squared error likewise")
    add("-e", "--epoch", type=whole, default=200, help="number of the last epoch (default: 200)")
    add(
        "-i",
        "--init_epoch",
        type=whole,
        default=1,
        help="number of the first; above 1 the training "
        "goes on from --weights, or from the snapshot before it (default: 1)",
    )
    add("-b", "--batch_size", type=whole, default=32, help="patches (default: 32)")
    add("-s", "--snapshot", type=whole, default=1, help="epochs between snapshots (default: 1)")
    add("--lrgen", type=positive, default=1e-4, help="learning rate (default: 1e-4)")
    add("--lambrec", type=positive, default=1.0, help="weight of the loss (default: 1)")
    add("--seed", type=_number(0, int), default=0, help="of all randomness (default: 0)")
