# SPDX-License-Identifier: MIT
"""The command `segsrgan export`: a generator for other programs."""

import logging
import sys

from segsrgan.cli.console import Parser, import_quietly, messages, status_of
from segsrgan.inference.export import FORMATS, export

logger = logging.getLogger("segsrgan.cli.export")

_DESCRIPTION = """
Writes a network for programs that know nothing of this package, in float32 and rewritten for
speed. It takes (batch, patch, patch, patch, 1), intensities in [0, 1], and gives (batch, patch,
patch, patch, channels): image, probability, then mask classes. Before it appears, it has computed
one patch and agreed with the network that the weights describe.
"""


def build_parser(prog):
    """The parser of the command line."""
    parser = Parser(prog=prog, description=_DESCRIPTION)
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
        help="edge of its patches in voxels, divisible by 4 (default: 128)",
    )
    add("--overwrite", action="store_true", help="replace what is there")
    add("--quiet", action="store_true", help="errors only")
    return parser


def main(argv=None, prog="segsrgan export"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0, or 2 if nothing was written, 130 if interrupted.
    """

    def run():
        args = build_parser(prog).parse_args(argv)
        with messages(prog, args.quiet):
            import_quietly("segsrgan.networks.models")
            found = export(args.weights, args.format, args.output, args.patch, args.overwrite)
            logger.info("written: %s (%.1f dB against the weights)", args.output, found)
            return 0

    return status_of(run, prog, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
