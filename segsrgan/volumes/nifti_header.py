# SPDX-License-Identifier: MIT
"""The headers of NIfTI-1, NIfTI-2 and Analyze 7.5: layout, checks and geometry.

ITK's NIfTI reader makes up zeros for the missing part of a truncated file, turns a spacing of 0
into 1, prefers `pixdim` where the sform says otherwise, and refuses sheared sforms. None of this
may happen silently to a medical image, so the header is read here.

Reference: the NIfTI-1 and NIfTI-2 standards, https://nifti.nimh.nih.gov.
"""

import logging
from dataclasses import dataclass

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.grid import Grid, is_orthonormal, nearest_rotation

_logger = logging.getLogger(__name__)

NIFTI1 = np.dtype(
    "i4,S10,S18,i4,i2,S1,u1,8i2,3f4,i2,i2,i2,i2,8f4,f4,f4,f4,i2,u1,u1,f4,f4,f4,f4,i4,i4,S80,S24,"
    "i2,i2,3f4,3f4,(3,4)f4,S16,S4"
)
NIFTI1.names = tuple(
    "sizeof_hdr data_type db_name extents session_error regular dim_info dim intent_p intent_code "
    "datatype bitpix slice_start pixdim vox_offset scl_slope scl_inter slice_end slice_code "
    "xyzt_units cal_max cal_min slice_duration toffset glmax glmin descrip aux_file qform_code "
    "sform_code quatern qoffset srow intent_name magic".split()
)
NIFTI2 = np.dtype(
    "i4,S8,i2,i2,8i8,3f8,8f8,i8,f8,f8,f8,f8,f8,f8,i8,i8,S80,S24,i4,i4,3f8,3f8,(3,4)f8,i4,i4,i4,"
    "S16,u1,S15"
)
NIFTI2.names = tuple(
    "sizeof_hdr magic datatype bitpix dim intent_p pixdim vox_offset scl_slope scl_inter cal_max "
    "cal_min slice_duration toffset slice_start slice_end descrip aux_file qform_code sform_code "
    "quatern qoffset srow slice_code xyzt_units intent_code intent_name dim_info unused".split()
)
HEADER_BYTES = NIFTI2.itemsize
_LAYOUTS = {NIFTI1.itemsize: NIFTI1, NIFTI2.itemsize: NIFTI2}
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_CODES = {np.dtype(name): code for code, name in _DTYPES.items()}
_REFUSED = {1: "one bit per voxel", 32: "complex", 1792: "complex", 128: "colour", 2304: "colour"}
_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # metre, micron; everything else is taken as mm
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class NiftiHeader:
    """What a reader of voxels needs; the intensity of a stored v is v * slope + inter."""

    grid: Grid
    dtype: np.dtype
    offset: int
    slope: float
    inter: float


def parse_header(raw, name):
    """Return the `NiftiHeader` in the first bytes of a file.

    Args:
        raw: at least 348 bytes; 540 for NIfTI-2.
        name: of the file, for messages.

    Raises:
        VolumeError: if it is no such header, or not one of a 3-D scalar image with a valid grid.
    """
    fields, layout = _fields(raw, name)
    shape = _shape([int(size) for size in fields["dim"]], name)
    code = int(fields["datatype"])
    if code not in _DTYPES:
        kind = _REFUSED.get(code, "unknown")
        raise VolumeError(
            f"{name}: expected one real number per voxel, received data type {code} ({kind}); "
            "convert it to a scalar image first"
        )
    is_nifti = _is_nifti(fields)
    offset = float(fields["vox_offset"])
    if bytes(fields["magic"]).startswith(b"n+"):
        offset = max(offset, layout.itemsize + 4)
    slope, inter = (float(fields["scl_slope"]), float(fields["scl_inter"])) if is_nifti else (1, 0)
    if slope == 0 or not np.isfinite([slope, inter]).all():
        slope, inter = 1.0, 0.0
    dtype = np.dtype(_DTYPES[code]).newbyteorder(layout.fields["dim"][0].base.byteorder)
    try:
        grid = Grid(shape, *_geometry(fields, shape, is_nifti, name))
    except VolumeError:
        raise
    except (ValueError, np.linalg.LinAlgError) as error:
        raise VolumeError(f"{name}: unusable geometry: {error}; repair its header") from error
    return NiftiHeader(grid, dtype, max(0, int(offset)), slope, inter)


def header_dtype(dtype):
    """Return the dtype in which NIfTI stores arrays of `dtype` (bool as uint8, half as float32)."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype == np.float16:
        return np.dtype("<f4")
    if dtype.newbyteorder("=") not in _CODES:
        raise ValueError(f"NIfTI cannot hold voxels of dtype {dtype}; convert them to float32")
    return dtype.newbyteorder("<")


def build_header(grid, dtype):
    """Return the 352 bytes before the voxels of a single-file NIfTI-1 image.

    Qform and sform both hold the geometry (scanner coordinates, mm).

    Args:
        grid: the geometry (LPS).
        dtype: a result of `header_dtype`.

    Raises:
        ValueError: if an axis is too long for NIfTI-1.
    """
    if max(grid.shape) > np.iinfo(np.int16).max:
        raise ValueError(f"NIfTI-1 holds at most 32767 voxels per axis, received {grid.shape}")
    header = np.zeros((), NIFTI1.newbyteorder("<"))
    rotation = _RAS_TO_LPS @ grid.direction
    offset = _RAS_TO_LPS @ grid.origin
    header["sizeof_hdr"] = NIFTI1.itemsize
    header["regular"] = b"r"
    header["dim"] = [3, *grid.shape, 1, 1, 1, 1]
    header["datatype"] = _CODES[np.dtype(dtype).newbyteorder("=")]
    header["bitpix"] = 8 * np.dtype(dtype).itemsize
    handedness = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    header["pixdim"] = [handedness, *grid.spacing, 0, 0, 0, 0]
    header["vox_offset"] = NIFTI1.itemsize + 4
    header["scl_slope"] = 1
    header["xyzt_units"] = 2
    header["qform_code"] = header["sform_code"] = 1
    header["quatern"] = _quaternion(rotation * [1, 1, handedness])
    header["qoffset"] = offset
    header["srow"] = np.column_stack([rotation * grid.spacing, offset])
    header["magic"] = b"n+1"
    return header.tobytes() + bytes(4)


def _fields(raw, name):
    """The header's fields and their layout, byte order included."""
    for order in "<>":
        size = int(np.frombuffer(raw[:4].ljust(4, b"\0"), f"{order}i4")[0])
        if size in _LAYOUTS and len(raw) >= size:
            layout = _LAYOUTS[size].newbyteorder(order)
            return np.frombuffer(raw, layout, count=1)[0], layout
    raise VolumeError(
        f"{name}: expected a NIfTI or Analyze header, received {len(raw)} bytes of something else; "
        "check that the file is complete and its name right"
    )


def _is_nifti(fields):
    return bytes(fields["magic"])[:3] in (b"n+1", b"ni1", b"n+2", b"ni2")


def _shape(dim, name):
    sizes = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else dim[1:4]
    if min(sizes) < 1 or not 1 <= dim[0] <= 7:
        raise VolumeError(
            f"{name}: damaged header, its dimensions are {dim}; export the image again"
        )
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        raise VolumeError(
            f"{name}: expected a 3-D image, received {len(sizes)}-D {tuple(sizes)}; "
            + ("give a stack of slices" if len(sizes) < 3 else "extract one volume of it first")
        )
    return tuple(sizes)


def _geometry(fields, shape, is_nifti, name):
    """Spacing, origin and direction (LPS, mm): sform before qform, as nibabel and ITK have it."""
    pixdim = np.array(fields["pixdim"][:4], dtype=np.float64)
    if not np.all(np.isfinite(pixdim[1:]) & (pixdim[1:] > 0)):
        raise VolumeError(
            f"{name}: the voxel size must be positive in mm, its header (pixdim) says "
            f"{' x '.join(f'{size:g}' for size in pixdim[1:])}; repair the header"
        )
    if not is_nifti:
        _logger.info("%s: Analyze images say nothing of their orientation; taking LPS axes", name)
        return tuple(pixdim[1:]), (0.0, 0.0, 0.0), np.eye(3)
    unit = _MM_PER_UNIT.get(int(fields["xyzt_units"]) & 7, 1.0)
    if fields["sform_code"] > 0:
        form = _sform(fields, pixdim, shape, name)
    elif fields["qform_code"] > 0:
        form = _qform(fields, pixdim)
    else:
        _logger.info("%s: the header says nothing of the orientation; taking LPS axes", name)
        return tuple(unit * pixdim[1:]), (0.0, 0.0, 0.0), np.eye(3)
    spacing, offset, rotation = form
    return tuple(unit * spacing), tuple(_RAS_TO_LPS @ offset * unit), _RAS_TO_LPS @ rotation


def _sform(fields, pixdim, shape, name):
    """Spacing, offset, rotation (RAS); of the qform, or the nearest rotation, if it is sheared."""
    srow = np.array(fields["srow"], dtype=np.float64)
    matrix, offset = srow[:, :3], srow[:, 3]
    spacing = np.linalg.norm(matrix, axis=0)
    regular = np.all(np.isfinite(srow)) and np.linalg.matrix_rank(matrix) == 3
    if regular and is_orthonormal(matrix / spacing):
        if not np.allclose(spacing, pixdim[1:], rtol=1e-3):
            _logger.warning(
                "%s: voxel size %s by its sform but %s by pixdim; taking the sform",
                name,
                np.round(spacing, 4),
                np.round(pixdim[1:], 4),
            )
        return spacing, offset, nearest_rotation(matrix)
    if fields["qform_code"] > 0:
        _logger.warning("%s: the axes of its sform are not at right angles; taking its qform", name)
        return _qform(fields, pixdim)
    if not regular:
        raise VolumeError(
            f"{name}: its sform is singular and it has no qform; repair the header, for instance "
            "with the affine of the image it was made from"
        )
    _logger.warning(
        "%s: the axes of its sform are not at right angles; taking the nearest rotation", name
    )
    rotation = nearest_rotation(matrix)
    centre = (np.array(shape) - 1) / 2  # stays in place
    return spacing, offset + matrix @ centre - rotation @ (spacing * centre), rotation


def _qform(fields, pixdim):
    """Spacing, offset, rotation (RAS) by the standard's quaternion formula."""
    b, c, d = (float(part) for part in fields["quatern"])
    square = 1.0 - (b * b + c * c + d * d)
    # Rounding of b, c, d to float32 must not turn an exact half turn by a thousandth.
    a = np.sqrt(square) if square > 3 * np.finfo(np.float32).eps else 0.0
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    rotation[:, 2] *= -1 if pixdim[0] < 0 else 1
    offset = np.array(fields["qoffset"], dtype=np.float64)
    return pixdim[1:], offset, nearest_rotation(rotation)


def _quaternion(rotation):
    """The parts b, c, d of a proper rotation's quaternion whose part a is not negative."""
    # The eigenvector of this symmetric matrix to its largest eigenvalue is (b, c, d, a).
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = rotation.T
    matrix = [
        [xx - yy - zz, yx + xy, zx + xz, zy - yz],
        [yx + xy, yy - xx - zz, yz + zy, xz - zx],
        [zx + xz, yz + zy, zz - xx - yy, yx - xy],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]
    vector = np.linalg.eigh(matrix)[1][:, -1]
    return vector[:3] * (-1 if vector[3] < 0 else 1)
