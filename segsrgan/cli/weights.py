# SPDX-License-Identifier: MIT
"""The commands `segsrgan weights` and `segsrgan export`: what is done with weight files."""

import json
import logging

from segsrgan.cli.console import Parser, command, import_quietly
from segsrgan.inference.export import FORMATS, export

logger = logging.getLogger(__name__)

_USES = {  # by the kind of an entry of the registry
    None: "image and cortex: segsrgan predict, job_model.py",
    "brain": "the brain in a head: segsrgan strip, --strip, supermask-predict",
    "supermask": "masks from several stacks: supermask-predict",
}

_EXPORT = """
Writes a network for programs that know nothing of this package, in float32 and rewritten for
speed. It takes (batch, patch, patch, patch, 1), intensities in [0, 1], and gives (batch, patch,
patch, patch, channels): image, probability, then mask classes. Before it appears, it has computed
one patch and agreed with the network that the weights describe.
"""


def _weights_parser():
    parser = Parser(
        prog="segsrgan weights",
        description="The weights that are at hand, and what is known about them.",
        epilog="exit status: 0 done, 2 it could not be done, 130 interrupted.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("list", help="the weights that came with the program")
    add.set_defaults(action=_list)
    add = actions.add_parser("show", help="what is known about weights")
    add.set_defaults(action=_show)
    add.add_argument("name", help="a name of the list, or a weight file")
    add = actions.add_parser("convert", help="a weight file, of SegSRGAN 2 too, into one of ours")
    add.set_defaults(action=_convert)
    add.add_argument("old", help="the weight file")
    add.add_argument("new", help="the file to write")
    add.add_argument("--half", action="store_true", help="in float16, half as large")
    add = actions.add_parser("download", help="fetch the weights published by the authors")
    add.set_defaults(action=_download)
    add.add_argument("names", nargs="*", help="which of them (default: all)")
    add.add_argument("--folder", help="where to put them (default: ~/.segsrgan/weights)")
    return parser


def _list(args):
    from segsrgan.networks.registry import available, default_weights

    chosen = default_weights()
    for entry in available():
        mark = "*" if entry["name"] == chosen else " "
        print(f"{mark} {entry['name']:<24}{_USES.get(entry.get('kind'), '')}")
    print("* is used when none are named; `segsrgan weights show NAME` tells more")


def _show(args):
    from segsrgan.networks.weights import describe

    print(json.dumps(describe(args.name), indent=2))


def _convert(args):
    from segsrgan.networks.weights import convert

    convert(args.old, args.new, args.half)
    print(args.new)


def _download(args):
    from segsrgan.networks.registry import download

    for path in download(args.names or None, args.folder):
        print(path)


def _export_parser():
    parser = Parser(prog="segsrgan export", description=_EXPORT)
    add = parser.add_argument
    add("weights", help="weight file, or a name that `segsrgan weights list` shows")
    add("--format", required=True, choices=FORMATS, help="what to write")
    add(
        "--output",
        required=True,
        metavar="PATH",
        help="the file, NAME.onnx or NAME.xml (NAME.bin comes with it), or SavedModel's folder",
    )
    add(
        "--patch",
        type=int,
        default=128,
        metavar="SIZE",
        help="edge of its patches in voxels, divisible by 4 (16 for folded U-Nets; default: 128)",
    )
    add("--overwrite", action="store_true", help="replace what is there")
    add("--quiet", action="store_true", help="errors only")
    return parser


def _export(args):
    import_quietly("segsrgan.networks.models")
    found = export(args.weights, args.format, args.output, args.patch, args.overwrite)
    logger.info("written: %s (%.1f dB against the weights)", args.output, found)


main = command(_weights_parser, lambda args: args.action(args))
export_main = command(_export_parser, _export, "nothing was written")
