# SPDX-License-Identifier: MIT
"""The elements of a DICOM file that SimpleITK does not hand out.

SimpleITK drops sequences, and with them the position of each frame of a multi-frame image; for
frames at uneven distances or several per position it makes up a geometry. This walks through a
file's elements, sequences flattened, as far as the pixels.

Reference: DICOM PS3.5, section 7 (data elements), little-endian transfer syntaxes.
"""

import struct
from pathlib import Path

TRANSFER_SYNTAX, SERIES, ROWS = (0x0002, 0x0010), (0x0020, 0x000E), (0x0028, 0x0010)
POSITION, ORIENTATION = (0x0020, 0x0032), (0x0020, 0x0037)
PIXEL_SPACING, RESCALE = (0x0028, 0x0030), ((0x0028, 0x1052), (0x0028, 0x1053))
_PIXELS, _ITEM_GROUP = (0x7FE0, 0x0010), 0xFFFE
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_NUMBERS = {b"FD": "<d", b"FL": "<f", b"UL": "<I", b"US": "<H", b"SL": "<i", b"SS": "<h"}
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT = "1.2.840.10008.1.2"
_UNREADABLE = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # big endian, deflated
# Sequences on the way to the geometry of frames; implicit files do not mark them as sequences.
_SEQUENCES = {
    (0x5200, 0x9229),
    (0x5200, 0x9230),
    (0x0020, 0x9111),
    (0x0020, 0x9113),
    (0x0020, 0x9116),
    (0x0028, 0x9110),
    (0x0028, 0x9145),
    (0x0018, 0x9114),
    (0x0018, 0x9117),
}


def read_tags(path):
    """Return {(group, element): list of values in file order} of a DICOM file.

    Values are numbers for one binary number, else stripped text. A damaged end is ignored; a
    file in a byte order or compression this cannot walk through gives its first elements only.
    """
    data = Path(path).read_bytes()
    tags = {}
    for tag, value in _elements(data, 132 if data[128:132] == b"DICM" else 0):
        tags.setdefault(tag, []).append(value)
    return tags


def _elements(data, position):
    explicit, group = True, 2
    while position + 8 <= len(data):
        tag = struct.unpack_from("<HH", data, position)
        if group == 2 != tag[0]:
            if explicit is None:
                return
            explicit = explicit and data[position + 4 : position + 6].isalpha()
        group = tag[0]
        vr, size, header = _lengths(data, position, explicit or group == 2)
        if tag == _PIXELS:
            return
        position += header
        if group == _ITEM_GROUP or vr == b"SQ" or size == _UNDEFINED or tag in _SEQUENCES:
            continue  # into the sequence or item
        value = _value(data[position : position + size], vr)
        if tag == TRANSFER_SYNTAX:
            explicit = None if value in _UNREADABLE else value != _IMPLICIT
        yield tag, value
        position += size


def _lengths(data, position, explicit):
    """Value representation, length of the value, length of what stands before it."""
    if explicit and struct.unpack_from("<H", data, position)[0] != _ITEM_GROUP:
        vr = data[position + 4 : position + 6]
        if vr in _LONG:
            long = data[position + 8 : position + 12].ljust(4, b"\0")
            return vr, struct.unpack("<I", long)[0], 12
        return vr, struct.unpack_from("<H", data, position + 6)[0], 8
    return None, struct.unpack_from("<I", data, position + 4)[0], 8


def _value(raw, vr):
    form = _NUMBERS.get(vr)
    if form and len(raw) == struct.calcsize(form):
        return struct.unpack(form, raw)[0]
    return raw.decode("latin-1").strip("\0 ")
