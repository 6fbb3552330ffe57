# SPDX-License-Identifier: MIT
"""Headers of NRRD and MetaImage with one line replaced: the right image, or one line of text."""

import re
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import strategies as st
from volumes.samples import noise, rotation
from volumes.strange import EXAMPLES, for_all, read_or_refused

from segsrgan.volumes import Volume, read_volume
from segsrgan.volumes.itk import from_itk, quiet, to_itk

ARRAY = (noise((7, 6, 5)) * 1000).astype(np.int16)
IMAGE = Volume(ARRAY, (0.8, 0.9, 3.1), (-9, 5, 7), rotation())
NAMES = ["plain.nrrd", "packed.nrrd", "spacings.nrrd", "plain.mha", "packed.mha", "alone.mha"]
# What nothing else in a file tells is believed.
BELIEVED = ("endian", "BinaryDataByteOrderMSB")
WORDS = ["", "0", "-1", "nan", "inf", "1e308", "1e-300", "none", "(", "(0,0,0)", "2147483648"]
WORDS += ["9" * 18, "LIST", "%d 1 5 1", "/", "True", "um", "RAS", "short", "MET_FLOAT", "\0", "é"]
NUMBERS = st.integers(-10, 400) | st.floats(-1e3, 1e3)
VALUES = st.sampled_from(WORDS) | NUMBERS.map(str) | st.text(max_size=12)


def made(path):
    """The lines of a header, and the bytes behind it, of a good image."""
    kind, suffix = path.name.split(".")
    sitk.WriteImage(to_itk(IMAGE), str(path), useCompression=kind == "packed")
    end = b"\n\n" if suffix == "nrrd" else b"ElementDataFile = LOCAL\n"
    header, voxels = path.read_bytes().split(end, 1)
    lines = [line for line in header.decode().split("\n") if line and line[0] != "#"]
    if suffix == "nrrd":
        lines.append('space units: "mm" "mm" "mm"')
    else:
        lines += ["DistanceUnits = mm", "HeaderSize = 0", "ElementDataFile = LOCAL"]
    if kind == "spacings":
        lines = [line for line in lines if not line.startswith("space")]
        lines.append("spacings: 0.8 0.9 3.1")
    if kind == "alone":
        lines = [line for line in lines if not line.startswith(("TransformMatrix", "Offset"))]
    return lines, (b"\n\n" if suffix == "nrrd" else b"\n") + voxels


def replaced(line, place, value, whole):
    """A line with another value, or one word or number of it; None leaves it out."""
    if value is None:
        return ""
    found = re.match(r"(\w[\w ]*?\s*[:=]\s*)(.*)", line)
    if found is None or place == 0:
        return value
    name, old = found.groups()
    words = re.split(r"([\s(),]+)", old)
    places = [k for k, word in enumerate(words) if word and not re.match(r"[\s(),]", word)]
    if whole or not places:
        return name + value
    words[places[place % len(places)]] = value
    return name + "".join(words)


def by_itk(path):
    """What SimpleITK finds in a file that was accepted; None where it refuses it."""
    try:
        with quiet():
            return from_itk(sitk.ReadImage(str(path)))
    except RuntimeError:
        return None


def is_same(volume, other):
    return volume.grid.is_close(other.grid, 0.1) and np.array_equal(volume.array, other.array)


@EXAMPLES
@pytest.mark.parametrize("name", NAMES)
@np.errstate(all="ignore")
def test_one_strange_line_ends_in_the_right_image_or_one_line(
    tmp_path, caplog, capfd, name, examples
):
    path = tmp_path / name
    lines, voxels = made(path)
    path.write_bytes("\n".join(lines).encode() + voxels)
    good = read_volume(path)
    assert np.array_equal(good.array, ARRAY)
    usual = len(caplog.records)

    def check(change):
        if isinstance(change, int):
            path.write_bytes(("\n".join(lines).encode() + voxels)[: -1 - change])
        else:
            which, *how = change
            changed = [*lines]
            changed[which] = replaced(lines[which], *how)
            header = "\n".join(line for line in changed if line)
            path.write_bytes(header.encode("utf-8", "surrogatepass") + voxels)
        caplog.clear()
        found = read_or_refused(path)
        if found is None or is_same(found, good):
            return
        assert not isinstance(change, int)
        believed = lines[change[0]].startswith(BELIEVED)
        other = by_itk(path) or good
        assert believed or len(caplog.records) > usual or is_same(found, other)

    change = st.tuples(
        st.integers(0, len(lines) - 1), st.integers(0, 11), VALUES | st.none(), st.booleans()
    )
    for_all(change | st.integers(0, len(voxels) + 99), examples)(check)
    assert capfd.readouterr().err == ""


@EXAMPLES
def test_a_damaged_packed_stream_is_noticed(tmp_path, examples):
    path = tmp_path / "packed.mha"
    lines, voxels = made(path)
    header, packed = "\n".join(lines).encode(), bytearray(voxels[1:])
    assert zlib.decompress(packed) == ARRAY.tobytes("F")

    def check(change):
        place, value = change
        damaged = packed.copy()
        damaged[place] ^= value
        path.write_bytes(header + b"\n" + damaged)
        found = read_or_refused(path)  # some bits mean nothing
        assert found is None or np.array_equal(found.array, ARRAY)

    for_all(st.tuples(st.integers(2, len(packed) - 1), st.integers(1, 255)), examples)(check)
