# SPDX-License-Identifier: MIT
"""NIfTI-1, NIfTI-2, Analyze 7.5 and FreeSurfer's MGH read, and NIfTI-1 written.

nibabel knows the layouts; what a header may say is decided here, for neither a made-up spacing
nor zeros in place of a missing part must happen silently to a medical image.

float32 voxels of a real image hardly compress; searching them for repetitions takes five times as
long as coding them by frequency alone and gains 1 % of size. Masks and empty background are the
opposite. So pieces are compressed in parallel, each with the method that suits it, and joined into
one ordinary gzip member as pigz does it.

Reference: the NIfTI-1 and NIfTI-2 standards, https://nifti.nimh.nih.gov.
"""

import gzip
import itertools
import logging
import math
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
from nibabel.freesurfer import mghformat
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.quaternions import quat2mat
from nibabel.spatialimages import HeaderDataError

from segsrgan.errors import VolumeError
from segsrgan.files import remove_stale, replaced_file
from segsrgan.tables import FREESURFER_SUFFIXES
from segsrgan.volumes.volume import Grid, Volume, is_orthonormal, nearest_rotation, spatial_shape

_logger = logging.getLogger(__name__)

_PAIRED = {".hdr.gz": ".img", ".hdr": ".img", ".img.gz": ".hdr", ".img": ".hdr"}
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre, micron; everything else is taken as mm
_SLICES_AT_ONCE = 16
_GZIP_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\x04\xff"  # deflate, no name or time, any system
_SAMPLE = 2**16  # bytes that decide on the method
_REPETITIVE = 0.6  # compressed to less of its size, a piece is worth the search
_THREADS = min(4, os.cpu_count() or 1)
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_nifti(path, labels=False):
    """The volume of a file, or of either file of a .hdr/.img pair, see `read_volume`.

    Compression is seen by content.
    """
    path = Path(path)
    header_path, data_path = _header_and_data(path)
    try:
        with _opened(header_path) as file:
            header = _header(file.read(nibabel.Nifti2Header.sizeof_hdr), header_path)
        grid = _grid(header, _shape(header, header_path), header_path)
        dtype = _dtype(header, header_path)
        with _opened(data_path) as file:
            array = _voxels(file, _offset(header), dtype, grid.shape, data_path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: the compressed file is truncated or damaged ({error}); copy it again"
        ) from error
    return Volume.from_grid(_scaled(array, header, labels), grid)


def _header_and_data(path):
    """The files of header and voxels: two for Analyze and paired NIfTI, else one."""
    suffix = next((s for s in _PAIRED if path.name.lower().endswith(s)), None)
    if suffix is None:
        return path, path
    base, given = path.name[: -len(suffix)], path.name[-len(suffix) :]
    other = _PAIRED[suffix]
    names = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(base)]
    ends = [name[len(base) :] for name in names]
    ends = [end for end in ends if end.lower() in (other, f"{other}.gz")]
    if not ends:
        raise VolumeError(
            f"{path}: its other half {base}{other} is missing; put both files in one folder"
        )
    # Of several, the one whose name is written in the same way.
    end = min(ends, key=lambda end: (end.isupper() != given.isupper(), len(end) != len(given)))
    partner = path.with_name(base + end)
    return (path, partner) if other == ".img" else (partner, path)


def _opened(path):
    """Open for reading, through gzip where the content, whatever the name, is compressed."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else open(path, "rb")


def _header(raw, path):
    """The header of the first bytes of a file, in its byte order."""
    kinds = (nibabel.Nifti2Header, nibabel.Nifti1Header, nibabel.AnalyzeHeader)
    name = "a NIfTI or Analyze"
    if path.name.lower().endswith(FREESURFER_SUFFIXES):
        kinds, name = (), "an MGH"
        if len(raw) >= mghformat.DATA_OFFSET and raw[:4] == b"\0\0\0\1":  # its version
            if raw[28:30] == b"\0\1":
                return MGHHeader(raw, check=False)
            raise VolumeError(  # nibabel would make up 1 mm
                f"{path}: its header says nothing of voxel size and orientation (goodRASFlag); "
                "convert the image that it was made from again"
            )
    for kind in kinds:
        if kind.may_contain_header(raw):
            header = kind(raw[: kind.sizeof_hdr], check=False)
            if header["sizeof_hdr"] == kind.sizeof_hdr:
                return header
    raise VolumeError(
        f"{path}: expected {name} header, received {len(raw)} bytes of something else; "
        "check that the file is complete and its name right"
    )


def _shape(header, path):
    """Three sizes (x, y, z); further axes must have one element."""
    if isinstance(header, MGHHeader):
        count, sizes = 4, [int(size) for size in header["dims"]]
    else:
        count, *sizes = (int(size) for size in header["dim"])
    sizes = sizes[:count]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise VolumeError(
            f"{path}: damaged header, it says {count} axes of {sizes} voxels; export the image "
            "again"
        )
    return spatial_shape(sizes, path)


def _dtype(header, path):
    """The dtype of the stored voxels, byte order included."""
    is_mgh = isinstance(header, MGHHeader)
    codes = mghformat.data_type_codes if is_mgh else nibabel.nifti1.data_type_codes
    code = int(header["type" if is_mgh else "datatype"])
    is_known = code in codes.label
    dtype = np.dtype(codes.dtype[code] if is_known else np.void)
    if dtype.kind not in "iuf":
        kind = codes.label[code] if is_known else "unknown"
        raise VolumeError(
            f"{path}: expected one real number per voxel, received data type {code} ({kind}); "
            "convert it to a scalar image first"
        )
    return dtype.newbyteorder(header.endianness)


def _offset(header):
    if isinstance(header, MGHHeader):
        return header.get_data_offset()
    is_single = isinstance(header, nibabel.Nifti1Header) and header["magic"].item()[:2] == b"n+"
    return int(max(header.single_vox_offset if is_single else 0, float(header["vox_offset"])))


def _voxels(file, offset, dtype, shape, path):
    size = math.prod(shape) * dtype.itemsize
    file.seek(offset)
    raw = file.read(size)
    if len(raw) < size:
        raise VolumeError(
            f"{path}: truncated, expected {size} bytes of voxels, received {len(raw)}; "
            "copy or export it again"
        )
    while file.read(2**20):  # at its end the checksum of a gzip stream is compared
        pass
    return np.frombuffer(raw, dtype).reshape(shape, order="F")


def _scaled(array, header, labels):
    """float32 intensities: slope * v + intercept of a stored v in NIfTI, itself elsewhere.

    `labels` are not rounded to float32.
    """
    slope, inter = 1.0, 0.0
    if isinstance(header, nibabel.Nifti1Header):
        slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, refused where it is used
        if slope != 0 and np.isfinite([slope, inter]).all() and (slope, inter) != (1, 0):
            array = array * np.float64(slope) + inter
        dtype = array.dtype.newbyteorder("=") if labels else np.float32
        return np.array(array, dtype=dtype, order="C")


def _grid(header, shape, path):
    """The grid (LPS, mm) that a header describes, refused where it is impossible."""
    is_mgh = isinstance(header, MGHHeader)
    sizes = np.array(header["delta"] if is_mgh else header["pixdim"][1:4], dtype=np.float64)
    if not np.all(np.isfinite(sizes) & (sizes > 0)):
        field, text = "delta" if is_mgh else "pixdim", " x ".join(f"{size:g}" for size in sizes)
        raise VolumeError(
            f"{path}: the voxel size must be positive in mm, its header ({field}) says {text}; "
            "repair the header"
        )
    try:
        with np.errstate(invalid="ignore"):
            spacing, offset, rotation = _place(header, sizes, shape, path)
        return Grid(shape, spacing, _RAS_TO_LPS @ offset, _RAS_TO_LPS @ rotation)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise VolumeError(
            f"{path}: unusable geometry: {error}; repair its header, for instance with the affine "
            "of the image it was made from"
        ) from error


def _place(header, sizes, shape, path):
    """Spacing, offset, rotation (RAS, mm): sform before qform, as nibabel and ITK have it."""
    if isinstance(header, MGHHeader):
        affine = header.get_affine()
        return sizes, affine[:3, 3], nearest_rotation(affine[:3, :3])
    is_nifti = isinstance(header, nibabel.Nifti1Header)
    if is_nifti and header["sform_code"] > 0:
        spacing, offset, rotation = _sform(header, sizes, shape, path)
    elif is_nifti and header["qform_code"] > 0:
        spacing, offset, rotation = _qform(header, sizes)
    else:
        _logger.info("%s: the header says nothing of the orientation; taking LPS axes", path)
        spacing, offset, rotation = sizes, np.zeros(3), _RAS_TO_LPS
    unit = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0) if is_nifti else 1.0
    return unit * spacing, unit * offset, rotation


def _sform(header, sizes, shape, path):
    """Of the sform; where it is sheared, of the qform or of the nearest rotation."""
    affine = header.get_sform()
    matrix, offset = affine[:3, :3], affine[:3, 3]
    spacing = np.linalg.norm(matrix, axis=0)
    regular = np.all(np.isfinite(affine)) and np.linalg.matrix_rank(matrix) == 3
    if regular and is_orthonormal(matrix / spacing):
        if not np.allclose(spacing, sizes, rtol=1e-3):
            text = "%s: voxel size %s by its sform but %s by pixdim; taking the sform"
            _logger.warning(text, path, np.round(spacing, 4), np.round(sizes, 4))
        return spacing, offset, nearest_rotation(matrix)
    if header["qform_code"] > 0:
        _logger.warning("%s: the axes of its sform are not at right angles; taking its qform", path)
        return _qform(header, sizes)
    if not regular:
        raise ValueError("its sform is singular and it has no qform")
    text = "%s: the axes of its sform are not at right angles; taking the nearest rotation"
    _logger.warning(text, path)
    rotation = nearest_rotation(matrix)
    centre = (np.array(shape) - 1) / 2  # stays in place
    return spacing, offset + matrix @ centre - rotation @ (spacing * centre), rotation


def _qform(header, sizes):
    """Of the quaternion, normalised as the standard's own code does."""
    vector = np.array([header[f"quatern_{part}"] for part in "bcd"], dtype=np.float64)
    square = 1 - vector @ vector
    # Rounding of b, c, d to float32 must not turn an exact half turn by a thousandth.
    first = np.sqrt(square) if square > 3 * np.finfo(np.float32).eps else 0.0
    rotation = quat2mat([first, *vector]) * [1, 1, -1 if header["pixdim"][0] < 0 else 1]
    offset = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return sizes, np.array(offset, dtype=np.float64), nearest_rotation(rotation)


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


def _new_header(grid, dtype, path):
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
    affine[:3, :3] = _RAS_TO_LPS @ grid.direction * grid.spacing
    affine[:3, 3] = _RAS_TO_LPS @ grid.origin
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
