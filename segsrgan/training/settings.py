# SPDX-License-Identifier: MIT
"""The flags of `SegSRGAN_training.py`; needs neither NumPy nor Keras.

Types, ranges and defaults are those of `configuration.Settings`. The parser itself knows no
default, so that what was typed can be told from what was not and goes before `--config`.
"""

import argparse
from dataclasses import MISSING, fields, replace

from segsrgan.config import INTERPOLATION_TYPES, add_flag, from_toml, rules_of
from segsrgan.training.configuration import Settings, flag_of

_EPILOG = """
data:
  The CSV has the columns HR_image, Label_image and Base (Train or Test), and Mask_image for
  --fit_mask and for --image_cropping_method overlapping_with_mask. In every epoch each image is
  degraded anew to the low resolution, interpolated back and cut into patches; without
  --folder_training_data nothing of it is written to disk. With --synthetic a share of the patches
  is cut from images of random contrast that are painted on label maps, a new one for each patch.

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

# (setting, further spellings, help), in the order of --help.
_DATA = (
    ("csv", "-csv", "CSV of the training and test images"),
    (
        "base_path",
        "-begining_path",
        "where relative paths in a CSV start (default: that CSV's folder)",
    ),
    (
        "slice_thickness",
        "",
        "slice thickness in mm along the axes that get coarser (default: the resolution itself)",
    ),
    ("contrast_max", "-contrast_max", "intensities are raised to a power within 1 +- this"),
    (
        "percent_val_max",
        "-percent_val_max",
        "noise of the low-resolution images, as a share of their maximum",
    ),
    ("patch_size", "-ps", "edge of the patches in voxels"),
    ("stride", "", "voxels between neighbouring patches"),
    (
        "interp",
        "-int",
        "interpolation of the low-resolution images: cubic splines (scipy), sitk, or splines that "
        "know the slice profile (default: that of --weights, or scipy)",
    ),
    ("interpolation_type", "-it", f"with --interp sitk: {', '.join(INTERPOLATION_TYPES)}"),
    (
        "image_cropping_method",
        "-icm",
        "take the patches of the bounding box, or those of which more than half is in Mask_image",
    ),
    ("fit_mask", "-fm", "learn the classes of Mask_image, too"),
    ("flip", "", "flip patches at random"),
    ("rotation", "", "rotate each image by up to this many degrees in every epoch"),
    ("elastic", "", "deform each image by up to this many mm in every epoch"),
    ("images_in_memory", "", "images whose patches are shuffled together; as many are prepared"),
    (
        "folder_training_data",
        "-folder_training_data",
        "cache of prepared images, which several trainings may share (default: none)",
    ),
    ("keep_training_data", "", "leave the cache where it is at the end"),
)
_SYNTHETIC = (
    (
        "synthetic",
        "",
        "CSV of label maps, from which images of random contrast are made; columns: Label_map, and "
        "optionally Cortex, Tissues, Scale_min, Scale_max",
    ),
    (
        "synthetic_ratio",
        "",
        "share of synthetic patches; 1: no others, and --csv needs no row of Train (default: 0.5)",
    ),
    (
        "synthetic_thickness",
        "",
        "bounds of their slice distance, in voxels of the patch (default: 1.5 7)",
    ),
    ("cortex_labels", "", "values of the structure to segment in the maps (default: 3,42)"),
    (
        "tissues",
        "",
        "what looks alike: FreeSurfer's numbers by tissue, or each value by itself, all of them "
        "brain (default: freesurfer)",
    ),
)
_NETWORK = (
    ("kernel_gen", "", "channels of the generator's first layer (default: 16)"),
    ("kernel_dis", "", "channels of the discriminator's first layer (default: 32)"),
    ("u_net_generator", "-u_net", "U-Net generator (default: False)"),
    (
        "is_conditional",
        "-is_conditional",
        "tell the networks the slice resolution (default: False)",
    ),
    (
        "is_residual",
        "-is_residual",
        "the generator predicts a correction of its input (default: True)",
    ),
    (
        "scaled_residual",
        "",
        "the correction is in tenths of the patch's standard deviation (default: False)",
    ),
    ("blocks_gen", "", "residual blocks at the lowest resolution (default: 6, in the U-Net 1)"),
    ("growth_gen", "", "factor of the channels from one resolution to the next (default: 2)"),
    ("head_gen", "", "edge of the last convolution's kernel, odd (default: 7)"),
    (
        "slice_voxels",
        "",
        "voxels of the network's input per acquired slice, 0, 2 or 4; the images are interpolated "
        "to that, here and at inference; 0: as they come (default: that of --weights, or 0)",
    ),
    ("weights", "-w", "weights to start from, ours or the original's (default: random)"),
)
_TRAINING = (
    ("snapshot_folder", "-sf", "folder of the results, see below"),
    ("dice_file", "-dice", "CSV of the Dice after each epoch"),
    ("mse_file", "-mse", "CSV of the mean squared error likewise"),
    ("epoch", "-e", "number of the last epoch"),
    (
        "init_epoch",
        "-i",
        "number of the first; above 1 it starts from --weights, or from the snapshot before it",
    ),
    ("batch_size", "-b", "patches of an update, on all devices together"),
    ("snapshot", "-s", "epochs between snapshots"),
    ("lrgen", "", "learning rate of the generator"),
    ("lrdis", "", "learning rate of the discriminator"),
    ("lambrec", "", "weight of the reconstruction loss"),
    ("lambadv", "", "weight of the adversarial loss; 0: no discriminator"),
    ("lambgp", "", "weight of the gradient penalty"),
    (
        "number_of_discriminator_iteration",
        "--number_of_disciminator_iteration",
        "updates of the discriminator per update of the generator",
    ),
    (
        "reconstruction_loss",
        "-rl",
        "Charbonnier loss of all outputs, or of the image alone plus soft Dice of the label and "
        "classes",
    ),
    ("precision", "", "numbers that the networks compute with"),
    ("seed", "", "of all randomness"),
    (
        "resume",
        "",
        "go on from the newest state in the snapshot folder; where there is none yet, start as the "
        "other flags say",
    ),
    ("state_minutes", "", "minutes between saved states; each epoch's end has one in any case"),
    ("tensorboard", "", "record for TensorBoard, too"),
    ("multi_gpu", "-multi_gpu", "use all GPUs of this computer"),
    (
        "workers",
        "",
        "all processes that train together, the chief first (default: what TF_CONFIG says)",
    ),
    ("worker_index", "", "number of this process among the workers, from 0"),
)
_GROUPS = {"data": _DATA, "synthetic data": _SYNTHETIC}
_GROUPS |= {"network": _NETWORK, "training": _TRAINING}
_METAVARS = {bool: "True|False", int: "N", float: "X", str: "PATH"}
_METAVARS |= {"workers": "HOST:PORT,...", "interpolation_type": "TYPE", "cortex_labels": "N,..."}


def build_parser(prog, parser_class=argparse.ArgumentParser):
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
    defaults, rules = {item.name: item.default for item in fields(Settings)}, rules_of(Settings)
    for title, flags in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, spellings, text in flags:
            metavar = _METAVARS.get(name) or _METAVARS[rules[name].kind]
            told = {"help": text, "flags": tuple(spellings.split())}
            told |= {"metavar": None if rules[name].choices and name not in _METAVARS else metavar}
            add_flag(group, name, replace(rules[name], **told), defaults[name])
            if name == "base_path":
                _add_resolution(group.add_argument)
    return parser


def settings_of(args):
    """The `Settings` of parsed arguments.

    Raises:
        ValueError: if one is missing, or they are none of those possible.
    """
    typed = dict(vars(args))
    config, bounds = typed.pop("config", None), typed.pop("new_low_res", None)
    values = {**from_toml(config, Settings), **typed} if config else typed
    if bounds:
        if len(bounds) > 2:
            raise ValueError(
                f"--new_low_res may be given once or twice, received {len(bounds)} times"
            )
        values |= {"low_res": bounds[0], "low_res_upper": bounds[-1]}
    elif "low_res" in values:
        values.setdefault("low_res_upper", values["low_res"])
    required = (item.name for item in fields(Settings) if item.default is MISSING)
    missing = [flag_of(name) for name in required if name not in values and name != "low_res_upper"]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: required, on the command line or in the file of --config "
            "(see --help)"
        )
    return Settings(**values)


def _add_resolution(add):
    add(
        "-n",
        "--new_low_res",
        nargs=3,
        type=rules_of(Settings)["low_res"].parse,
        action="append",
        metavar="MM",
        help="low resolution in mm, e.g. 0.5 0.5 3; given twice: bounds between which it is "
        "drawn for each image and epoch",
    )
