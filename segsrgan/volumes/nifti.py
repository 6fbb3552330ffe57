# SPDX-License-Identifier: MIT
"""NIfTI-1, NIfTI-2, Analyze 7.5 and FreeSurfer's MGH read, and NIfTI-1 written.

float32 voxels of a real image hardly compress; searching them for repetitions takes five times as
long as coding them by frequency alone and gains 1 % of size. Masks and empty background are the
opposite. So pieces are compressed in parallel, each with the method that suits it, and joined into
one ordinary gzip member as pigz does it.
"""

import gzip
import itertools
import logging
import math
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from segsrgan.errors import VolumeError
from segsrgan.files import remove_stale, replaced_file
from segsrgan.tables import NIFTI_SUFFIXES
from segsrgan.volumes.affine import problem, volume_of
from segsrgan.volumes.kinds import check_kind, missing
from segsrgan.volumes.nifti_header import LONGEST, parse
from segsrgan.volumes.volume import Grid, is_orthonormal, nearest_rotation

_logger = logging.getLogger(__name__)

_PAIRED = {".hdr.gz": ".img", ".hdr": ".img", ".img.gz": ".hdr", ".img": ".hdr"}
_CHUNK = 2**27  # bytes
_SLICES_AT_ONCE = 16
_GZIP_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\x04\xff"  # deflate, no name or time, any system
_SAMPLE = 2**16  # bytes that decide on the method
_REPETITIVE = 0.6  # compressed to less of its size, a piece is worth the search
_THREADS = min(4, os.cpu_count() or 1)
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_nifti(path, labels=False):
    """The volume of a file, or of either file of a .hdr/.img pair, and whether it is oriented.

    Compression is seen by content.
    """
    header, data_path = _header(path)
    affine = _RAS_TO_LPS @ header.affine()
    with _damage_named(path):
        array, (slope, inter) = _voxels(header, data_path), header.scale()
    if (slope, inter) != (1, 0):
        with np.errstate(over="ignore"):
            array = array * np.float64(slope) + inter
    volume = volume_of(array, affine, path, labels)
    return replace(volume, space=header.space()), header.has_orientation


@contextmanager
def _damage_named(path):
    """What files do when they cannot be read, as a `VolumeError`."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: the compressed file is truncated or damaged ({error}); copy it again"
        ) from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error


def other_grid(path):
    """The grid of the one of qform and sform that `read_volume` does not take.

    None where they agree to half a voxel, where there is only one, where its axes are not at
    right angles, and of all formats but NIfTI.
    """
    if not Path(path).name.lower().endswith(NIFTI_SUFFIXES):
        return None
    header, _ = _header(path)
    forms = header.two_forms()
    if not forms or problem(forms[1], header.shape):
        return None
    affine = _RAS_TO_LPS @ forms[1]
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    if not is_orthonormal(affine[:, :3] / spacing, 1e-3):
        return None
    return Grid(header.shape, spacing, affine[:, 3], nearest_rotation(affine[:, :3]))


def has_two_sizes(path):
    """Whether a NIfTI file has one voxel size by its sform and another by pixdim."""
    return _header(Path(path))[0].has_two_sizes()


def placed(array, path, name):
    """The volume of labels (x, y, z) that are stored as a file's voxels are; `name` is of theirs.

    The file's qform and sform disagree, see `other_grid`; `read_volume` may make it upright.
    """
    return volume_of(array, _RAS_TO_LPS @ _header(path)[0].two_forms()[0], name, labels=True)


def _header(path):
    """The header of a file, or of a pair, and the file of the voxels."""
    with _damage_named(path):
        header_path, data_path = _header_and_data(Path(path))
        with _opened(header_path) as file:
            raw = file.read(LONGEST)
    return parse(raw, header_path, header_path != data_path), data_path


def _header_and_data(path):
    """The files of header and voxels: two for Analyze and paired NIfTI, else one."""
    suffix = next((s for s in _PAIRED if path.name.lower().endswith(s)), None)
    if suffix is None:
        return path, path
    base, given = path.name[: -len(suffix)], path.name[-len(suffix) :]
    other = _PAIRED[suffix]
    names = [entry.name for entry in path.parent.iterdir()]
    wanted = f"{base}{other}".lower()
    names = [name for name in names if name.lower() in (wanted, f"{wanted}.gz")]
    if not names:
        raise VolumeError(
            f"{path}: its other half {base}{other} is missing; put both files in one folder"
        )

    def difference(name):
        end = name[len(base) :]
        return not name.startswith(base), end.isupper() != given.isupper(), len(end) != len(given)

    partner = path.with_name(min(names, key=difference))  # written most alike
    if not partner.is_file():
        reason = missing(partner) if partner.is_symlink() else "is not a file"
        raise VolumeError(f"{path}: its other half {partner.name} {reason}")
    check_kind(partner, "the other half of a pair")
    return (path, partner) if other == ".img" else (partner, path)


def _opened(path):
    """Open for reading, through gzip where the content, whatever the name, is compressed."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else open(path, "rb")


def _voxels(header, path):
    """The stored voxels (x, y, z), as far as a header and its file go together."""
    stored = os.path.getsize(path)
    with _opened(path) as file:
        is_packed = isinstance(file, gzip.GzipFile)
        raw = file.read(min(header.end, _CHUNK))  # a damaged header may ask for any memory
        if len(raw) < header.end:
            raw = bytearray(raw)
            while len(raw) < header.end and (piece := file.read(_CHUNK)):
                raw += piece
        total = len(raw) if is_packed else stored
        try:
            while is_packed and (piece := file.read(2**20)):  # at its end the checksum is compared
                total += len(piece)
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):
                raise
            _logger.warning("%s: ignoring what follows the compressed data, as gunzip does", path)
    start, count = header.start(total), math.prod(header.shape)
    return np.frombuffer(raw, header.dtype, count, start).reshape(header.shape, order="F")


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
    header, dtype = _new_header(volume.grid, volume.array.dtype, path)
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


def nifti_bytes(volume):
    """A volume as the bytes of a NIfTI-1 file, not compressed; see `write_volume`."""
    header, dtype = _new_header(volume.grid, volume.array.dtype, "the volume")
    return b"".join(_pieces(header, volume.array, dtype))


def _new_header(grid, dtype, path):
    """The 352 bytes before the voxels of a NIfTI-1 file, and the dtype of its voxels.

    Qform and sform both hold the geometry and the code of its space. bool is stored as uint8 and
    float16 as float32.
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
    affine[:3, :3] = _RAS_TO_LPS @ grid.direction * grid.spacing
    affine[:3, 3] = _RAS_TO_LPS @ grid.origin
    header.set_qform(affine, grid.space)
    header.set_sform(affine, grid.space)
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
    file.write(b"\x03\0" + struct.pack("<II", checksum, size % 2**32))  # an empty last block


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
