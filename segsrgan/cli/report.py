# SPDX-License-Identifier: MIT
"""The command `segsrgan report`: pages to look at results in a browser."""

import logging

from segsrgan.cli.console import Parser, command
from segsrgan.errors import UserError, one_line
from segsrgan.files import check_writable
from segsrgan.inference.results import found_results, results_below
from segsrgan.inference.summary import FAILED, SKIPPED, Outcome, read_summary
from segsrgan.tables import expanded

logger = logging.getLogger("segsrgan.cli.report")


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan report",
        description="Makes pages of results that segsrgan predict or job_model.py has written.",
        epilog="Beside the results of each image it writes t2_report.html, or "
        "Report_patch_64_step_32.html: pictures, a\nviewer, "
        "what was measured, with the thresholds, and how it was made; beside a summary "
        "SUMMARY.html,\na table of all images, the worst first. They need no network. Needs "
        "SegSRGAN[report].\n\nexit status: 0 done, 1 some pages failed, 2 nothing was begun, "
        "130 interrupted.",
    )
    add = parser.add_argument
    add(
        "places",
        nargs="+",
        metavar="PLACE",
        help="a job's NAME_summary.csv, an output folder, or Result_with_NAME or a folder above it",
    )
    add(
        "-o",
        "--output",
        metavar="FILE.html",
        help="the page of all images (default: beside the first summary; of folders alone: none)",
    )
    add("--quiet", action="store_true", help="errors only")
    return parser


def _run(args):
    places = [expanded(place) for place in args.places]
    summaries = [place for place in places if not place.is_dir()]
    outcomes = [outcome for place in places for outcome in _outcomes(place)]
    page = expanded(args.output) if args.output else None
    if page is None and summaries:
        page = summaries[0].with_suffix(".html")
    if page is not None and not (page.suffix.lower() == ".html" and page.parent.is_dir()):
        raise UserError(f"--output {page}: expected a name.html in a folder that exists")

    from segsrgan.inference.markup import find_viewer, free_path
    from segsrgan.inference.pages import write_job_page, write_scan_page

    find_viewer()
    if page is not None:
        free_path(page)
        check_writable(page.parent, "name another one by --output")
    failed = 0
    for outcome in outcomes:
        if outcome.result == FAILED:
            continue
        results, pair = found_results(outcome.image, outcome.folder), (outcome.patch, outcome.step)
        try:
            logger.info("written: %s", write_scan_page(results, pair))
            if results.has_changed(pair):
                text = "%s: the image has changed since its results were made; the command that "
                logger.warning(text + "made them replaces them by --overwrite", results.title(pair))
        except (ValueError, OSError, MemoryError) as error:
            failed += 1
            logger.error("%s", one_line(error))
    if page is not None:
        logger.info("written: %s", write_job_page(outcomes, page))
    return int(failed > 0)


def _outcomes(place):
    """A list of `Outcome`, of a summary or a folder."""
    if not place.is_dir():
        return read_summary(place)
    found = []
    for results, pair in results_below(place):
        made, folder = results.entry(pair), results.folder / results.label(pair)
        level, reasons = made.get("verdict") or "", tuple(made.get("reasons") or ())
        judged = {"verdict": level, "reasons": reasons}
        found.append(Outcome(results.image, *pair, SKIPPED, folder, **judged))
    return found


main = command(build_parser, _run, "the same command makes the pages anew")
