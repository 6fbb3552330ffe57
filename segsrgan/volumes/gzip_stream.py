# SPDX-License-Identifier: MIT
"""Write gzip quickly: pieces in parallel, each with the method that suits it.

float32 voxels of a real image hardly compress; searching them for repetitions takes five times as
long as coding them by frequency alone and gains 1 % of size. Masks and empty background are the
opposite. Pieces are joined into one ordinary gzip member as pigz does it.
"""

import itertools
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

_HEADER = b"\x1f\x8b\x08\0" + bytes(4) + b"\x04\xff"  # deflate, no name, no time, fast, any system
_LAST_BLOCK = b"\x03\0"
_SAMPLE = 2**16  # bytes that decide on the method
_REPETITIVE = 0.6  # compressed to less of its size, a piece is worth the search
_THREADS = min(4, os.cpu_count() or 1)


def write_gzip(file, pieces):
    """Write an iterable of bytes-like pieces (a few MiB each) as one gzip member.

    A few pieces are held at a time. zlib works without Python's lock, so threads suffice.
    """
    checksum, size, pieces = 0, 0, iter(pieces)
    file.write(_HEADER)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(itertools.islice(pieces, _THREADS)):
            for piece, packed in zip(batch, pool.map(_deflate, batch), strict=True):
                checksum = zlib.crc32(piece, checksum)
                size += len(piece)
                file.write(packed)
    file.write(_LAST_BLOCK + struct.pack("<II", checksum, size % 2**32))


def _deflate(piece):
    """Deflate blocks of a piece, ending at a byte and needing nothing before them."""
    middle = max(0, len(piece) - _SAMPLE) // 2
    sample = piece[middle : middle + _SAMPLE]
    repetitive = len(zlib.compress(sample, 1)) < _REPETITIVE * len(sample)
    strategy = zlib.Z_DEFAULT_STRATEGY if repetitive else zlib.Z_HUFFMAN_ONLY
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, strategy=strategy)
    return packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
