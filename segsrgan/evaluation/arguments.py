# SPDX-License-Identifier: MIT
"""The flags of `segsrgan evaluate`; needs neither NumPy nor SciPy."""

import argparse
from pathlib import Path

from segsrgan.errors import UserError

# As in METRICS, whose module is slow to import; a test compares them.
NAMES = (
    "dice, hd95, assd, components, reference_components, volume, reference_volume, "
    "volume_difference, false_share, missed_share, share_rms, boundary_agreement, "
    "boundary_agreement_3d, psnr, ssim"
)

_EPILOG = """
input, one of:
  --path CSV     a row for each case; the first line names the columns: image and
                 reference_image, or label and reference_label, or all four; also
                 mask (the region, such as the brain, where images are compared),
                 baseline (image of low resolution, interpolated by cubic splines and
                 measured beside the image) and case (a name)
  --predictions  and --references: two folders whose files have the same names, not
                 counting the suffix and SR_, Cortex_mask_, Cortex_ or Mask_ at the start;
                 or patterns in quotes whose one * is the name: "hr/*_T2w.nii.gz"

exit status: 0 all measured, 1 some cases failed, 2 nothing could be done, 130 interrupted.
docs/evaluate.md defines the measures.
"""


def build_parser(prog, parser_class=argparse.ArgumentParser):
    """The parser of the command line.

    Args:
        prog: the program's name in messages.
        parser_class: of the parser.
    """
    parser = parser_class(
        prog=prog,
        description="Measures images and segmentations against references.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--path", metavar="CSV", help="CSV file of the cases")
    add("--predictions", nargs="+", metavar="PLACE", help="folder or pattern of predictions")
    add("--references", nargs="+", metavar="PLACE", help="folder or pattern of references")
    add("--kind", choices=("image", "label"), help="what --predictions and --references hold")
    add("--masks", nargs="+", metavar="PLACE", help="with --kind image: regions to compare in")
    add("--baselines", nargs="+", metavar="PLACE", help="with --kind image: low resolution")
    add("--allow_missing", action="store_true", help="leave out what has no partner")
    add("--metrics", metavar="NAMES", help=f"by comma, some of {NAMES} (default: all possible)")
    add(
        "--labels",
        metavar="VALUES",
        help="values of the reference label that make the class, by comma: 3,42 (default: all "
        "but 0)",
    )
    add("--predicted_labels", metavar="VALUES", help="likewise of the prediction")
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a voxel belongs to the class (default: 0.5)",
    )
    add(
        "--resample",
        action="store_true",
        help="put predictions and masks of another grid onto the reference's (labels by nearest "
        "neighbour, images and probabilities linearly)",
    )
    add("--csv", metavar="FILE", help="write the values of each case")
    add("--json", metavar="FILE", help="write everything: settings, versions, cases, means")
    add("--overwrite", action="store_true", help="replace --csv and --json files that exist")
    add("--quiet", action="store_true", help="no table, errors only")
    add("--verbose", action="store_true", help="more messages, tracebacks of failed cases")
    return parser


def settings_of(args):
    """The `Settings` of parsed arguments.

    Raises:
        UserError: if a value is not possible.
    """
    from segsrgan.evaluation.settings import Settings

    metrics = None if args.metrics is None else tuple(_words(args.metrics, "metrics"))
    return Settings(
        metrics,
        _numbers(args.labels, "labels"),
        _numbers(args.predicted_labels, "predicted_labels"),
        args.threshold,
        args.resample,
    )


def cases_of(args):
    """The list of `Case` of parsed arguments.

    Raises:
        UserError: if the input is not given in exactly one way, or is not possible.
    """
    from segsrgan.evaluation.cases import read_cases
    from segsrgan.evaluation.places import match_cases

    places = ("predictions", "references", "masks", "baselines")
    given = [f"--{name}" for name in (*places, "kind") if getattr(args, name)]
    if args.path and given:
        raise UserError(f"--path names all files, so leave out {', '.join(given)}")
    if args.path:
        return read_cases(args.path)
    needed = [name for name in ("predictions", "references", "kind") if not getattr(args, name)]
    if needed:
        raise UserError(
            "expected --path CSV, or --predictions, --references and --kind, received "
            f"{' '.join(given) or 'neither'}"
        )
    return match_cases(
        *(_place(args, name) for name in places[:2]),
        args.kind,
        *(_place(args, name) for name in places[2:]),
        args.allow_missing,
    )


def check_outputs(args, cases):
    """Make sure, before the work, that the results can be written and replace nothing else.

    Raises:
        UserError: if a file exists and `--overwrite` is not given, is one of the inputs,
            is named twice, or its folder does not exist.
    """
    inputs = {path.resolve() for case in cases for path in case.files.values()}
    inputs |= {Path(args.path).expanduser().resolve()} if args.path else set()
    outputs = {flag: path for flag in ("csv", "json") if (path := getattr(args, flag))}
    paths = [Path(path).resolve() for path in outputs.values()]
    if len(set(paths)) < len(paths):
        raise UserError(f"--csv and --json must differ, received {args.csv} for both")
    for (flag, name), path in zip(outputs.items(), paths, strict=True):
        if path in inputs:
            raise UserError(f"--{flag} {name}: is an input; name another file")
        if path.is_dir() or not path.parent.is_dir():
            what = "is a folder" if path.is_dir() else "its folder does not exist"
            raise UserError(f"--{flag} {name}: {what}; name a file in an existing folder")
        if path.exists() and not args.overwrite:
            raise UserError(f"--{flag} {name}: exists; --overwrite replaces it")


def _words(text, name):
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError(f"--{name} must name something, received {text!r}")
    return words


def _numbers(text, name):
    if text is None:
        return None
    try:
        return tuple(int(word) for word in _words(text, name))
    except ValueError:
        raise UserError(
            f"--{name} must be whole numbers by comma, received {text!r}; try 3,42"
        ) from None


def _place(args, name):
    words = getattr(args, name)
    if words and len(words) > 1:
        raise UserError(
            f"--{name} takes one folder or pattern, received {len(words)} paths; put the pattern "
            "in quotes, so that the shell leaves its * alone"
        )
    return words[0] if words else None
