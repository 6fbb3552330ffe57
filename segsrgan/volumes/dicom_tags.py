# SPDX-License-Identifier: MIT
"""The elements of a DICOM file that SimpleITK does not hand out.

SimpleITK drops sequences, and with them the position of each frame of a multi-frame image; for
frames at uneven distances or several per position it makes up a geometry. This walks through a
file's elements as far as the pixels.

Reference: DICOM PS3.5, section 7 (data elements), little-endian transfer syntaxes; PS3.3,
section C.7.6.16 (functional groups of frames).
"""

import struct
from pathlib import Path

# (sequence that holds the element, element); None: the file itself.
TRANSFER_SYNTAX = (None, (0x0002, 0x0010))
SERIES = (None, (0x0020, 0x000E))
ROWS = (None, (0x0028, 0x0010))
PIXELS = (None, (0x7FE0, 0x0010))
POSITION = ((0x0020, 0x9113), (0x0020, 0x0032))
ORIENTATION = ((0x0020, 0x9116), (0x0020, 0x0037))
PIXEL_SPACING = ((0x0028, 0x9110), (0x0028, 0x0030))
RESCALE = (((0x0028, 0x9145), (0x0028, 0x1052)), ((0x0028, 0x9145), (0x0028, 0x1053)))
FRAME_LABELS = {
    "stack": ((0x0020, 0x9111), (0x0020, 0x9056)),
    "echo time": ((0x0018, 0x9114), (0x0018, 0x9082)),
    "temporal position": ((0x0020, 0x9111), (0x0020, 0x9128)),
    "b-value": ((0x0018, 0x9117), (0x0018, 0x9087)),
}
# Implicit files do not mark sequences; these lead to the elements above.
_SEQUENCES = {
    (0x5200, 0x9229),
    (0x5200, 0x9230),
    *(parent for parent, _ in (POSITION, ORIENTATION, PIXEL_SPACING, *RESCALE)),
    *(parent for parent, _ in FRAME_LABELS.values()),
}
_ITEM_GROUP, _SEQUENCE_END = 0xFFFE, (0xFFFE, 0xE0DD)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_NUMBERS = {b"FD": "<d", b"FL": "<f", b"UL": "<I", b"US": "<H", b"SL": "<i", b"SS": "<h"}
_UNDEFINED = 0xFFFFFFFF
_IMPLICIT = "1.2.840.10008.1.2"
_UNREADABLE = ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")  # big endian, deflated


def read_tags(path):
    """Return {(parent, element): list of values in file order} of a DICOM file.

    Elements and parents are (group, number); the parent is the innermost sequence around the
    element, or None. Values are numbers for one binary number, else stripped text. A damaged end
    is ignored; a file in a byte order or compression this cannot walk through gives only its
    first elements.
    """
    data = Path(path).read_bytes()
    tags = {}
    for parent, tag, value in _elements(data, 132 if data[128:132] == b"DICM" else 0):
        tags.setdefault((parent, tag), []).append(value)
    return tags


def _elements(data, position):
    """Yield (parent, tag, value); `open_` holds the sequences around, and where they end."""
    explicit, open_ = True, []
    while position + 8 <= len(data):
        while open_ and open_[-1][1] <= position:
            open_.pop()
        tag = struct.unpack_from("<HH", data, position)
        vr, size, header = _lengths(data, position, explicit or tag[0] == 2)
        position += header
        parent = open_[-1][0] if open_ else None
        if tag == _SEQUENCE_END and open_:
            open_.pop()
        if tag[0] == _ITEM_GROUP:
            continue
        if (parent, tag) == PIXELS:
            yield parent, tag, ""
            return
        if vr == b"SQ" or size == _UNDEFINED or tag in _SEQUENCES:
            open_.append((tag, len(data) if size == _UNDEFINED else position + size))
            continue
        value = _value(data[position : position + size], vr)
        yield parent, tag, value
        if (parent, tag) == TRANSFER_SYNTAX:
            if value in _UNREADABLE:
                return
            explicit = value != _IMPLICIT
        position += size


def _lengths(data, position, explicit):
    """Value representation, length of the value, length of what stands before it."""
    vr = data[position + 4 : position + 6]
    item = struct.unpack_from("<H", data, position)[0] == _ITEM_GROUP
    if item or not explicit or not vr.isalpha():
        return None, struct.unpack_from("<I", data, position + 4)[0], 8
    if vr in _LONG:
        return vr, int.from_bytes(data[position + 8 : position + 12], "little"), 12
    return vr, struct.unpack_from("<H", data, position + 6)[0], 8


def _value(raw, vr):
    form = _NUMBERS.get(vr)
    if form and len(raw) == struct.calcsize(form):
        return struct.unpack(form, raw)[0]
    return raw.decode("latin-1").strip("\0 ")
