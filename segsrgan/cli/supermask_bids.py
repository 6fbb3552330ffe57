# SPDX-License-Identifier: MIT
"""The command `supermask-bids`: a BIDS App, several stacks of each patient in, a mask out."""

import logging
import sys

from segsrgan.cli.bids import add_data_set
from segsrgan.cli.console import Parser, command
from segsrgan.cli.supermask_predict import add_job_flags, run_job
from segsrgan.errors import UserError
from segsrgan.tables import resolved

logger = logging.getLogger(__name__)

_EPILOG = """
participant: of each session the thick images of one suffix that differ by acq- or run- in their
names, one of each plane, that with the smallest voxels; OUTPUT/sub-01/anat/ has
  sub-01_rec-supermask_T2w.nii.gz                     fused image; its .json is the record
  sub-01_space-T2w_desc-supermask_mask.nii.gz         fused mask
  sub-01_space-T2w_label-object_desc-supermask_probseg.nii.gz  its probability
  sub-01_acq-cor_space-T2w_desc-aligned_mask.nii.gz   each stack's own mask, aligned
  sub-01_acq-cor_from-T2w_to-reference_mode-image_xfm.tfm  its transform (ITK)
  sub-01_rec-supermask_desc-report_T2w.html           with --report
group: OUTPUT/supermask.tsv, volume (ml), agreement and motion of each of them; with --report
  supermask.html, a table with links to their pages.

masks, of stacks that have none made by --weights: of sub-01_acq-cor_T2w.nii.gz
  MASKS/sub-01/anat/sub-01_acq-cor_[space-…_][label-…_][desc-…_]mask.nii.gz, or dseg

exit status: 0 all done, 1 some patients failed or are doubtful (aligned masks hardly overlap), or a
stack could not be used, 2 nothing was begun, as an argument or input is wrong, 130 interrupted.
More in docs/use/supermask.md.
"""


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="supermask-bids",
        usage="%(prog)s BIDS_DIR OUTPUT {participant,group} [flags]",
        description="A BIDS App: one high-resolution mask of two or three stacks of a patient.",
        epilog=_EPILOG,
    )
    add_data_set(parser)
    parser.add_argument("--masks", metavar="FOLDER", help="derivatives with masks of the stacks")
    add_job_flags(parser)
    return parser


def _run(args):
    from supermask import bids

    root, output = resolved(args.bids_dir), resolved(args.output_dir)
    if args.analysis_level == "group":
        print(bids.write_group(output))
        if args.report:
            _write_page(output)
        return 0
    if not args.weights and not args.masks:
        raise UserError(
            "expected --masks FOLDER, derivatives with masks of the stacks, or --weights that make "
            "masks, such as brain for heads"
        )
    found = bids.find_examinations(
        root,
        output,
        args.participant_label,
        args.session_label,
        args.suffix,
        args.masks and resolved(args.masks),
    )
    places = {patient.name: results for patient, results in found}
    patients = [patient for patient, _ in found]
    outcomes = run_job(args, patients, lambda patient: places[patient.name])
    return int(any(outcome.is_bad for outcome in outcomes))


def _write_page(output):
    from segsrgan.inference.summary import FINISHED
    from supermask.bids import found_examinations
    from supermask.pages import write_job_page
    from supermask.results import Outcome

    outcomes = [Outcome(results, FINISHED) for results in found_examinations(output)]
    logger.info("page: %s", write_job_page(outcomes, output / "supermask.html"))


main = command(build_parser, _run, "the same command goes on from here")

if __name__ == "__main__":
    sys.exit(main())
