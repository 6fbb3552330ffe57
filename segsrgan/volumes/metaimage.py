# SPDX-License-Identifier: MIT
"""MetaImage: geometry as its header says it, for what it leaves out ITK makes up.

Reference: the format's documentation, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import re
from pathlib import Path

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.affine import volume_of
from segsrgan.volumes.stored import TRUTH, StoredVoxels, TextHeader, is_same, read_header
from segsrgan.volumes.volume import spatial_shape

_DTYPES = {
    "met_char": "i1", "met_uchar": "u1", "met_short": "i2", "met_ushort": "u2",
    "met_int": "i4", "met_uint": "u4", "met_long": "i4", "met_ulong": "u4",
    "met_long_long": "i8", "met_ulong_long": "u8", "met_float": "f4", "met_double": "f8",
}  # fmt: skip
# Names of one thing, of which the first that is there counts.
_SPACINGS = ("ElementSpacing", "ElementSize")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_OFFSETS = ("Offset", "Position", "Origin")
_SCALES = {"ElementToIntensityFunctionSlope": 1, "ElementToIntensityFunctionOffset": 0}
_ROUNDED = 0.01  # lengths of axes in two decimals deviate less from 1
_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_PATIENT = {letter: sign * axis for sign, letters in ((1, "RAI"), (-1, "LPS"))
            for letter, axis in zip(letters, np.eye(3), strict=True)}  # fmt: skip


def read_metaimage(path, labels=False):
    """The volume of a file whose voxels are in it or beside it, and whether it is oriented.

    Units are honoured. A missing orientation or position is taken as ITK's, with a warning.

    Raises:
        VolumeError: if a field is missing or damaged, the spacing included, or if there are
            several numbers per voxel.
    """
    header, names, start = _parse(path)
    if header.fields.get("ObjectType", "Image").lower() != "image":
        raise header.error("ObjectType", "expected Image")
    count = header.integers("NDims", 1, 1, 16)[0]
    shape = spatial_shape(header.integers("DimSize", count, 1, 2**31), path)
    channels = header.integer("ElementNumberOfChannels", 1, 1, 2**16)
    if channels > 1:
        raise VolumeError(
            f"{path}: expected one real number per voxel, received {channels} "
            "(ElementNumberOfChannels); extract one of them first, for instance with 3D Slicer"
        )
    for name, neutral in _SCALES.items():
        if name in header.fields and header.numbers(name, 1)[0] != neutral:
            header.warn("%s = %s is ignored, as ITK does", name, header.fields[name])
    affine = _affine(header, count)
    array = _voxels(header, shape, names, start).read()
    return volume_of(array, affine, path, labels), _first(header, _MATRICES) is not None


def _parse(path):
    """The header, the lines behind it, and the byte at which the voxels begin."""
    raw = read_header(path)
    header, position = TextHeader(path), 0
    for number, line in enumerate(raw.split(b"\n", 2000)[:2000], 1):
        position += len(line) + 1
        text = line.decode("utf-8", "surrogateescape").strip()
        field, separator, value = re.match(r"([^=:]*)([=:]?)(.*)", text).groups()
        field, value = field.strip(), value.strip()
        if not text:
            continue
        if not separator or "\0" in text or not header.add(field, value):
            raise VolumeError(
                f"{path}: damaged header, line {number} is {text[:60]!r}; expected one field = "
                "value, the last ElementDataFile, of a MetaImage file"
            )
        if field == "ElementDataFile":
            is_list = value.upper().startswith("LIST")
            rest = raw[position:].decode("utf-8", "surrogateescape") if is_list else ""
            return header, rest.split("\n"), position
    raise header.error("ElementDataFile", "copy or export the image again")


def _first(header, names):
    """The first name that is there; others must say the same, but for the size of voxels."""
    found = [name for name in names if name in header.fields]
    for name in found[1:]:
        is_other = not is_same(header.fields[found[0]], header.fields[name])
        if names is not _SPACINGS and is_other:
            raise header.error(name, f"{found[0]} says something else; remove the wrong line")
    return found[0] if found else None


def _affine(header, count):
    """From indices along three axes to LPS, mm, (3, 4)."""
    field = _first(header, _SPACINGS)
    if field is None:
        raise VolumeError(
            f"{header.path}: its header does not say the voxel size (ElementSpacing); add the line "
            "`ElementSpacing = ` with it, or convert the scan again"
        )
    spacing = header.numbers(field, count)
    if spacing.min() <= 0:  # ITK would flip the axis, and leave the image in place
        raise header.error(field, "the voxel size must be positive in mm; repair the header")
    matrix = np.eye(count)
    if name := _first(header, _MATRICES):
        # Its rows are the axes.
        matrix = header.numbers(name, count**2).reshape(count, count).T
        if matrix[3:, :3].any():
            raise header.error(name, "expected three axes in three dimensions of space")
        lengths = np.linalg.norm(matrix, axis=0)
        if 1e-3 < np.abs(lengths - 1).max() < _ROUNDED:
            header.warn("%s is rounded; taking %s for the voxel size", name, field)
            matrix = matrix / lengths
    else:
        text = (
            "its header has no orientation (TransformMatrix); taking LPS axes (left may be right)"
        )
        header.warn(text)
    _warn_of_orientation(header, matrix[:3, :3], name)
    offset = np.zeros(count)
    if name := _first(header, _OFFSETS):
        offset = header.numbers(name, count)
    else:
        header.warn("its header has no Offset; taking the first voxel at (0, 0, 0)")
    if "CenterOfRotation" in header.fields and header.numbers("CenterOfRotation", count).any():
        text = "CenterOfRotation is %s, which is ignored; the first voxel lies at the Offset"
        header.warn(text, header.fields["CenterOfRotation"])
    mm = header.mm_per_unit("DistanceUnits", header.fields.get("DistanceUnits", ""))
    return mm * np.column_stack([matrix * spacing, offset])[:3, [0, 1, 2, -1]]


def _warn_of_orientation(header, matrix, has_matrix):
    """ITK names, letter by letter, where each axis begins; RAI is also written without thought."""
    text = header.fields.get("AnatomicalOrientation", "").upper()
    if text == "RAI" or not re.fullmatch("(?=.*[RL])(?=.*[AP])(?=.*[IS]).{3}", text):
        return
    named = np.column_stack([_PATIENT[letter] for letter in text])
    if (np.diag(named.T @ matrix) <= 0).any():
        taken = "TransformMatrix, which says something else" if has_matrix else "LPS axes"
        header.warn("AnatomicalOrientation %s is ignored; taking %s", text, taken)


def _truth(header, names, default):
    name = _first(header, names)
    return header.choice(name, {**TRUTH, "1": "1", "0": "0"}) == "1" if name else default


def _voxels(header, shape, names, start):
    dtype = np.dtype(header.choice("ElementType", _DTYPES))
    is_binary = _truth(header, ["BinaryData"], True)
    is_packed = _truth(header, ["CompressedData"], False)
    encoding = "gzip" if is_packed else "raw" if is_binary else "ascii"
    order = _truth(header, _ORDERS, None)
    if order is None and dtype.itemsize > 1 and encoding != "ascii":
        header.warn("its header has no BinaryDataByteOrderMSB; taking little-endian voxels")
    dtype = dtype.newbyteorder(">" if order else "<")
    skipped = header.integer("HeaderSize", 0, -1 if encoding == "raw" else 0, 2**40)
    files = [Path(header.path)]
    value = header.fields["ElementDataFile"]
    if value.upper() != "LOCAL":
        files, start = header.data_files("ElementDataFile", value.split(), names), 0
    return StoredVoxels(header.path, shape, dtype, encoding, files, start, skipped=skipped)
