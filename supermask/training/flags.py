# SPDX-License-Identifier: MIT
"""The flags of `supermask-train`; needs neither NumPy nor Keras.

Types, ranges and defaults are those of `configuration.Settings`. The parser itself knows no
default, so that what was typed can be told from what was not and goes before `--config`.
"""

import argparse
from dataclasses import fields, replace

from segsrgan.config import add_flag, from_toml, rules_of
from supermask.training.configuration import Settings

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
143 by SIGTERM. docs/supermask_training.md tells more.
"""

# (setting, help), in the order of --help.
_DATA = (
    ("csv", "CSV or folder of patients with masks"),
    ("synthetic_cases", "CSV or folder of masks to make patients of"),
    ("labels", "values of the masks that make the object, by comma (default: all but 0)"),
    ("repeats", "examinations made of each synthetic case"),
    ("slices", "distance of their slices, mm"),
    ("test_share", "of the synthetic cases, the last ones, where no column says which test"),
    ("grid_size", "edge of the cubic grid that both networks see, voxels"),
    ("spacing", "voxel size of that grid, mm"),
    ("through", "how slices get onto the grid: the nearest one's values, or between them"),
    ("rotation", "random motions turn about each axis by up to this, degrees"),
    ("pose", "random poses of both views of a pair likewise (default: --rotation)"),
    ("shift", "both shift along each by up to this, voxels (default: 30/256 of the grid's edge)"),
    ("contrast_max", "intensities are raised to a power within 1 +- this"),
    ("noise", "standard deviation of noise on the images, of their range"),
    (
        "orientations",
        "cycles in a row that use what was drawn, each time turned by 90 degrees and mirrored at "
        "random: 1 as in the paper; about 6 saves most of the time that drawing takes",
    ),
)
_NETWORK = (
    ("train", "which networks"),
    ("kernel", "channels of the segmentor's first convolution"),
    ("levels", "resolutions of the segmentor"),
    ("alignnet_kernels", "channels of AlignNet's convolutions, by comma"),
    ("hidden", "units of AlignNet's dense layer"),
    ("largest_angle", "bound of AlignNet's angles, degrees"),
    ("largest_shift", "bound of its shifts, of half the grid's edge"),
    ("antisymmetric", "AlignNet finds no motion between equal images; False: as in the paper"),
    ("weights", "weights to start from, a file or a name; their networks keep their sizes"),
)
_TRAINING = (
    ("snapshot_folder", "folder of the results, see below"),
    ("stage1_epochs", "epochs of stage 1, each network by itself"),
    ("stage2_epochs", "epochs of stage 2, with cross-view consistency"),
    ("steps", "cycles in an epoch (default: as many as give each view its turn)"),
    ("batch_size", "images, or pairs, of an update, on all devices together"),
    ("lr1", "learning rate of stage 1"),
    ("lr2", "learning rate that stage 2 begins with"),
    ("decay", "factor of the learning rate in stage 2 ..."),
    ("decay_every", "... every so many updates"),
    ("window", "edge of the window of the local cross-correlation, voxels, odd"),
    (
        "supervised_alignment",
        "what AlignNet learns from besides the images: the masks, as in the paper's second "
        "version, or the true transforms, where they are known",
    ),
    ("lambda_sim", "weight of the images' similarity"),
    ("lambda1", "weight of L_ID: equal images stay where they are"),
    ("lambda2", "weight of the masks' similarity"),
    ("lambda_transform", "weight of the distance to the true transforms"),
    ("alpha1", "weight of L_cons1 in the segmentor's loss"),
    ("alpha2", "weight of L_cons2 in AlignNet's loss"),
    ("precision", "numbers that the networks compute with"),
    ("seed", "of all randomness"),
    (
        "resume",
        "go on from the newest state in the snapshot folder; where there is none yet, start as "
        "the other flags say",
    ),
    ("snapshot", "epochs between snapshots"),
    ("state_minutes", "minutes between saved states; each epoch's end has one in any case"),
    ("tensorboard", "record for TensorBoard, too"),
    ("multi_gpu", "use all GPUs of this computer"),
    (
        "workers",
        "all processes that train together, the chief first (default: what TF_CONFIG says)",
    ),
    ("worker_index", "number of this process among the workers, from 0"),
)
_GROUPS = {"data": _DATA, "networks": _NETWORK, "training": _TRAINING}
_SHORT = {"snapshot_folder": ("-sf",), "batch_size": ("-b",), "weights": ("-w",)}


def build_parser(prog="supermask-train", parser_class=argparse.ArgumentParser):
    """The parser of the command line; the namespace holds only what was typed."""
    parser = parser_class(
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
    defaults, rules = {item.name: item.default for item in fields(Settings)}, rules_of(Settings)
    for title, flags in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, text in flags:
            told = {"help": text, "flags": _SHORT.get(name, ())}
            add_flag(group, name, replace(rules[name], **told), defaults[name])
    return parser


def settings_of(args):
    """The `Settings` of parsed arguments.

    Raises:
        ValueError: if one is missing, or they are none of those possible.
    """
    typed = dict(vars(args))
    config = typed.pop("config", None)
    values = {**from_toml(config, Settings), **typed} if config else typed
    if not values.get("csv") and not values.get("synthetic_cases"):
        raise ValueError("nothing to train on; give --csv or --synthetic_cases (see --help)")
    if not values.get("snapshot_folder"):
        raise ValueError(
            "--snapshot_folder: required, on the command line or in the file of --config "
            "(see --help)"
        )
    return Settings(**values)
