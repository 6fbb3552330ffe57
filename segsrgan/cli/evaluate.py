# SPDX-License-Identifier: MIT
"""The command `segsrgan evaluate`: measures predictions against references."""

import logging
import os
from pathlib import Path

from segsrgan.cli.console import Parser, ProgressBar, command
from segsrgan.config import add_flags, typed
from segsrgan.errors import UserError, one_line
from segsrgan.evaluation.cases import KINDS, match_cases, read_cases
from segsrgan.evaluation.metrics import EvaluationSettings
from segsrgan.files import check_writable, create_text, write_text
from segsrgan.tables import expanded

logger = logging.getLogger("segsrgan.cli.evaluate")

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

exit status: 0 all measured, 1 some cases failed, 2 nothing was begun, 130 interrupted.
docs/use/evaluation.md defines the measures.
"""


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan evaluate",
        description="Measures images and segmentations against references.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("-p", "--path", metavar="CSV", help="CSV file of the cases")
    add("--predictions", nargs="+", metavar="PLACE", help="folder or pattern of predictions")
    add("--references", nargs="+", metavar="PLACE", help="folder or pattern of references")
    add("--kind", choices=KINDS, help="what --predictions and --references hold")
    add("--masks", nargs="+", metavar="PLACE", help="with --kind image: regions to compare in")
    add("--baselines", nargs="+", metavar="PLACE", help="with --kind image: low resolution")
    add("--allow_missing", action="store_true", help="leave out what has no partner")
    add_flags(parser, EvaluationSettings)
    add("--csv", metavar="FILE", help="write the values of each case")
    add("--json", metavar="FILE", help="write everything: settings, versions, cases, means")
    add("--overwrite", action="store_true", help="replace --csv and --json files that exist")
    add("--quiet", action="store_true", help="no table, errors only")
    add("--verbose", action="store_true", help="more messages, tracebacks of failed cases")
    return parser


def _run(args):
    settings = typed(args, EvaluationSettings)
    cases = _cases(args)
    columns = settings.columns(cases)
    _check_outputs(args, cases)

    from segsrgan.evaluation import evaluate, format_table, to_csv, to_json

    with ProgressBar(args.quiet, unit="case") as bar:
        results = evaluate(cases, settings, bar)
    texts = {args.csv: to_csv(results, columns), args.json: to_json(results, columns, settings)}
    written = [_write(path, text, args.overwrite) for path, text in texts.items() if path]
    if not args.quiet:  # last: a pipe may have closed
        print(format_table(results, columns, settings), flush=True)
    return int(any(scores.error for scores in results) or not all(written))


def _cases(args):
    """The list of `Case` that the arguments name, in one of the two ways."""
    names = ("predictions", "references", "masks", "baselines", "kind")
    given = [f"--{name}" for name in names if getattr(args, name)]
    if args.path and given:
        raise UserError(f"--path names all files, so leave out {', '.join(given)}")
    if args.path:
        return read_cases(args.path)
    if not {"--predictions", "--references", "--kind"} <= set(given):
        raise UserError(
            "expected --path CSV, or --predictions, --references and --kind, received "
            f"{' '.join(given) or 'neither'}"
        )
    places = {name: _place(args, name) for name in names[:4]}
    return match_cases(**places, kind=args.kind, allow_missing=args.allow_missing)


def _place(args, name):
    places = getattr(args, name)
    if places and len(places) > 1:
        raise UserError(
            f"--{name} takes one folder or pattern, received {len(places)} paths; put the pattern "
            "in quotes, so that the shell leaves its * alone"
        )
    return places[0] if places else None


def _check_outputs(args, cases):
    """Makes sure, before the work, that the results can be written and replace nothing else."""
    # Path.resolve raises at a link that leads to itself; that is for its case to report.
    inputs = {os.path.realpath(path) for case in cases for path in case.files.values()}
    inputs |= {os.path.realpath(expanded(args.path))} if args.path else set()
    outputs = {flag: path for flag in ("csv", "json") if (path := getattr(args, flag))}
    paths = [Path(os.path.realpath(path)) for path in outputs.values()]
    if len(set(paths)) < len(paths):
        raise UserError(f"--csv and --json must differ, received {args.csv} for both")
    for (flag, name), path in zip(outputs.items(), paths, strict=True):
        if str(path) in inputs:
            raise UserError(f"--{flag} {name}: is an input; name another file")
        is_special = path.exists() and not path.is_file()
        if is_special or not path.parent.is_dir():
            what = "is not an ordinary file" if is_special else "its folder does not exist"
            raise UserError(f"--{flag} {name}: {what}; name a file in an existing folder")
        if path.exists() and not args.overwrite:
            raise UserError(f"--{flag} {name}: exists; --overwrite replaces it")
        check_writable(path.parent, "name a file in another one")


def _write(path, text, overwrite):
    """Writes a result file; whether that went well."""
    try:
        (write_text if overwrite else create_text)(Path(path), text)
    except OSError as error:
        logger.error("%s: could not be written (%s)", path, error.strerror or one_line(error))
        return False
    logger.info("written: %s", path)
    return True


main = command(build_parser, _run, "nothing was written")
