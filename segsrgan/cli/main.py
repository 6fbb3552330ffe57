# SPDX-License-Identifier: MIT
"""The command `segsrgan`: predict, train, synthesize, evaluate, export, weights."""

import sys
from importlib import import_module

from segsrgan import __version__
from segsrgan.cli.console import Parser, status_of

# Each has a parser of its own and gets all arguments that follow.
_COMMANDS = {
    "predict": ("segsrgan.cli.job_model", "super-resolve and segment the images of a CSV file"),
    "train": ("segsrgan.cli.train", "train a network on the images of a CSV file"),
    "synthesize": ("segsrgan.cli.synthesize", "write samples of images painted on label maps"),
    "evaluate": ("segsrgan.cli.evaluate", "measure images and segmentations against references"),
    "export": ("segsrgan.cli.export", "write a network as SavedModel, ONNX or OpenVINO IR"),
    "weights": ("segsrgan.cli.weights", "list, show, convert or download weights"),
}
_PROG = "segsrgan"


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog=_PROG,
        description="Isotropic high-resolution images and segmentations from anisotropic MRI.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        commands.add_parser(name, help=f"{text} (segsrgan {name} --help)", add_help=False)
    return parser


def main(argv=None):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.

    Returns:
        The exit status of the command called; 2 if there is none of that name.
    """
    argv = sys.argv[1:] if argv is None else list(argv)

    def run():
        if argv and argv[0] in _COMMANDS:
            return import_module(_COMMANDS[argv[0]][0]).main(argv[1:])
        build_parser().parse_args(argv)
        return 0

    return status_of(run, _PROG)


if __name__ == "__main__":
    sys.exit(main())
