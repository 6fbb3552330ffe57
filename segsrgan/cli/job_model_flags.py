# SPDX-License-Identifier: MIT
"""The flags of `job_model.py`; needs neither NumPy nor Keras."""

import argparse

from segsrgan.cli.console import Parser
from segsrgan.config import BLENDS, GEOMETRIES, INTERPOLATION_TYPES, INTERPS, boolean
from segsrgan.inference import checks

_BOOLEAN = {
    "nargs": "?",
    "const": True,
    "default": False,
    "type": boolean,
    "metavar": "True|False",
}

_EPILOG = """
The segmentation needs skull-stripped images; the high-resolution image does not.

results:
  <image's folder>/Result_with_<name>/patch_64_step_32/
      SR_patch_64_step_32.nii.gz           high-resolution image
      Cortex_patch_64_step_32.nii.gz       probability of the cortex, 0 to 1
      Cortex_mask_patch_64_step_32.nii.gz  probability at or above --threshold, 0 or 1
      Mask_patch_64_step_32.nii.gz         classes, only for weights with a mask head
  For the whole image: patch_None/SR_whole_image.nii.gz and so on. A DICOM folder's results lie
  beside it, in the folder that holds it. Where several images of the CSV lie in one folder, the
  image's name comes between: Result_with_<name>/<image>/patch_64_step_32/. results.json says how
  the results were made. Finished results are skipped, unfinished ones are computed again.

exit status: 0 all done, 1 some images failed, 2 nothing could be done, 130 interrupted.
"""


def build_parser(prog="job_model.py"):
    """The parser of the command line."""
    parser = Parser(
        prog=prog,
        description="Super-resolves and segments every image of a CSV file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "-p",
        "--path",
        required=True,
        metavar="CSV",
        help="CSV file; its first column names NIfTI, Analyze, NRRD, MetaImage, DICOM files or "
        "DICOM folders",
    )
    add(
        "-dp",
        "--debut_path",
        metavar="FOLDER",
        help="where relative paths in the CSV start (default: the CSV's folder)",
    )
    add(
        "-pa",
        "--patch",
        nargs="+",
        default=["128"],
        metavar="SIZES",
        help='patch sizes in voxels by comma, divisible by 4; None: the whole image. "64,128" '
        "(default: 128)",
    )
    add(
        "-s",
        "--step",
        nargs="+",
        metavar="STEPS",
        help='voxels between patches: one group per patch by comma, values by blank, "32 64,64" '
        "(default: half the patch)",
    )
    add(
        "-rf",
        "--result_folder_name",
        metavar="NAME",
        help="results go into Result_with_NAME (default: the name of the weights)",
    )
    add(
        "-wp",
        "--weights_path",
        metavar="WEIGHTS",
        help="weight file, or a name that `segsrgan weights list` shows (default: the bundled)",
    )
    add(
        "-n",
        "--new_low_res",
        nargs="+",
        default=["0.5,0.5,0.5"],
        metavar="MM",
        help="voxel size of the results in mm (default: 0.5,0.5,0.5)",
    )
    add(
        "-int",
        "--interp",
        choices=INTERPS,
        help="interpolation before the network: cubic splines, --interpolation_type, or splines "
        "that know the slice profile (default: what the weights were trained with)",
    )
    add(
        "-it",
        "--interpolation_type",
        choices=INTERPOLATION_TYPES,
        metavar="TYPE",
        help=f"with --interp sitk: {', '.join(INTERPOLATION_TYPES)} (default: Spline)",
    )
    add(
        "-bb",
        "--by_batch",
        **{**_BOOLEAN, "default": None},
        help="False: one patch at a time, for the least memory; the numbers are the same",
    )
    add(
        "--batch_size",
        type=int,
        metavar="N",
        help="patches computed at once (default: as many as are fast and fit in the memory)",
    )
    add(
        "--max_memory",
        type=float,
        metavar="GIB",
        help="memory that the program may take, as far as it can be foreseen; what does not fit "
        "is refused (default: what is free)",
    )
    add(
        "--geometry",
        default="exact",
        choices=GEOMETRIES,
        help="legacy: the released SegSRGAN 2.2.4, its misplacement included (default: exact)",
    )
    add(
        "--blend",
        default="uniform",
        choices=BLENDS,
        help="mean of overlapping patches (default: uniform, as in the paper)",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability from which a voxel belongs to the cortex mask (default: 0.5)",
    )
    add("--series", metavar="UID", help="DICOM series to take from folders with several")
    add(
        "--engine",
        default="auto",
        choices=checks.ENGINES,
        help="what computes; auto: the fastest that is installed and gives the plain network's "
        "answer (default: auto)",
    )
    add(
        "--precision",
        default="auto",
        choices=checks.PRECISIONS,
        help="of the engine's numbers; auto: float16 where it is faster and gives the same answer "
        "(default: auto)",
    )
    add("--threads", type=int, metavar="N", help="processor threads (default: all)")
    add(
        "--dask",
        metavar="ADDRESS|local:N",
        help="spread the images over a Dask cluster: its scheduler's address or file, or N "
        "processes here (needs SegSRGAN[dask])",
    )
    add("--overwrite", **_BOOLEAN, help="compute finished results again")
    add("--quiet", **_BOOLEAN, help="errors only")
    add("--verbose", **_BOOLEAN, help="more messages, tracebacks of failed images included")
    return parser
