# SPDX-License-Identifier: MIT
"""The command `supermask-simulate`: examinations with a known answer."""

import logging

from segsrgan.cli.console import Parser, ProgressBar, command
from segsrgan.config import Rule, add_flags, typed
from segsrgan.errors import UserError
from supermask.settings import Simulation

logger = logging.getLogger(__name__)

_EPILOG = """
input, one of:
  --path FOLDER  a task of the Medical Segmentation Decathlon (imagesTr, labelsTr) or BraTS, of any
                 year, as they are unpacked
  --masks        of any volumes, and --images the volumes in the same order

results, for each volume and repetition in OUTPUT/CASE/: axial.nii.gz, axial_mask.nii.gz, and so on
for the other planes, truth.nii.gz (the high-resolution mask in the pose of the first plane),
truth_image.nii.gz, true_<view>_to_<reference>.tfm, case.json. OUTPUT/cases.csv, which lists all
cases in OUTPUT, goes into supermask-predict --path and supermask-train --csv.

exit status: 0 all done, 1 some volumes failed, 2 nothing was begun, 130 interrupted.
"""


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="supermask-simulate",
        description="Makes thick, moved stacks of volumes whose object is known.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("-p", "--path", metavar="FOLDER", help="folder of the Decathlon or of BraTS")
    add("--modality", default="flair", metavar="NAME", help="of BraTS: flair, t1, t1ce or t2")
    add("--channel", type=int, default=0, metavar="N", help="of images that have several")
    add("--masks", nargs="+", metavar="MASK", help="masks, one for each volume")
    add("--images", nargs="+", metavar="IMAGE", help="the volumes (default: the masks themselves)")
    add("-o", "--output", required=True, metavar="FOLDER", help="where the cases go")
    add("--labels", metavar="VALUES", help="values of the masks that make the object: 3,42")
    add(
        "--slices",
        nargs="+",
        type=float,
        metavar="MM",
        help="their distance, one or one for each plane (default: 8)",
    )
    add(
        "--planes",
        nargs="+",
        metavar="PLANE",
        help="of the stacks; the first does not move (default: axial coronal sagittal)",
    )
    add_flags(parser, Simulation)
    add("--repeat", type=int, default=1, metavar="N", help="examinations of each volume")
    add("--test", type=float, default=0.0, metavar="FRACTION", help="of the volumes, marked Test")
    add("--seed", type=int, default=0, metavar="N", help="of all random numbers (default: 0)")
    add("--overwrite", action="store_true", help="replace cases that are there")
    add("--quiet", action="store_true", help="errors only")
    add("--verbose", action="store_true", help="more messages")
    return parser


def _run(args):
    from supermask.simulation import check_table, make_case, plan_cases, write_table

    simulation = typed(args, Simulation)
    labels = Rule(tuple[int, ...] | None).checked(args.labels, "labels")
    images, masks = _files(args)
    options = {name: getattr(args, name) for name in ("repeat", "test", "seed", "channel")}
    plans = plan_cases(masks, images, args.output, **options)
    check_table(args.output)
    whole = 0
    with ProgressBar(args.quiet, unit="case") as bar:
        bar("simulating", 0, len(plans))
        for done, plan in enumerate(plans, start=1):
            whole += make_case(plan, simulation, labels, args.overwrite)
            bar("simulating", done, len(plans))
    if whole:
        path = write_table(args.output)
        logger.info("%d of %d cases are there, listed in %s", whole, len(plans), path)
    return int(whole < len(plans))


def _files(args):
    """The paths of the volumes, None where there are only masks, and of the masks."""
    from supermask.simulation import find_pairs

    if (args.path is None) == (args.masks is None):
        raise UserError("give either --path or --masks")
    if args.path is None:
        return args.images, args.masks
    if args.images:
        raise UserError("--images goes with --masks; --path finds its own")
    pairs = find_pairs(args.path, args.modality)
    return [image for image, _ in pairs], [mask for _, mask in pairs]


main = command(build_parser, _run, "what is whole stays")
