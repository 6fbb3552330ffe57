# SPDX-License-Identifier: MIT
"""The command `segsrgan strip`: the brain in each image of a head."""

import logging
from pathlib import Path

import numpy as np

from segsrgan.cli.console import Parser, command
from segsrgan.errors import UserError, one_line
from segsrgan.files import check_writable, remove
from segsrgan.tables import expanded, stem

logger = logging.getLogger(__name__)


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan strip",
        description="Finds the brain, with the fluid around it, in images of heads.",
        epilog="Writes NAME_brain_mask.nii.gz, 0 or 1, and NAME_brain.nii.gz, the image with 0 "
        "around the\nbrain, on the image's own voxels.\n\nexit status: 0 done, 1 some images "
        "failed, 2 it could not be done, 130 interrupted.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files or DICOM folders")
    add("-o", "--output", metavar="FOLDER", help="where the results go (default: beside the image)")
    add("--series", metavar="UID", help="DICOM series to take from a folder with several")
    add("--overwrite", action="store_true", help="replace what is there")
    add("--quiet", action="store_true", help="errors only")
    return parser


def _run(args):
    images = [Path(expanded(image)) for image in args.images]
    folders = [Path(expanded(args.output)) if args.output else image.parent for image in images]
    names = [folder / stem(image) for image, folder in zip(images, folders, strict=True)]
    if twice := [str(name) for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]}: several images would write it; strip them one by one")
    files = [(Path(f"{name}_brain_mask.nii.gz"), Path(f"{name}_brain.nii.gz")) for name in names]
    existing = [path for pair in files for path in pair if path.exists()]
    if existing and not args.overwrite:
        raise UserError(f"{existing[0]}: exists already; --overwrite replaces it")
    for folder in folders:
        check_writable(folder)
    from segsrgan.inference.predictor import brain_finder

    finder, failed = brain_finder(), 0
    for image, folder, pair in zip(images, folders, files, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            ml = _strip(image, finder, args.series, *pair)
        except (UserError, MemoryError) as error:
            failed += 1
            logger.error("%s", one_line(error))
        else:
            if not args.quiet:
                print(f"{pair[0]}: {ml:.0f} ml", flush=True)
    return int(failed > 0)


def _strip(image, finder, series, mask, stripped):
    """Writes the mask of the brain in an image, and the brain; its volume in ml."""
    from segsrgan.inference.stripping import find_brain
    from segsrgan.volumes import read_volume, write_volume

    volume = read_volume(image, series=series)
    brain = find_brain(volume, finder)
    if not brain.volume:
        raise UserError(f"{image}: no brain was found in it; is it an image of a head?")
    inside = brain.on(volume.grid)
    write_volume(volume.with_array(inside.astype(np.uint8)), mask)
    try:
        write_volume(volume.with_array(np.where(inside, volume.array, 0)), stripped)
    except BaseException:
        remove(mask)  # half a result would stand in the way of the next try
        raise
    return brain.volume


main = command(build_parser, _run)
