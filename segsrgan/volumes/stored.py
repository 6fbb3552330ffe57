# SPDX-License-Identifier: MIT
"""Voxels behind a header in text (NRRD, MetaImage): what it declares against what is stored."""

import bz2
import logging
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.kinds import content_kind, missing

_logger = logging.getLogger(__name__)

_LONGEST = 2**24  # bytes of a header; those of 3D Slicer's segmentations are long
_CHUNK = 2**20
_MOST_PACKED = 1032  # a byte of a gzip stream holds at most as many
_MOST_FILES = 2**16
_LARGEST = 2**31  # voxels along an axis
_LINE_END = 2  # bytes that an editor may have left behind the voxels
_MM_PER_UNIT = {
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("um", "µm", "μm", "\udcb5m", "micron", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
}
_UNKNOWN = ("", "?", "??", "???", "none", "unknown")


class TextHeader:
    """The fields of a header, by name, each of which is validated where it is taken.

    Args:
        path: of the file, for messages.
        fields: text by name.
    """

    def __init__(self, path, fields):
        self.path, self.fields = path, fields

    def error(self, field, remedy):
        """A `VolumeError`, to be raised, of a field that is missing or damaged."""
        value = self.fields.get(field)
        text = f"says {value[:80]!r}" if value is not None else "is missing"
        return VolumeError(f"{self.path}: damaged header, {field} {text}; {remedy}")

    def warn(self, text, *values):
        """Log what had to be assumed."""
        _logger.warning(f"%s: {text}", self.path, *values)

    def numbers(self, field, count, text=None):
        """`count` finite numbers of a field, or of a part of its text."""
        words = re.split(r"[\s,]+", (self.fields[field] if text is None else text).strip())
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise self.error(field, f"expected {count} finite number(s)")
        return np.array(numbers)

    def integers(self, field, count, least, most):
        """`count` integers of a field, from `least` to `most`."""
        words = self.fields.get(field, "").split()
        if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
            raise self.error(field, f"expected {count} integer(s)")
        if not all(least <= int(word) <= most for word in words):
            raise self.error(field, f"expected {least} to {most}")
        return [int(word) for word in words]

    def integer(self, field, default, least, most):
        """One integer; `default` where the field is missing."""
        return self.integers(field, 1, least, most)[0] if field in self.fields else default

    def sizes(self, field, count):
        """Numbers of voxels along `count` axes."""
        return self.integers(field, count, 1, _LARGEST)

    def choice(self, field, choices):
        """What a word stands for; `choices` has lower-case keys."""
        word = self.fields.get(field, "").strip().lower()
        if word not in choices:
            raise self.error(field, f"expected one of {', '.join(choices)}")
        return choices[word]

    def mm_per_unit(self, field, word):
        """Millimetres in a unit; 1, with a warning, in one that is unknown."""
        word = word.strip().lower()
        unit = _MM_PER_UNIT.get(word, _MM_PER_UNIT.get(word.removesuffix("s")))
        if unit is None and word not in _UNKNOWN:
            self.warn("%s says %r, which is no unit of length known here; taking mm", field, word)
        return unit or 1.0

    def data_files(self, field, words, names):
        """The files of the voxels: one, or of a list or pattern (C's printf) one per slice.

        Args:
            field: that names them.
            words: its value in words; "LIST", or pattern, first and last number, step.
            names: the lines behind the header.
        """
        if words and words[0].upper() == "LIST":
            found = [name.strip() for name in names if name.strip()]
        elif len(words) >= 3 and re.fullmatch(r"[^%]*%0?\d?d[^%]*", words[0]):
            if not all(re.fullmatch(r"-?\d{1,9}", word) for word in words[1:]):
                raise self.error(field, "expected a pattern, its first and last number and a step")
            first, last, step = (int(word) for word in (*words[1:3], *words[3:4], 1)[:3])
            numbers = range(first, last + (1 if step > 0 else -1), step) if step else ()
            found = [words[0] % number for number in numbers[:_MOST_FILES]]
        else:
            found = [self.fields[field].strip()]
        if not found or not all(found) or any("\0" in name for name in found):
            raise self.error(field, "expected the name of the file that holds the voxels")
        return [_beside(Path(self.path).parent / name) for name in found]


def _beside(path):
    """The file of a name, which on other systems may have other capitals."""
    if path.exists() or not path.parent.is_dir():
        return path
    name = path.name.lower()
    return next((other for other in path.parent.iterdir() if other.name.lower() == name), path)


def read_header(path):
    """The first bytes of a file, which hold its header."""
    with open(path, "rb") as file:
        return file.read(_LONGEST)


@dataclass(frozen=True)
class StoredVoxels:
    """Where and how the voxels of a header are stored.

    Args:
        path: of the header, for messages.
        shape: (x, y, z).
        dtype: of a stored voxel, byte order included.
        encoding: "raw", "gzip" (or zlib), "bzip2" or "ascii".
        files: each holds as many slices, one after the other.
        start: the byte at which they begin in each.
        lines: that are skipped then.
        skipped: bytes that are skipped then, of what is decompressed; -1: all but the voxels.
    """

    path: Path
    shape: tuple
    dtype: np.dtype
    encoding: str
    files: list
    start: int = 0
    lines: int = 0
    skipped: int = 0

    def read(self, labels):
        """The array (x, y, z), C-contiguous: float32, of `labels` in the stored type."""
        count, rest = divmod(math.prod(self.shape), len(self.files))
        if rest:
            raise VolumeError(
                f"{self.path}: {len(self.files)} files cannot hold {self._text()} in equal parts; "
                "repair the list of files"
            )
        try:
            pieces = [self._piece(file, count) for file in self.files]
        except (zlib.error, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise VolumeError(
                f"{self.path}: the compressed voxels are truncated or damaged ({error}); copy the "
                "file again"
            ) from error
        array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        dtype = self.dtype.newbyteorder("=") if labels else np.float32
        # Beyond float32 it becomes infinite, which is refused where it is used.
        with np.errstate(over="ignore"):
            return np.array(array.reshape(self.shape, order="F"), dtype=dtype, order="C")

    def _text(self):
        return f"{' x '.join(map(str, self.shape))} voxels of {self.dtype.name}"

    def _piece(self, path, count):
        """The `count` voxels of one file."""
        if not path.is_file():
            reason = missing(path) if path.is_symlink() else "is missing; put it into one folder"
            raise VolumeError(f"{self.path}: the file of its voxels {path.name} {reason}")
        with open(path, "rb") as file:
            file.seek(self.start)
            for _ in range(self.lines):
                if not file.readline(_CHUNK):
                    break
            size, stored = count * self.dtype.itemsize, os.path.getsize(path) - file.tell()
            if self.encoding == "ascii":
                return self._ascii(file, path, count, stored)
            first = self.skipped if self.skipped >= 0 else max(stored - size, 0)
            if self.encoding == "raw":
                self._compare(path, size + first, stored)
                file.seek(first, os.SEEK_CUR)
                data = file.read(size)
            else:
                if self.encoding == "gzip" and size + first > stored * _MOST_PACKED:
                    self._compare(path, size + first, stored * _MOST_PACKED)
                data = self._unpacked(file, size + first + _CHUNK)
                self._compare(path, size + first, len(data))
                data = memoryview(data)[first : first + size]
        return np.frombuffer(data, self.dtype)

    def _compare(self, path, declared, stored):
        """Refuse voxels that are not as many bytes as a header declares."""
        if declared <= stored <= declared + _LINE_END and declared >= 0:
            return
        kind = content_kind(path) if path != Path(self.path) else None
        hint = f"{path.name} is {kind[0]}; {kind[1]}" if kind else "copy it again, or repair it"
        what = "truncated" if stored < declared else "damaged header"
        raise VolumeError(
            f"{self.path}: {what}, expected {declared} bytes ({self._text()}), {path.name} holds "
            f"{'at most ' if self.encoding == 'gzip' else ''}{stored}; {hint}"
        )

    def _unpacked(self, file, most):
        """At most so many decompressed bytes; several streams may follow each other."""
        result, left = bytearray(), b""
        while piece := left or file.read(_CHUNK):
            unpacker = zlib.decompressobj(47) if self.encoding == "gzip" else bz2.BZ2Decompressor()
            while not unpacker.eof:
                if len(result) > most:
                    return result
                unpacked = unpacker.decompress(piece, _CHUNK)
                result += unpacked
                piece = getattr(unpacker, "unconsumed_tail", b"")  # bz2 keeps it
                if not (piece or unpacked or unpacker.eof) and not (piece := file.read(_CHUNK)):
                    raise EOFError("it ends early")
            left = unpacker.unused_data.lstrip(b"\0\r\n")
        return result

    def _ascii(self, file, path, count, stored):
        if 2 * count - 1 > stored:
            self._compare(path, 2 * count - 1, stored)
        words = file.read().split()
        if len(words) != count:
            raise VolumeError(
                f"{self.path}: damaged header, expected {count} numbers, {path.name} holds "
                f"{len(words)}; copy it again, or repair it"
            )
        try:
            return np.array(words).astype(self.dtype)
        except (ValueError, OverflowError) as error:
            raise VolumeError(
                f"{self.path}: expected numbers of {self.dtype.name} in {path.name}: {error}; "
                "export the image again"
            ) from error
