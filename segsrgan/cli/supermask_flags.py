# SPDX-License-Identifier: MIT
"""The flags of `supermask-predict`; needs no library that is slow to load."""

import argparse

from segsrgan.cli.console import Parser
from segsrgan.errors import UserError
from supermask.patient import Patient
from supermask.settings import ALIGNMENTS, FUSIONS, ON, ORDERS, Settings

_EPILOG = """
input, one of:
  --path CSV      a row for each patient; columns view_1, view_2, view_3 (any order; or axial,
                  coronal, sagittal), mask_1, ... or axial_mask, ..., patient
  --path FOLDER   of one patient, or of folders of patients: axial.nii.gz, axial_mask.nii.gz, ...
  --views         the stacks of one patient, and --masks theirs in the same order

results, in OUTPUT/PATIENT/: mask.nii.gz, probability.nii.gz, image.nii.gz (the views' intensities
  fused), <view>_mask.nii.gz (aligned), <view>_to_<reference>.tfm (ITK; a resampler takes it as it
  is), report.json. Finished patients are skipped.

exit status: 0 all done, 1 some patients failed or are doubtful (aligned masks hardly overlap), or a
stack could not be used, 2 nothing could be done, 130 interrupted. docs/use/supermask.md tells more.
"""


def build_parser(prog="supermask-predict"):
    """The parser of the command line."""
    parser = Parser(
        prog=prog,
        description="Makes one high-resolution mask of two or three unaligned stacks of a patient.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--path", metavar="PLACE", help="CSV file or folder of the patients")
    add("--views", nargs="+", metavar="STACK", help="one to three stacks of one patient")
    add("--masks", nargs="+", metavar="MASK", help="their masks, in the same order")
    add("-o", "--output", required=True, metavar="FOLDER", help="where the results go")
    add("-w", "--weights", metavar="WEIGHTS", help="weight file of segmentor and AlignNet")
    add(
        "--labels",
        metavar="VALUES",
        help="values of the masks that make the object, by comma: 3,42 (default: all but 0)",
    )
    add(
        "--alignment",
        choices=ALIGNMENTS,
        help="none: trust the headers (default: alignnet if the weights have one, else classical)",
    )
    add("--reference", metavar="VIEW", help="view that gives the pose (default: axial)")
    add("--passes", type=int, default=1, metavar="N", help="passes of AlignNet (default: 1)")
    add(
        "--refine",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="go on classically from AlignNet's answer, keep the better (default: on)",
    )
    add("--segsrgan", metavar="WEIGHTS", help="super-resolve each stack by SegSRGAN first")
    add("--on", default="auto", choices=ON, help="what is registered classically (default: auto)")
    add(
        "--order",
        default="align",
        choices=ORDERS,
        help="align images, then segment; or segment, then align masks (default: align)",
    )
    add(
        "--fusion",
        default="gaussian",
        choices=FUSIONS,
        help="of masks and images (default: gaussian)",
    )
    add("--width", type=float, default=1.0, metavar="F", help="factor of the Gaussian's width")
    add("--least", type=float, default=0.0, metavar="C", help="least confidence (default: 0)")
    add("--spacing", type=float, metavar="MM", help="voxel size of the result")
    add("--size", type=int, metavar="N", help="edge of the result in voxels (default: the object)")
    add("--threshold", type=float, default=0.5, metavar="P", help="of the mask (default: 0.5)")
    add("--patch", type=int, default=128, metavar="N", help="voxels segmented at once, edge")
    add("--overwrite", action="store_true", help="replace finished results")
    add("--quiet", action="store_true", help="errors only")
    add("--verbose", action="store_true", help="more messages, tracebacks of failures included")
    return parser


def settings_of(args):
    """The `Settings` of parsed arguments; raises `UserError`."""
    names = Settings.__dataclass_fields__
    return Settings(**{name: value for name, value in vars(args).items() if name in names})


def patients_of(args):
    """The list of `Patient` of parsed arguments; raises `UserError`."""
    if (args.path is None) == (args.views is None):
        raise UserError("give either --path or --views")
    if args.path is not None:
        if args.masks:
            raise UserError("--masks goes with --views; put masks into the CSV or folder")
        from supermask.table import read_patients

        return read_patients(args.path)
    if args.masks and len(args.masks) != len(args.views):
        raise UserError(
            f"expected as many masks as views, received {len(args.masks)} and {len(args.views)}"
        )
    return [Patient("patient", tuple(args.views), tuple(args.masks or ()))]


def labels_of(args):
    """The values of `--labels`, a tuple of int or None; raises `UserError`."""
    if args.labels is None:
        return None
    try:
        values = tuple(int(word) for word in args.labels.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values:
        raise UserError(
            f"labels must be whole numbers by comma, received {args.labels!r}; try 3,42"
        )
    return values
