# SPDX-License-Identifier: MIT
"""The command `segsrgan predict`: images in, high-resolution images and segmentations out."""

import argparse
import logging
from contextlib import suppress
from functools import partial
from glob import glob, has_magic
from pathlib import Path

from segsrgan.cli import job_model
from segsrgan.cli.console import Parser, command
from segsrgan.errors import UserError
from segsrgan.files import real_path
from segsrgan.inference.results import choose_folders, choose_names, recorded_files
from segsrgan.inference.summary import is_summary
from segsrgan.tables import image_files, is_image_name, read_paths, resolved, stem

logger = logging.getLogger(__name__)

_EPILOG = """
results in FOLDER, of an image t2.nii.gz:
  t2_sr.nii.gz           high-resolution image
  t2_cortex.nii.gz       probability of the cortex, 0 to 1
  t2_cortex_mask.nii.gz  probability at or above --threshold, 0 or 1
  t2_brain_mask.nii.gz   the brain, where --strip has found it
  t2_classes.nii.gz      classes, only for weights with a mask head
  t2.json                how they were made, what was measured, the verdict and its reasons
  With --grid there are t2_sr_native.nii.gz and so on, too, or t2_sr_like.nii.gz. Images of one name
  get those of their folders before it. Finished results are skipped, unfinished ones computed
  again. Without --output they lie beside each image, as those of job_model.py do.

verdict: pass, look or fail; what is measured and from which value on it is bad:
  docs/use/report.md.

exit status: 0 all done, 1 an image failed, or all did (with --strict, or the verdict on one is
fail), 2 nothing was begun, as an argument is wrong, 130 interrupted.
"""


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan predict",
        usage="%(prog)s INPUT... [--output FOLDER] [other flags]",
        description="Super-resolves and segments MRI scans of the brain.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="image file (NIfTI, Analyze, MGH/MGZ, NRRD, MetaImage, DICOM), folder of DICOM or "
        "other images, pattern such as 'sub-*/t2.nii.gz', or CSV file with one path on each line",
    )
    # How CSV files were named in version 3.0, and are by job_model.py.
    parser.add_argument("-p", "--path", help=argparse.SUPPRESS)
    job_model.add_job_flags(parser)
    return parser


def _run(args):
    inputs = [*args.inputs, *([args.path] if args.path else ())]
    if not all(inputs) or not inputs or args.output == "":
        why = "an input or --output is empty, as by a variable that is not set; " if inputs else ""
        raise UserError(f"{why}name images, a folder of images or a CSV file (see --help)")
    if args.output and args.result_folder_name:
        raise UserError(
            "--result_folder_name has no effect with --output, which lays results side by side"
        )
    images = find_images(inputs, args.debut_path)
    output = args.output and resolved(args.output)
    if output:
        _check_apart(output, images)
    tables = [resolved(path) for path in inputs if _is_table(path)]
    is_table = len(inputs) == len(tables) == 1
    summary = tables[0] if is_table else output and Path("segsrgan.csv")
    return job_model.run(args, partial(_choose, images), summary, keep=not is_table)


def _choose(images, output, name):
    return choose_names(images, output) if output else choose_folders(images, name)


def find_images(inputs, start=None):
    """The absolute paths of the images that the inputs of the command name, each once, in order.

    Args:
        inputs: of the command, see its help. Of several DICOM files of a folder the folder is
            taken, since each of them is a slice.
        start: folder that relative paths in CSV files start from; None: the CSV's.

    Raises:
        UserError: if nothing matches a pattern, or an input holds no image that is not a result;
            `TableError` on a CSV file.
    """
    images = []
    for text in inputs:
        if not (found := _images_of(text, start)):
            raise UserError(
                f"{text}: names no image, or only results of earlier runs; name the scans"
            )
        images += found
    folders = [path.parent for path in images if _is_dicom(path)]
    images = [
        path.parent if _is_dicom(path) and folders.count(path.parent) > 1 else path
        for path in images
    ]
    return list(dict.fromkeys(images))


def _images_of(text, start):
    """The images that one input names, slices of DICOM one by one."""
    path = resolved(text)
    if _is_table(text):
        return read_paths(path, resolved(start or path.parent))
    if path.is_dir():
        files = [file for file in image_files(path) if not _is_dicom(file)]
        if not files:
            return _patients(path)
        if dicom := next(filter(_is_dicom, sorted(path.iterdir())), None):
            logger.warning("%s: DICOM beside other images is left out; name it to have it", dicom)
        return _no_results(files)
    if path.exists() or not has_magic(str(path)):
        return [path]
    matches = [Path(match) for match in sorted(glob(str(path), recursive=True))]
    if not matches:
        raise UserError(f"{text}: nothing matches this pattern")
    matches = [match for match in _no_results(matches) if _may_hold_images(match)]
    return [image for match in matches for image in _images_of(match, start)]


def _may_hold_images(path):
    return path.is_dir() or _is_table(path) or is_image_name(path.name) or _is_dicom(path)


def _no_results(paths):
    """The paths but those that a record beside them names as results, and summaries, a list."""
    made = set().union(*(recorded_files(folder) for folder in {path.parent for path in paths}))
    made |= {path for path in paths if path.suffix == ".csv" and is_summary(path)}
    if left := [path for path in paths if path in made]:
        logger.info("%s and %d more: left out, they are results", left[0], len(left) - 1)
    return [path for path in paths if path not in made]


def _patients(folder):
    """The subfolders of a folder with DICOM of several patients or studies, else the folder."""
    from segsrgan.volumes.reading import examination, is_dicom

    if any(path.is_file() and is_dicom(path) for path in folder.iterdir()):
        return [folder]
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {path: known for path in parts if (known := examination(path))}
    if not found and (deep := next(filter(is_image_name, folder.glob("**/*")), None)):
        raise UserError(
            f"{folder}: its images lie in subfolders, such as {deep}; name them by a pattern, "
            f"'{folder}/**/*{deep.name.removeprefix(stem(deep))}'"
        )
    if len(set(found.values())) < 2:
        return [folder]
    logger.info("%s: holds %d examinations, each an image", folder, len(found))
    return list(found)


def _is_table(path):
    return str(path).lower().endswith((".csv", ".tsv", ".txt"))


def _is_dicom(path):
    """Whether a file is DICOM: by its suffix, or by its first bytes where that says nothing."""
    if is_image_name(path.name):
        return path.suffix.lower() == ".dcm" and not path.is_dir()
    if not path.is_file():
        return False
    from segsrgan.volumes.reading import is_dicom

    with suppress(OSError):  # whoever reads it says why
        return is_dicom(path)
    return False


def _check_apart(output, images):
    """Raises `UserError` if results would lie in a DICOM folder, all files of which are read."""
    place = Path(real_path(output))
    for folder in filter(Path.is_dir, images):
        if Path(real_path(folder)) in (place, *place.parents):
            raise UserError(
                f"--output {output} lies in the input {folder}, so that results would be taken for "
                "images the next time; take a folder elsewhere"
            )


main = command(build_parser, _run, "the same command goes on from here")
