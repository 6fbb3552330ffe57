# SPDX-License-Identifier: MIT
"""The command `segsrgan weights`: list, show, convert or download."""

import json
import sys

from segsrgan.cli.console import Parser, messages, status_of


def build_parser(prog):
    """The parser of the command line."""
    parser = Parser(
        prog=prog,
        description="The weights that are at hand, and what is known about them.",
        epilog="exit status: 0 done, 2 it could not be done, 130 interrupted.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser("list", help="the weights that came with the program")
    add.set_defaults(action=_list)
    add = actions.add_parser("show", help="what is known about weights")
    add.set_defaults(action=_show)
    add.add_argument("name", help="a name of the list, or a weight file")
    add = actions.add_parser("convert", help="a weight file of SegSRGAN 2 into one of ours")
    add.set_defaults(action=_convert)
    add.add_argument("old", help="the weight file of the original")
    add.add_argument("new", help="the file to write")
    add = actions.add_parser("download", help="fetch the weights published by the authors")
    add.set_defaults(action=_download)
    add.add_argument("names", nargs="*", help="which of them (default: all)")
    add.add_argument("--folder", help="where to put them (default: ~/.segsrgan/weights)")
    return parser


def main(argv=None, prog="segsrgan weights"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 done, 2 it could not be done, 130 interrupted.
    """

    def run():
        args = build_parser(prog).parse_args(argv)
        with messages(prog):
            args.action(args)
        return 0

    return status_of(run, prog)


def _list(args):
    from segsrgan.networks.registry import available, default_weights

    chosen = default_weights()
    for entry in available():
        mark = "*" if entry["name"] == chosen else " "
        print(f"{mark} {entry['name']}  {_summary(entry.get('architecture', ''))}")
    print("* is used when none are named; `segsrgan weights show NAME` tells more")


def _summary(architecture):
    if not isinstance(architecture, dict):
        return str(architecture)
    return ", ".join(
        key if isinstance(value, dict) else f"{key} {value}" for key, value in architecture.items()
    )


def _show(args):
    from segsrgan.networks.weights import describe

    print(json.dumps(describe(args.name), indent=2, ensure_ascii=False))


def _convert(args):
    from segsrgan.networks.weights import convert

    convert(args.old, args.new)
    print(args.new)


def _download(args):
    from segsrgan.networks.registry import download

    for path in download(args.names or None, args.folder):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
