# SPDX-License-Identifier: MIT
"""The command `segsrgan synthesize`: samples of the synthetic images that a training would see."""

import sys
from pathlib import Path

from segsrgan.cli.console import Parser, messages, status_of
from segsrgan.config import Rule, check_bounds, whole_numbers
from segsrgan.errors import full_text
from segsrgan.training.settings import DRAWN, SYNTHETIC, TISSUES

_THICKNESS = DRAWN["synthetic_thickness"]
# Of each flag its rule, default and help.
_FLAGS = {
    "number": (Rule(int, low=1), 4, "of samples"),
    "patch": (Rule(int, low=8), 128, "edge of a sample in voxels"),
    "seed": (Rule(int, low=0, high=2**32 - 1), 0, "of all randomness"),
    "thickness": (Rule(float, low=1, count=2), _THICKNESS, "bounds of the slice distance, voxels"),
    "stripped": (
        Rule(float, low=0, high=1, optional=True),
        None,
        "fraction of samples of the brain alone",
    ),
    "cortex_labels": (Rule(str), SYNTHETIC["cortex_labels"], "values of the structure to segment"),
    "tissues": (Rule(str, choices=TISSUES), SYNTHETIC["tissues"], " or ".join(TISSUES)),
}


def build_parser(prog):
    """The parser of the command line."""
    parser = Parser(
        prog=prog,
        description="Paints images of random contrast on label maps, with low-resolution scans of "
        "them, as training with --synthetic does, and writes some to look at.",
        epilog="exit status: 0 done, 2 it could not be done, 130 interrupted.",
    )
    add = parser.add_argument
    add("maps", nargs="*", metavar="MAP", help="label maps, each used in turn")
    add("--csv", metavar="PATH", help="CSV of label maps instead, as for `train --synthetic`")
    add("--output", required=True, metavar="FOLDER", help="where the samples go; made if need be")
    add("--overwrite", action="store_true", help="replace what is there")
    for name, (rule, default, text) in _FLAGS.items():
        words = default if rule.count > 1 else [default]
        shown = "as in training" if default is None else " ".join(map(str, words))
        options = {"nargs": rule.count} if rule.count > 1 else {}
        options |= {"type": rule.parse, "default": default, "metavar": "X"}
        add(f"--{name}", help=f"{text} (default: {shown})", **options)
    return parser


def main(argv=None, prog="segsrgan synthesize"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 done, 2 it could not be done, 130 interrupted.
    """

    def run():
        args = build_parser(prog).parse_args(argv)
        for name, (rule, *_) in _FLAGS.items():
            setattr(args, name, rule.checked(getattr(args, name), f"--{name}"))
        check_bounds(args.thickness, "--thickness")
        if bool(args.maps) == bool(args.csv):
            raise ValueError("name label maps, or a CSV of them with --csv: one of the two")
        with messages(prog):
            _synthesize(args, whole_numbers(args.cortex_labels, "--cortex_labels", low=1))
        return 0

    return status_of(run, prog, text=full_text)


def _synthesize(args, cortex):
    from segsrgan.training.synthetic import maps, samples
    from segsrgan.training.synthetic.sources import Acquisition

    if args.csv:
        found = maps.read_maps(args.csv, None, cortex, args.tissues)
    else:
        files = [maps.MapFile(Path(path), cortex, args.tissues) for path in args.maps]
        found = maps.load_maps(files)
    how = {"patch": args.patch, "acquisition": Acquisition(ratio=args.thickness)}
    if args.stripped is not None:
        how["strip"] = args.stripped
    sources, total = [item.source(**how) for item in found], 0.0
    written = samples.write_samples(sources, args.output, args.number, args.seed, args.overwrite)
    for index, sample in enumerate(written, start=1):
        name, distance = found[sample.source].file.path.name, sample.resolution
        total += sample.seconds
        print(
            f"sample {index}: {name}, slices {distance:.2f} voxels apart, {sample.seconds:.2f} s",
            flush=True,
        )
    print(f"{total / args.number:.2f} s per sample; see {Path(args.output, samples.SHEET)}")


if __name__ == "__main__":
    sys.exit(main())
