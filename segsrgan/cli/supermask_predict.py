# SPDX-License-Identifier: MIT
"""The command `supermask-predict`: a high-resolution mask of each patient's stacks."""

import logging
import sys

from segsrgan.cli.console import Parser, ProgressBar, command, import_quietly
from segsrgan.config import Rule, add_flags, typed
from segsrgan.errors import UserError
from segsrgan.inference.engines import choose
from segsrgan.tables import expanded
from supermask.settings import PredictionSettings

logger = logging.getLogger(__name__)

_EPILOG = """
input, one of:
  --path CSV      a row for each patient; columns view_1, view_2, view_3 (any order; or axial,
                  coronal, sagittal), mask_1, ... or axial_mask, ..., patient
  --path FOLDER   of one patient, or of folders of patients: axial.nii.gz, axial_mask.nii.gz, ...
  --views         the stacks of one patient, and --masks theirs in the same order

results, in OUTPUT/PATIENT/: mask.nii.gz, probability.nii.gz, image.nii.gz (the views' intensities
  fused; --consistency: in agreement with their slices), <view>_mask.nii.gz (aligned),
  <view>_to_<reference>.tfm (ITK; a resampler takes it as it is), results.json; with --report
  report.html, and OUTPUT/supermask.html, a table of all patients. Finished patients are skipped.

exit status: 0 all done, 1 some patients failed or are doubtful (aligned masks hardly overlap), or a
stack could not be used, 2 nothing was begun, 130 interrupted. More in docs/use/supermask.md.
"""


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="supermask-predict",
        description="Makes one high-resolution mask of two or three unaligned stacks of a patient.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("-p", "--path", metavar="PLACE", help="CSV file or folder of the patients")
    add("--views", nargs="+", metavar="STACK", help="one to three stacks of one patient")
    add("--masks", nargs="+", metavar="MASK", help="their masks, in the same order")
    add("--patient", metavar="NAME", help="name of the patient of --views (default: patient)")
    add("-o", "--output", required=True, metavar="FOLDER", help="where the results go")
    add_job_flags(parser)
    return parser


def add_job_flags(parser):
    """Adds the flags that say how masks are made, and the common ones."""
    add = parser.add_argument
    add("-w", "--weights", metavar="WEIGHTS", help="of segmentor and AlignNet; or brain, for heads")
    add("--segsrgan", metavar="WEIGHTS", help="super-resolve each stack by SegSRGAN first")
    add(
        "--labels",
        metavar="VALUES",
        help="values of the masks that make the object, by comma: 3,42 (default: all but 0)",
    )
    add_flags(parser, PredictionSettings)
    add("--no-refine", dest="refine", action="store_false", default=None, help="as --refine False")
    add("--report", action="store_true", help="pages to look at results (SegSRGAN[report])")
    add("--overwrite", action="store_true", help="replace finished results")
    add("--quiet", action="store_true", help="errors only")
    add("--verbose", action="store_true", help="more messages, tracebacks of failures included")


def _run(args):
    patients = _patients(args.path, args.views, args.masks, args.patient)
    output = expanded(args.output)

    from supermask.folders import PatientResults, found_results

    def place(patient):
        return PatientResults(output / patient.name, patient.name)

    if not args.report:
        return int(any(outcome.is_bad for outcome in run_job(args, patients, place)))

    from segsrgan.inference.markup import free_path
    from segsrgan.inference.summary import FINISHED
    from supermask.pages import write_job_page
    from supermask.results import Outcome

    page = free_path(output / "supermask.html")
    outcomes = run_job(args, patients, place)
    done = {outcome.results.folder for outcome in outcomes}
    others = [Outcome(found, FINISHED) for found in found_results(output)]
    others = [outcome for outcome in others if outcome.results.folder not in done]
    logger.info("page: %s", write_job_page([*outcomes, *others], page))
    return int(any(outcome.is_bad for outcome in outcomes))


def run_job(args, patients, place):
    """Makes the mask of each `Patient`, prints a line for each; returns the `Outcome`s.

    `place` makes of a patient its `PatientResults`.
    """
    settings = typed(args, PredictionSettings)
    labels = Rule(tuple[int, ...] | None).checked(args.labels, "labels")
    if args.report:
        from segsrgan.inference.markup import find_viewer

        find_viewer()
    if args.weights:
        import_quietly("supermask.networks")
    if args.segsrgan:
        import_quietly(f"segsrgan.inference.engines.{choose()}")

    from supermask.prediction import check_alignment
    from supermask.results import Job, load_models

    models = load_models(args.weights, args.segsrgan)
    check_alignment(settings.alignment, getattr(models.supermask, "alignnet", None))
    outcomes = []
    with ProgressBar(args.quiet, unit="step") as bar:
        flags = {name: getattr(args, name) for name in ("overwrite", "report", "command")}
        job = Job(
            place=place, settings=settings, models=models, labels=labels, progress=bar, **flags
        )
        for outcome in job.run(patients):
            outcomes.append(outcome)
            bar.close()
            if not args.quiet:
                print(_line(outcome), flush=True)
    return outcomes


def _patients(path, views, masks, name):
    if (path is None) == (views is None):
        raise UserError("give either --path or --views")
    from supermask.patients import Patient, read_patients

    if path is not None:
        if masks or name:
            raise UserError("--masks and --patient go with --views; put them into the CSV")
        return read_patients(path)
    if masks and len(masks) != len(views):
        raise UserError(f"expected as many masks as views, received {len(masks)} and {len(views)}")
    masks = [mask and expanded(mask) or None for mask in masks or ()]
    return [Patient(name or "patient", tuple(map(expanded, views)), tuple(masks))]


def _line(outcome):
    """A patient's line: what became of it, and how well its views agree."""
    parts = [f"{outcome.results.patient}: {outcome.result}{', doubtful' * outcome.doubtful}"]
    agreements = [
        f"{item.first}-{item.second} Dice {item.dice:.3f} correlation {item.correlation:.2f}"
        for item in outcome.agreements
    ]
    if outcome.detail:
        return "; ".join([*parts, outcome.detail, *agreements])
    return "; ".join([*parts, *agreements, str(outcome.results.folder)])


main = command(build_parser, _run, "the same command goes on from here")

if __name__ == "__main__":
    sys.exit(main())
