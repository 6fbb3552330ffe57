# SPDX-License-Identifier: MIT
"""Voxels of NIfTI and Analyze files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.nifti_header import HEADER_BYTES, parse_header
from segsrgan.volumes.volume import Volume

_CHUNK = 2**20


def read_nifti(path):
    """Read a 3-D NIfTI-1, NIfTI-2 or Analyze 7.5 image.

    Args:
        path: of the .nii or .nii.gz file, or of either file of a .hdr/.img pair.

    Returns:
        A volume with a float32 array (x, y, z), intensities scaled as the header says.

    Raises:
        VolumeError: if the image is damaged, incomplete or not a 3-D scalar one.
        OSError: if a file cannot be opened.
    """
    path = Path(path)
    header_path, data_path = _files(path)
    try:
        with _open(header_path) as file:
            header = parse_header(file.read(HEADER_BYTES), str(header_path))
        with _open(data_path) as file:
            data = _voxels(file, header, data_path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: the compressed file is truncated or damaged ({error}); copy it again"
        ) from error
    return Volume.from_grid(_scale(data, header), header.grid)


def _files(path):
    """The files of header and voxels: two for Analyze and paired NIfTI, else one."""
    suffix = path.suffix.lower()
    if suffix not in (".hdr", ".img"):
        return path, path
    other = {".hdr": ".img", ".img": ".hdr"}[suffix]
    partner = path.with_suffix(other.upper() if path.suffix.isupper() else other)
    if not partner.is_file():
        raise VolumeError(
            f"{path}: its other half {partner.name} is missing; put both files in one folder"
        )
    return (path, partner) if suffix == ".hdr" else (partner, path)


def _open(path):
    """Open for reading, through gzip where the content, whatever the name, is compressed."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else open(path, "rb")


def _voxels(file, header, path):
    """Array (x, y, z) as stored."""
    size = math.prod(header.grid.shape) * header.dtype.itemsize
    file.seek(header.offset)
    raw = file.read(size)
    if len(raw) < size:
        raise VolumeError(
            f"{path}: truncated, expected {size} bytes of voxels, received {len(raw)}; "
            "copy or export it again"
        )
    while file.read(_CHUNK):  # at its end the checksum of a gzip stream is compared
        pass
    return np.frombuffer(raw, header.dtype).reshape(header.grid.shape, order="F")


def _scale(data, header):
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, refused where it is used
        if (header.slope, header.inter) != (1, 0):
            data = data * np.float64(header.slope) + header.inter
        return np.array(data, dtype=np.float32, order="C")
