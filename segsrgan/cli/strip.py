# SPDX-License-Identifier: MIT
"""The command `segsrgan strip`: the brain in each image of a head."""

from pathlib import Path

import numpy as np

from segsrgan.cli.console import Parser, command
from segsrgan.errors import UserError
from segsrgan.files import check_writable
from segsrgan.tables import expanded, stem


def build_parser():
    """The parser of the command line."""
    parser = Parser(
        prog="segsrgan strip",
        description="Finds the brain, with the fluid around it, in images of heads.",
        epilog="Writes NAME_brain_mask.nii.gz, 0 or 1, and NAME_brain.nii.gz, the image with 0 "
        "around the\nbrain, on the image's own voxels.\n\nexit status: 0 done, 2 it could not be "
        "done, 130 interrupted.",
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
    from segsrgan.inference.stripping import find_brain
    from segsrgan.volumes import read_volume, write_volume

    finder = brain_finder()
    for image, folder, (mask, stripped) in zip(images, folders, files, strict=True):
        volume = read_volume(image, series=args.series)
        brain = find_brain(volume, finder)
        if not brain.volume:
            raise UserError(f"{image}: no brain was found in it; is it an image of a head?")
        inside = brain.on(volume.grid)
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(volume.with_array(inside.astype(np.uint8)), mask)
        write_volume(volume.with_array(np.where(inside, volume.array, 0)), stripped)
        if not args.quiet:
            print(f"{mask}: {brain.volume:.0f} ml", flush=True)


main = command(build_parser, _run)
