# SPDX-License-Identifier: MIT
"""The command `segsrgan`, whose subcommands are the commands of `_COMMANDS`."""

import os
import sys
from importlib import import_module

from segsrgan.cli.console import Parser, command

# Each has a parser of its own and gets all arguments that follow: module, function, help.
_COMMANDS = {
    "predict": ("predict", "main", "super-resolve and segment images: files, folders, a CSV file"),
    "bids": ("bids", "main", "the same for the thick scans of a BIDS data set"),
    "report": ("report", "main", "make pages of results, to look at in a browser"),
    "strip": ("strip", "main", "find the brain in images of a head"),
    "train": ("train", "main", "train a network on the images of a CSV file"),
    "synthesize": ("synthesize", "main", "write samples of images painted on label maps"),
    "evaluate": ("evaluate", "main", "measure images and segmentations against references"),
    "export": ("weights", "export_main", "write a network as SavedModel, ONNX or OpenVINO IR"),
    "doctor": ("doctor", "main", "check the installation: versions, engines, speed"),
    "weights": ("weights", "main", "list, show, convert or download weights"),
}


def main(argv=None):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.

    Returns:
        The exit status of the command called; 2 if there is none of that name, 130 after Ctrl-C
        while it is loaded.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:
        argv = _completed_command()
    if argv and argv[0] in _COMMANDS:
        module, function, _ = _COMMANDS[argv[0]]
        try:
            run = getattr(import_module(f"segsrgan.cli.{module}"), function)
        except KeyboardInterrupt:
            sys.stderr.write(f"segsrgan {argv[0]}: interrupted\n")
            return 130
        return run(argv[1:], prog=f"segsrgan {argv[0]}")
    return command(_build_parser, lambda args: 0)(argv)


def _completed_command():
    """The subcommand, in a list, that is to complete what follows it in the line of a shell."""
    line, end = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = [word for word in line[:end].split(" ")[:-1] if word]  # without the cursor's own
    if len(words) < 2 or words[1] not in _COMMANDS:
        return []
    os.environ["_ARGCOMPLETE"] = "2"  # argcomplete's word for: the command begins at the second
    return words[1:2]


def _build_parser():
    parser = Parser(
        prog="segsrgan",
        description="Isotropic high-resolution images and segmentations from anisotropic MRI.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (_, _, text) in _COMMANDS.items():
        commands.add_parser(name, help=f"{text} (segsrgan {name} --help)", add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
