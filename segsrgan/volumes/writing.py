# SPDX-License-Identifier: MIT
"""Write a volume as NIfTI, whole or not at all, and compress it quickly.

float32 voxels of a real image hardly compress; searching them for repetitions takes five times as
long as coding them by frequency alone and gains 1 % of size. Masks and empty background are the
opposite. So pieces are compressed in parallel, each with the method that suits it, and joined into
one ordinary gzip member as pigz does it.
"""

import itertools
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from segsrgan.errors import VolumeError
from segsrgan.files import remove_stale, replaced_file
from segsrgan.volumes.nifti import RAS_TO_LPS

_SLICES_AT_ONCE = 16
_GZIP_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\x04\xff"  # deflate, no name or time, any system
_LAST_BLOCK = b"\x03\0"
_SAMPLE = 2**16  # bytes that decide on the method
_REPETITIVE = 0.6  # compressed to less of its size, a piece is worth the search
_THREADS = min(4, os.cpu_count() or 1)


def write_volume(volume, path):
    """Write a volume as NIfTI-1, keeping its dtype (uint8 masks, float32 images).

    The file appears under its name only when it is complete and on disk; whatever ends the
    writing before, nothing is left, and an older file of that name stays. A link is replaced.

    Args:
        volume: what to write.
        path: ends with .nii or .nii.gz, in an existing folder.

    Raises:
        VolumeError: if the suffix or dtype is not possible, or the folder not writable or full.
    """
    path = Path(path)
    compressed = path.name.lower().endswith(".nii.gz")
    if not compressed and path.suffix.lower() != ".nii":
        raise VolumeError(f"{path}: results are written as NIfTI; end the name with .nii.gz")
    header, dtype = _header(volume.grid, volume.array.dtype, path)
    try:
        remove_stale(path.parent)
        with replaced_file(path) as file:
            pieces = _pieces(header, volume.array, dtype)
            write_gzip(file, pieces) if compressed else file.writelines(pieces)
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be written ({error.strerror or error}); choose an existing folder "
            "with free space that you may write to"
        ) from error


def _header(grid, dtype, path):
    """The 352 bytes before the voxels of a NIfTI-1 file, and the dtype of its voxels.

    Qform and sform both hold the geometry. bool is stored as uint8 and float16 as float32.
    """
    dtype = {"?": np.dtype("u1"), "e": np.dtype("f4")}.get(dtype.char, dtype)
    if max(grid.shape) > np.iinfo(np.int16).max:
        raise VolumeError(
            f"{path}: NIfTI-1 holds at most 32767 voxels per axis, received {grid.shape}"
        )
    header = nibabel.Nifti1Header(endianness="<")
    try:
        header.set_data_dtype(dtype if dtype.kind in "iuf" else "unknown")
    except HeaderDataError as error:
        raise VolumeError(
            f"{path}: no image in NIfTI has voxels of dtype {dtype}; convert them to float32"
        ) from error
    header.set_data_shape(grid.shape)
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS @ grid.direction * grid.spacing
    affine[:3, 3] = RAS_TO_LPS @ grid.origin
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    return header.binaryblock + bytes(4), dtype.newbyteorder("<")


def write_gzip(file, pieces):
    """Write an iterable of bytes-like pieces (a few MiB each) as one gzip member.

    A few pieces are held at a time. zlib works without Python's lock, so threads suffice.
    """
    checksum, size, pieces = 0, 0, iter(pieces)
    file.write(_GZIP_HEADER)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(itertools.islice(pieces, _THREADS)):
            for piece, packed in zip(batch, pool.map(_deflate, batch), strict=True):
                checksum = zlib.crc32(piece, checksum)
                size += len(piece)
                file.write(packed)
    file.write(_LAST_BLOCK + struct.pack("<II", checksum, size % 2**32))


def _deflate(piece):
    """Deflate blocks of a piece, ending at a byte and needing nothing before them."""
    middle = max(0, len(piece) - _SAMPLE) // 2
    sample = piece[middle : middle + _SAMPLE]
    repetitive = len(zlib.compress(sample, 1)) < _REPETITIVE * len(sample)
    strategy = zlib.Z_DEFAULT_STRATEGY if repetitive else zlib.Z_HUFFMAN_ONLY
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)


def _pieces(header, array, dtype):
    """Bytes of header, then voxels with x running fastest; a few slices at a time."""
    yield header
    for first in range(0, array.shape[2], _SLICES_AT_ONCE):
        slab = array[:, :, first : first + _SLICES_AT_ONCE].T
        yield np.ascontiguousarray(slab, dtype=dtype).data.cast("B")
