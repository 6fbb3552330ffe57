# SPDX-License-Identifier: MIT
"""The command `segsrgan evaluate`: measures predictions against references."""

import logging
import sys
from pathlib import Path

from segsrgan.cli.console import Parser, ProgressBar, messages, status_of
from segsrgan.errors import one_line
from segsrgan.evaluation.arguments import build_parser, cases_of, check_outputs, settings_of
from segsrgan.files import create_text, write_text

logger = logging.getLogger("segsrgan.cli.evaluate")


def main(argv=None, prog="segsrgan evaluate"):
    """Runs the command.

    Args:
        argv: arguments without the program's name, `sys.argv[1:]` when None.
        prog: the program's name in messages.

    Returns:
        The exit status: 0 all measured, 1 some cases failed, 2 nothing could be done,
        130 interrupted.
    """

    def run():
        args = build_parser(prog, Parser).parse_args(argv)
        with messages(prog, args.quiet, args.verbose):
            return _run(args)

    return status_of(run, prog, "nothing was written")


def _run(args):
    settings, cases = settings_of(args), cases_of(args)
    columns = settings.columns(cases)
    check_outputs(args, cases)

    from segsrgan.evaluation.job import evaluate
    from segsrgan.evaluation.report import format_table, to_csv, to_json

    bar = ProgressBar(args.quiet, unit="case")
    try:
        rows = evaluate(cases, settings, bar)
    finally:
        bar.close()
    if not args.quiet:
        print(format_table(rows, columns, settings), flush=True)
    texts = {
        args.csv: lambda: to_csv(rows, columns),
        args.json: lambda: to_json(rows, columns, settings),
    }
    written = [_write(path, text(), args.overwrite) for path, text in texts.items() if path]
    return int(any(row.error for row in rows) or not all(written))


def _write(path, text, overwrite):
    """Writes a result file; whether that went well."""
    try:
        (write_text if overwrite else create_text)(Path(path), text)
    except OSError as error:
        logger.error("%s: could not be written (%s)", path, one_line(error))
        return False
    logger.info("written: %s", path)
    return True


if __name__ == "__main__":
    sys.exit(main())
