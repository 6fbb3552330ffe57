# SPDX-License-Identifier: MIT
"""Voxels behind a header in text (NRRD, MetaImage): what it declares against what is stored."""

import bz2
import gzip
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
_MOST_HELD = {"raw": 1, "hex": 1, "gzip": 1032, "bzip2": 2**30}  # bytes in a stored byte
_MOST_FILES = 2**16
TRUTH = {"true": "1", "t": "1", "false": "0", "f": "0"}
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
    """The fields of a header, text by name, each of which is validated where it is taken."""

    def __init__(self, path):
        self.path, self.fields = path, {}

    def add(self, field, value):
        """Keep the value of a field; whether it had no other one before."""
        value = re.sub(r'^"([^"]*)"$', r"\1", value.strip()).strip()
        is_new = is_same(self.fields.get(field, value), value)
        self.fields[field] = value
        return is_new

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

        `words` are the value of the field that names them, `names` the lines behind the header.
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


def is_same(text, other):
    """Whether two values say one thing, however it is spelled."""
    return _spelled(text) == _spelled(other)


def _spelled(text):
    words = [TRUTH.get(word, word) for word in re.findall(r'[^\s,()"]+', text.lower())]
    try:
        return [str(float(word)) for word in words]
    except ValueError:
        return words


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
    """Where and how the voxels of a header, which messages name by its `path`, are stored."""

    path: Path
    shape: tuple  # (x, y, z)
    dtype: np.dtype  # of a stored voxel, byte order included
    encoding: str  # "raw", "gzip" (or zlib), "bzip2", "hex" or "ascii"
    files: list  # each holds as many slices, one after the other
    start: int = 0  # the byte at which they begin in each
    lines: int = 0  # that are skipped then
    skipped: int = 0  # bytes that are skipped then, of what is decompressed; -1: all but the voxels

    def read(self):
        """The array (x, y, z) in the stored type."""
        count, rest = divmod(math.prod(self.shape), len(self.files))
        if rest:
            raise VolumeError(
                f"{self.path}: {len(self.files)} files cannot hold {self._text()} in equal parts; "
                "repair the list of files"
            )
        array = np.concatenate([self._piece(file, count) for file in self.files])
        return array.reshape(self.shape, order="F")

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
                file.readline(_CHUNK)
            size, stored = count * self.dtype.itemsize, os.path.getsize(path) - file.tell()
            if self.encoding == "ascii":
                return self._ascii(file, path, count, stored)
            declared = size + (self.skipped if self.skipped >= 0 else max(stored - size, 0))
            most = stored * _MOST_HELD[self.encoding]
            if self.encoding == "raw" or declared > most:
                self._compare(path, declared, most)
            try:
                data = self._bytes(file, declared + _CHUNK)
            except (zlib.error, EOFError, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise VolumeError(
                    f"{self.path}: its voxels are truncated or damaged ({error}); copy it again"
                ) from error
        self._compare(path, declared, len(data))
        return np.frombuffer(data, self.dtype, count, declared - size)

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

    def _bytes(self, file, most):
        """At most so many bytes of what an open file holds from here on, or a little more."""
        if self.encoding == "hex":
            return bytes.fromhex(file.read().decode("latin-1"))
        start, result = file.peek(2)[:2], bytearray()
        if self.encoding == "gzip" and start != b"\x1f\x8b":
            unpacker = zlib.decompressobj()
            result = unpacker.decompress(file.read(), most)
            if not unpacker.eof and len(result) < most:
                raise EOFError("it ends early")
            return result
        stream = {"raw": file, "gzip": gzip.GzipFile(fileobj=file), "bzip2": bz2.BZ2File(file)}
        while len(result) < most and (piece := stream[self.encoding].read(_CHUNK)):
            result += piece
        return result

    def _ascii(self, file, path, count, stored):
        words = file.read().split() if stored >= 2 * count - 1 else []
        if len(words) != count:
            raise VolumeError(
                f"{self.path}: damaged header, expected {count} numbers, {path.name} holds "
                f"{len(words) or 'fewer'}; copy it again, or repair it"
            )
        try:
            return np.array(words).astype(self.dtype)
        except (ValueError, OverflowError) as error:
            raise VolumeError(
                f"{self.path}: expected numbers of {self.dtype.name} in {path.name}: {error}; "
                "export the image again"
            ) from error
