# SPDX-License-Identifier: MIT
"""The command `segsrgan strip`: the brain in each image of a head."""

import logging

import numpy as np

from segsrgan.cli.console import Parser, command
from segsrgan.cli.predict import find_images
from segsrgan.errors import UserError, one_line
from segsrgan.files import check_writable, remove
from segsrgan.tables import resolved, stem

logger = logging.getLogger(__name__)


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan strip",
        description="Finds the brain, with the fluid around it, in images of heads.",
        epilog="Writes NAME_brain_mask.nii.gz, 0 or 1, and NAME_brain.nii.gz, the image with 0 "
        "around the\nbrain, on the image's own voxels. What is there already is kept.\n\n"
        "exit status: 0 done, 1 some images failed, 2 it could not be done, 130 interrupted.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="as INPUT of segsrgan predict")
    add("-o", "--output", metavar="FOLDER", help="where the results go (default: beside the image)")
    add("--series", metavar="UID", help="DICOM series to take from a folder with several")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--quiet", action="store_true", help="errors only")
    return parser


def _run(args):
    images = find_images(args.images)
    files = {image: _files_of(image, args.output) for image in images}
    made = {path for pair in files.values() for path in pair}
    files = {image: pair for image, pair in files.items() if image not in made}
    masks = [mask for mask, _ in files.values()]
    if twice := [str(mask) for mask in masks if masks.count(mask) > 1]:
        raise UserError(f"{twice[0]}: several images would write it; strip them one by one")
    for mask in masks:
        check_writable(mask.parent)
    from segsrgan.inference.predictor import brain_finder

    finder, failed = brain_finder(), 0
    for image, pair in files.items():
        try:
            text = _strip(image, finder, args, *pair)
        except (ValueError, OSError, MemoryError) as error:
            failed += 1
            logger.error("%s: %s", image, one_line(error).removeprefix(f"{image}: "))
        else:
            if not args.quiet:
                print(f"{pair[0]}: {text}", flush=True)
    return int(failed > 0)


def _files_of(image, output):
    """The files of the brain's mask and of the brain in an image."""
    folder = resolved(output) if output else image.parent
    return tuple(folder / f"{stem(image)}{end}.nii.gz" for end in ("_brain_mask", "_brain"))


def _strip(image, finder, args, mask, stripped):
    """Writes the mask of the brain in an image, and the brain; a text on them."""
    from segsrgan.inference.stripping import find_brain
    from segsrgan.volumes import read_volume, write_volume

    existing = [path for path in (mask, stripped) if path.exists()]
    if len(existing) == 2 and not args.overwrite:
        return "is there already, and kept; --overwrite replaces it"
    if existing and not args.overwrite:
        raise UserError(f"{existing[0]} exists already; --overwrite replaces it")
    mask.parent.mkdir(parents=True, exist_ok=True)
    volume = read_volume(image, series=args.series)
    brain = find_brain(volume, finder)
    if not brain.volume:
        raise UserError("no brain was found in it; is it an image of a head?")
    inside = brain.on(volume.grid)
    write_volume(volume.with_array(inside.astype(np.uint8)), mask)
    try:
        write_volume(volume.with_array(np.where(inside, volume.array, 0)), stripped)
    except BaseException:
        remove(mask)  # half a result would stand in the way of the next try
        raise
    return f"{brain.volume:.0f} ml"


main = command(build_parser, _run)
