# SPDX-License-Identifier: MIT
"""NRRD: geometry as its header says it, for what it leaves out libraries make up.

Reference: the definition of the format, https://teem.sourceforge.net/nrrd/format.html.
"""

import re
from pathlib import Path

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.affine import volume_of
from segsrgan.volumes.stored import StoredVoxels, TextHeader, read_header
from segsrgan.volumes.volume import spatial_shape

MAGIC = b"NRRD000"
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int",
           "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names}
_ENCODINGS = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("txt", "text", "ascii"), "ascii"),
}
# Signs that turn axes of a space into ITK's left, posterior, superior.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
}
_SPATIAL = ("domain", "space", "none", "???")
# Their blanks may be left out.
_FIELDS = {
    name.replace(" ", ""): name
    for name in (
        *("content", "number", "type", "block size", "dimension", "space", "space dimension"),
        *("sizes", "spacings", "thicknesses", "axis mins", "axis maxs", "centers", "centerings"),
        *("labels", "kinds", "units", "min", "max", "old min", "old max", "encoding", "endian"),
        *("data file", "line skip", "byte skip", "sample units", "space directions"),
        *("space origin", "space units", "measurement frame"),
    )
}


def read_nrrd(path, labels=False):
    """The volume of a file whose voxels are in it or beside it, and whether it is oriented.

    Units are honoured. A missing orientation or position is taken as ITK's, with a warning.

    Raises:
        VolumeError: if a field is missing or damaged, the spacing included, or if there are
            several numbers per voxel.
    """
    header, names, start = _parse(path)
    count = header.integers("dimension", 1, 1, 16)[0]
    sizes = header.sizes("sizes", count)
    axes = _spatial_axes(header, sizes)
    shape = spatial_shape([sizes[k] for k in axes], path)
    affine = _affine(header, count, axes[:3])
    voxels = _voxels(header, shape, names, start)
    is_oriented = "space directions" in header.fields and _space(header) in _SPACES
    return volume_of(voxels.read(labels), affine, path, labels), is_oriented


def _parse(path):
    """The header, the lines behind its "data file", and the byte at which the voxels begin."""
    raw = read_header(path)
    if not raw.startswith(MAGIC):
        raise VolumeError(
            f"{path}: expected an NRRD file, received one that begins with {raw[:12]!r}; check "
            "that it is complete and its name right"
        )
    end = re.search(rb"\n\r?\n", raw)
    text = (raw[: end.start()] if end else raw).decode("utf-8", "surrogateescape")
    lines = [line.rstrip("\r") for line in text.split("\n")]
    header = TextHeader(path, {})
    for number, line in enumerate(lines[1:], 2):
        field, colon, value = line.partition(":")
        name = re.sub(r"\s", "", field.lower())
        name = _FIELDS.get(name, name)
        if line.startswith("#") or value.startswith("=") or not line.strip():
            continue
        if not colon or header.fields.get(name, value.strip()) != value.strip():
            raise VolumeError(
                f"{path}: damaged header, line {number} says {line[:60]!r}; expected one field: "
                "value"
            )
        if name not in _FIELDS.values():
            header.warn("its header has an unknown field %r, which is ignored", field)
        header.fields[name] = value.strip()
        if name == "data file" and value.split()[:1] == ["LIST"]:
            return header, lines[number:], None
    if "data file" in header.fields:
        return header, [], None
    if not end:
        raise VolumeError(
            f"{path}: damaged header, no empty line ends it and data file is missing; copy the "
            "file again"
        )
    return header, [], end.end()


def _spatial_axes(header, sizes):
    """Those axes that lie in space; others must have one element."""
    kinds = header.fields.get("kinds", "").split() or ["???"] * len(sizes)
    if len(kinds) != len(sizes):
        raise header.error("kinds", f"expected {len(sizes)} words")
    vectors = _vectors(header, len(sizes))
    axes = []
    for k, (size, kind, vector) in enumerate(zip(sizes, kinds, vectors, strict=True)):
        if kind.lower() in _SPATIAL and vector is not None:
            axes.append(k)
        elif size > 1 and kind.lower() in ("domain", "space"):
            raise header.error("space directions", f"expected the vector of axis {k + 1}")
        elif size > 1:
            what = "frames" if kind.lower() in ("list", "time") else "components"
            raise VolumeError(
                f"{header.path}: expected one real number per voxel, received {size} {what} "
                f"(axis {k + 1} of kind {kind!r}, sizes {' x '.join(map(str, sizes))}); extract "
                "one of them first, for instance with 3D Slicer"
            )
    return axes


def _vectors(header, count):
    """By axis its step as text, None where it has none; "" where the header has no directions."""
    if "space directions" not in header.fields:
        return [""] * count
    text = header.fields["space directions"]
    vectors = re.findall(r"\([^()]*\)|none", text, re.IGNORECASE)
    if len(vectors) != count or re.sub(r"\([^()]*\)|none|\s", "", text, flags=re.IGNORECASE):
        raise header.error("space directions", f"expected {count} vectors or none")
    return [None if vector.lower() == "none" else vector[1:-1] for vector in vectors]


def _affine(header, count, axes):
    """From indices along the three axes in space to LPS, mm, (3, 4)."""
    space = _space(header)
    signs = np.array(_SPACES.get(space, (1, 1, 1)))
    if "space directions" not in header.fields:
        return signs[:, None] * _affine_of_spacings(header, count, axes)
    if space not in _SPACES:
        header.warn(
            "its header does not say how its axes lie in the patient (space%s); taking LPS axes "
            "(left may be right)",
            f" is {space}" if space else "",
        )
    vectors = [_vectors(header, count)[k] for k in axes]
    size = _space_dimension(header, space)
    columns = [header.numbers("space directions", size, vector) for vector in vectors]
    origin = header.fields.get("space origin", "")
    if not re.fullmatch(r"\([^()]*\)", origin.strip()):
        if origin:
            raise header.error("space origin", f"expected {size} numbers in brackets")
        header.warn("its header has no space origin; taking the first voxel at (0, 0, 0)")
        origin = f"({','.join('0' * size)})"
    columns.append(header.numbers("space origin", size, origin.strip()[1:-1]))
    affine = np.array(columns).T
    if affine[3:, :3].any():
        raise header.error("space directions", "expected three axes in three dimensions of space")
    units = _units(header, "space units", size) if "space units" in header.fields else None
    if units is None and "units" in header.fields:  # belongs to spacings, but some write it
        units = [_units(header, "units", count)[k] for k in axes]
    factors = signs if units is None else signs * units[:3]
    return factors[:, None] * affine[:3]


def _space(header):
    return header.fields.get("space", "").lower().removesuffix("-time")


def _space_dimension(header, space):
    """Components of a vector in space."""
    timed = header.fields.get("space", "").lower().endswith(("-time", "rast", "last", "lpst"))
    default = 4 if timed else 3
    return header.integer("space dimension", default, 3, 4)


def _affine_of_spacings(header, count, axes):
    """Where only the distances of voxels are known, and perhaps where the first lies."""
    remedy = "add the line `spacings: ` with the voxel size, or convert the scan again"
    if "spacings" not in header.fields:
        raise VolumeError(
            f"{header.path}: its header does not say the voxel size (spacings or space "
            f"directions); {remedy}"
        )
    words = header.fields["spacings"].split()
    if len(words) != count:
        raise header.error("spacings", f"expected {count} numbers")
    spacing = header.numbers("spacings", 3, " ".join(words[k] for k in axes))
    if spacing.min() <= 0:
        raise header.error("spacings", "the voxel size must be positive in mm; repair the header")
    header.warn(
        "its header has no orientation (space directions); taking LPS axes (left may be right)"
    )
    units = [1.0] * 3
    if "units" in header.fields:
        units = [_units(header, "units", count)[k] for k in axes]
    elif "space units" in header.fields:
        units = _units(header, "space units", 3)
    return np.column_stack([np.diag(spacing), _origin(header, count, axes, spacing)]) * np.array(
        units
    ).reshape(3, 1)


def _origin(header, count, axes, spacing):
    """The first voxel's centre of "space origin" or of "axis mins", which are edges of cells."""
    if "space origin" in header.fields:
        return header.numbers("space origin", 3, header.fields["space origin"].strip(" ()"))
    words = header.fields.get("axis mins", "").split()
    if not words:
        header.warn("its header has no space origin; taking the first voxel at (0, 0, 0)")
        return np.zeros(3)
    if len(words) != count:
        raise header.error("axis mins", f"expected {count} numbers")
    name = next((name for name in ("centerings", "centers") if name in header.fields), "")
    centers = header.fields.get(name, "").lower().split() or ["cell"] * count
    if len(centers) != count:
        raise header.error(name, f"expected {count} words")
    half = [0.0 if centers[k] == "node" else 0.5 for k in axes]
    return header.numbers("axis mins", 3, " ".join(words[k] for k in axes)) + spacing * half


def _units(header, field, count):
    """Millimetres per unit, of each axis."""
    text = header.fields[field]
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', text) if '"' in text else text.split()
    if len(words) != count:
        raise header.error(field, f"expected {count} units, in quotation marks")
    return [header.mm_per_unit(field, word) for word in words]


def _voxels(header, shape, names, start):
    dtype = np.dtype(header.choice("type", _DTYPES))
    encoding = header.choice("encoding", _ENCODINGS)
    if dtype.itemsize > 1 and encoding != "ascii":
        dtype = dtype.newbyteorder(header.choice("endian", {"little": "<", "big": ">"}))
    lines = header.integer("line skip", 0, 0, 10**6)
    skipped = header.integer("byte skip", 0, -1 if encoding == "raw" else 0, 2**40)
    files = [Path(header.path)]
    if start is None:
        files = header.data_files("data file", header.fields["data file"].split(), names)
    return StoredVoxels(
        header.path, shape, dtype, encoding, files, start or 0, lines=lines, skipped=skipped
    )
