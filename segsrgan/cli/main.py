# SPDX-License-Identifier: MIT
"""The command `segsrgan`: predict, train, synthesize, evaluate, export, weights."""

import json
import sys
from importlib import import_module

from segsrgan import __version__
from segsrgan.cli.console import Parser, import_quietly, messages, status_of

# Commands with a parser of their own; they get all arguments that follow.
_FORWARDED = {
    "predict": ("segsrgan.cli.job_model", "super-resolve and segment the images of a CSV file"),
    "train": ("segsrgan.cli.train", "train a network on the images of a CSV file"),
    "synthesize": ("segsrgan.cli.synthesize", "write samples of images painted on label maps"),
    "evaluate": ("segsrgan.cli.evaluate", "measure images and segmentations against references"),
    "export": ("segsrgan.cli.export", "write a network as SavedModel, ONNX or OpenVINO IR"),
}
_PROG = "segsrgan"


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog=_PROG,
        description="Isotropic high-resolution images and segmentations from anisotropic MRI.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _FORWARDED.items():
        commands.add_parser(name, help=f"{text} (segsrgan {name} --help)", add_help=False)
    weights = commands.add_parser("weights", help="list, show, convert or download weights")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the weights that came with the program")
    show = actions.add_parser("show", help="what is known about weights")
    show.add_argument("name", help="a name of the list, or a weight file")
    convert = actions.add_parser("convert", help="a weight file of SegSRGAN 2 into one of ours")
    convert.add_argument("old", help="the weight file of the original")
    convert.add_argument("new", help="the file to write")
    download = actions.add_parser("download", help="fetch the weights published by the authors")
    download.add_argument("names", nargs="*", help="which of them (default: all)")
    download.add_argument("--folder", help="where to put them (default: ~/.segsrgan/weights)")
    return parser


def main(argv=None):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.

    Returns:
        The exit status: 0, or 2 if nothing could be done, 130 if interrupted, or that of the
        command called.
    """
    argv = sys.argv[1:] if argv is None else list(argv)

    def run():
        if argv and argv[0] in _FORWARDED:
            return import_module(_FORWARDED[argv[0]][0]).main(argv[1:])
        args = build_parser().parse_args(argv)
        with messages(_PROG):
            _weights(args)
            return 0

    return status_of(run, _PROG)


def _weights(args):
    """Carries out `segsrgan weights`; the libraries are loaded here, not for `--help`."""
    import_quietly("segsrgan.networks")
    if args.action == "list":
        from segsrgan.networks.registry import available, default_weights

        chosen = default_weights()
        for entry in available():
            mark = "*" if entry["name"] == chosen else " "
            print(f"{mark} {entry['name']}  {_brief(entry.get('architecture', ''))}")
        print("* is used when none are named; `segsrgan weights show NAME` tells more")
    elif args.action == "show":
        from segsrgan.networks.weights import describe

        print(json.dumps(describe(args.name), indent=2, ensure_ascii=False))
    elif args.action == "convert":
        from segsrgan.networks.weights import convert

        convert(args.old, args.new)
        print(args.new)
    else:
        from segsrgan.networks.download import download

        for path in download(args.names or None, args.folder):
            print(path)


def _brief(architecture):
    if not isinstance(architecture, dict):
        return str(architecture)
    return ", ".join(
        key if isinstance(value, dict) else f"{key} {value}" for key, value in architecture.items()
    )


if __name__ == "__main__":
    sys.exit(main())
