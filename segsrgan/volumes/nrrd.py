# SPDX-License-Identifier: MIT
"""NRRD: geometry as its header says it, for what it leaves out libraries make up.

Reference: the definition of the format, https://teem.sourceforge.net/nrrd/format.html.
"""

import re
from contextlib import suppress
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
    "hex": "hex",
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
    sizes = header.integers("sizes", count, 1, 2**31)
    axes = _spatial_axes(header, sizes)
    shape = spatial_shape([sizes[k] for k in axes], path)
    affine = _affine(header, count, axes[:3])
    voxels = _voxels(header, shape, names, start)
    is_oriented = "space directions" in header.fields and _space(header) in _SPACES
    return volume_of(voxels.read(), affine, path, labels), is_oriented


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
    header = TextHeader(path)
    for number, line in enumerate(lines[1:], 2):
        field, colon, value = line.partition(":")
        name = re.sub(r"\s", "", field.lower())
        name = _FIELDS.get(name, name)
        if line.startswith("#") or value.startswith("=") or not line.strip():
            continue
        if not colon or "\0" in line or not header.add(name, value):
            raise VolumeError(
                f"{path}: damaged header, line {number} says {line[:60]!r}; expected one field: "
                "value"
            )
        if name not in _FIELDS.values():
            header.warn("its header has an unknown field %r, which is ignored", field[:60])
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
    space = header.fields.get("space", "").lower()
    is_timed = space.endswith(("-time", "rast", "last", "lpst"))
    signs = np.array(_SPACES.get(_space(header), (1, 1, 1)))
    has_steps, size = "space directions" in header.fields, 3
    if has_steps:
        size = header.integer("space dimension", 4 if is_timed else 3, 3, 4)
        vectors = [_vectors(header, count)[k] for k in axes]
        steps = [header.numbers("space directions", size, vector) for vector in vectors]
        _compare_spacings(header, count, axes, steps)
    else:
        steps = np.diag(_spacings(header, count, axes))
    if not has_steps:
        header.warn(
            "its header has no orientation (space directions); taking LPS axes (left may be right)"
        )
    elif _space(header) not in _SPACES:
        header.warn(
            "its header does not say how its axes lie in the patient (space%s); taking LPS axes "
            "(left may be right)",
            f" is {space}" if space else "",
        )
    affine = np.array([*steps, _origin(header, count, axes, size)]).T
    if affine[3:, :3].any():
        raise header.error("space directions", "expected three axes in three dimensions of space")
    # Units of space belong to directions, units of axes to spacings, but some write the other.
    fields = [("space units", range(size)), ("units", axes)][:: 1 if has_steps else -1]
    field, wanted = next((pair for pair in fields if pair[0] in header.fields), (None, ()))
    if field:
        units = _units(header, field, size if field == "space units" else count)
        signs = signs * [units[k] for k in wanted][:3]
    return signs[:, None] * affine[:3]


def _space(header):
    return header.fields.get("space", "").lower().removesuffix("-time")


def _spacings(header, count, axes):
    """The voxel size (3,), where only that is known."""
    if "spacings" not in header.fields:
        raise VolumeError(
            f"{header.path}: its header does not say the voxel size (spacings or space "
            "directions); add the line `spacings: ` with it, or convert the scan again"
        )
    spacing = header.numbers("spacings", 3, _along(header, "spacings", count, axes))
    if spacing.min() <= 0:
        raise header.error("spacings", "the voxel size must be positive in mm; repair the header")
    return spacing


def _compare_spacings(header, count, axes, steps):
    """Tell a voxel size that is not that of the directions."""
    if "spacings" in header.fields:
        words = _along(header, "spacings", count, axes)
        with suppress(VolumeError):
            given = header.numbers("spacings", 3, words)
            if not np.allclose(given, np.linalg.norm(steps, axis=1), rtol=0.01):
                header.warn("spacings is %s, space directions say otherwise and are taken", words)


def _along(header, field, count, axes):
    """The words of a field, one per axis, that belong to these axes."""
    words = header.fields[field].split()
    if len(words) != count:
        raise header.error(field, f"expected {count} words, one per axis")
    return " ".join(words[k] for k in axes)


def _origin(header, count, axes, size):
    """The first voxel's centre, of "space origin" or of "axis mins", which are edges of cells."""
    if origin := header.fields.get("space origin", "").strip(" ()"):
        return header.numbers("space origin", size, origin)
    if "space directions" in header.fields or not header.fields.get("axis mins"):
        header.warn("its header has no space origin; taking the first voxel at (0, 0, 0)")
        return np.zeros(size)
    edges = header.numbers("axis mins", 3, _along(header, "axis mins", count, axes))
    name = next((name for name in ("centerings", "centers") if header.fields.get(name)), None)
    centers = _along(header, name, count, axes).lower().split() if name else [""] * 3
    half = [0.0 if center == "node" else 0.5 for center in centers]
    return edges + _spacings(header, count, axes) * half


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
