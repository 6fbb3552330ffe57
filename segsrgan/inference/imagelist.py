# SPDX-License-Identifier: MIT
"""The list of images of a job: the first column of a CSV file."""

import codecs
import csv
import logging
import os
import re
from pathlib import Path

from segsrgan.inference.errors import InferenceError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
# Columns named with these words alone, "LR_image", are headers beyond doubt.
_HEADER_WORDS = set("path image file filename name folder scan dicom nifti mri lr low res".split())


def read_image_list(path, debut_path=None):
    """Reads the paths of a job's images.

    The first column counts, with or without a header; the separator may be a comma, a semicolon
    or a tab; blank lines and a byte order mark are ignored. An image named twice is taken once,
    with a warning.

    Args:
        path: the CSV file, also looked for in `debut_path`.
        debut_path: folder that relative paths start from, the CSV's folder when None.

    Returns:
        A list of absolute `Path`, in the file's order. They need not exist, nor be possible.

    Raises:
        InferenceError: if the file is missing, is no text, or names no image.
    """
    path = find_list(path, debut_path)
    base = _expanded(debut_path or path.parent).absolute()
    cells = _first_column(_text(path), base)
    if cells and _is_header(cells[0], base):
        words = {word.removesuffix("s") for word in re.findall(r"[^\W_]+", cells[0].lower())}
        plain = words and words <= _HEADER_WORDS
        level = logging.DEBUG if plain else logging.WARNING
        logger.log(level, "%s: the first line %r is taken as a header", path, cells[0])
        cells = cells[1:]
    if not cells:
        raise InferenceError(f"{path}: names no image; put one path a line in the first column")
    images = {}
    for cell in cells:
        image = _absolute(cell, base)
        key = _identity(image)
        if key in images:
            logger.warning("%s: %s is named more than once and done once", path, cell)
        images.setdefault(key, image)
    return list(images.values())


def image_stem(path):
    """The name of an image without folder and suffix; of a DICOM folder its name."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def find_list(path, debut_path=None):
    """The absolute path of a CSV file, also looked for in `debut_path`.

    Raises:
        InferenceError: if there is none.
    """
    path = _expanded(path)
    places = [path] + ([_expanded(debut_path) / path] if debut_path else [])
    for place in places:
        if place.is_file():
            return place.absolute()
    if path.is_dir():
        raise InferenceError(f"{path}: is a folder; --path takes a CSV file with one image a line")
    raise InferenceError(f"{path}: no such file; --path takes a CSV file with one image a line")


def _text(path):
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        raise InferenceError(f"{path}: is no text; --path takes a CSV file with one image a line")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _first_column(text, base):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    separator = max(",;\t", key=lambda mark: sum(mark in _unquoted(line) for line in lines))
    cells = []
    for line in lines:
        # A path with the separator in it, written without quotes, is still a path.
        whole = line if os.path.exists(_absolute(line, base)) else None
        rows = csv.reader([line], delimiter=separator, skipinitialspace=True)
        cells.append(whole or next(rows)[0].strip())
    return [cell for cell in cells if cell]


def _unquoted(line):
    return "".join(line.split('"')[::2])


def _is_header(cell, base):
    named_like_a_path = "/" in cell or os.sep in cell or cell.lower().endswith(IMAGE_SUFFIXES)
    return not named_like_a_path and not os.path.exists(_absolute(cell, base))


def _absolute(cell, base):
    return Path(os.path.normpath(base / _expanded(cell)))


def _expanded(path):
    """The path with ~ resolved, as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def _identity(image):
    """What is the same for all names of one image."""
    try:
        return os.path.realpath(image)
    except (OSError, ValueError):  # no possible path; the job will say so
        return str(image)
