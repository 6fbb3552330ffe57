# SPDX-License-Identifier: MIT
"""The command `segsrgan bids`: a BIDS App, thick scans of a data set in, derivatives out."""

from segsrgan.cli import job_model
from segsrgan.cli.console import Parser, command
from segsrgan.errors import UserError
from segsrgan.inference.bids import SUFFIXES, find_scans, write_group
from segsrgan.tables import resolved

_EPILOG = """
participant: each anatomical image whose slices are at least 1.5 times as thick as its voxels are
wide; OUTPUT/sub-01/anat/ has
  sub-01_rec-segsrgan_T2w.nii.gz               high-resolution image; its .json is the record
  sub-01_space-T2w_label-cortex_probseg.nii.gz probability of the cortex
  sub-01_space-T2w_label-cortex_dseg.nii.gz    the cortex, 0 or 1
  sub-01_space-T2w_desc-brain_mask.nii.gz      the brain, where --strip has found it
group: OUTPUT/segsrgan.tsv, volumes (ml) and verdict of each of these images; without --report,
which makes the page of each image at the participant level.

exit status: 0 all done, 1 an image failed, or all did (with --strict, or the verdict on one is
fail), 2 nothing was begun, as an argument or the data set is wrong, 130 interrupted.
"""
# The results lie where BIDS says, and its images are NIfTI.
_MEANINGLESS = ("output", "result_folder_name", "debut_path", "dicom", "series")


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan bids",
        usage="%(prog)s BIDS_DIR OUTPUT {participant,group} [flags]",
        description="A BIDS App: super-resolves and segments the thick scans of a data set.",
        epilog=_EPILOG,
    )
    add_data_set(parser)
    job_model.add_job_flags(parser, _MEANINGLESS)
    return parser


def add_data_set(parser):
    """Adds the arguments of every BIDS App: data set, derivatives, level and which images."""
    add = parser.add_argument
    add("bids_dir", metavar="BIDS_DIR", help="folder with dataset_description.json")
    add("output_dir", metavar="OUTPUT", help="folder of the derivatives")
    add("analysis_level", choices=("participant", "group"))
    for kind in ("participant", "session"):
        flag, text = f"--{kind}_label", f"of the {kind}s (default: all)"
        add(flag, nargs="+", default=[], metavar="LABEL", help=text)
    text = f"of the images (default: {' '.join(SUFFIXES)})"
    add("--suffix", nargs="+", default=SUFFIXES, metavar="SUFFIX", help=text)


def _run(args):
    root, output = resolved(args.bids_dir), resolved(args.output_dir)
    if args.analysis_level == "group":
        if args.report:
            raise UserError(
                "--report makes the page of each image at the participant level; group writes a "
                "table alone, leave it out"
            )
        print(write_group(output))
        return 0
    scans = find_scans(root, output, args.participant_label, args.session_label, args.suffix)
    return job_model.run(args, lambda *where: scans)


main = command(build_parser, _run, "the same command goes on from here")
