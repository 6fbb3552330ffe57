# SPDX-License-Identifier: MIT
"""Write a volume as NIfTI, whole or not at all."""

import contextlib
import os
import time
import uuid
from pathlib import Path

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.volumes.gzip_stream import write_gzip
from segsrgan.volumes.nifti_header import build_header, header_dtype

_SLICES_AT_ONCE = 16
_STALE_SECONDS = 600


def write_volume(volume, path):
    """Write a volume as NIfTI-1, keeping its dtype (uint8 masks, float32 images).

    The file appears under its name only when it is complete and on disk; whatever ends the
    writing before, nothing is left, and an older file of that name stays.

    Args:
        volume: what to write.
        path: ends with .nii or .nii.gz, in an existing folder.

    Raises:
        VolumeError: if the suffix or dtype is not possible, or the folder not writable or full.
    """
    path = Path(path)
    compressed = path.name.lower().endswith(".nii.gz")
    if not compressed and path.suffix.lower() != ".nii":
        raise VolumeError(f"{path}: results are written as NIfTI; end the name with .nii.gz")
    try:
        dtype = header_dtype(volume.array.dtype)
        header = build_header(volume.grid, dtype)
    except ValueError as error:
        raise VolumeError(f"{path}: {error}") from error
    try:
        with _replacing(path) as file:
            pieces = _pieces(header, volume.array, dtype)
            write_gzip(file, pieces) if compressed else file.writelines(pieces)
    except OSError as error:
        raise VolumeError(
            f"{path}: cannot be written ({error.strerror or error}); choose an existing folder "
            "with free space that you may write to"
        ) from error


def _pieces(header, array, dtype):
    """Bytes of header, then voxels with x running fastest; a few slices at a time."""
    yield header
    for first in range(0, array.shape[2], _SLICES_AT_ONCE):
        slab = array[:, :, first : first + _SLICES_AT_ONCE].T
        yield np.ascontiguousarray(slab, dtype=dtype).data.cast("B")


@contextlib.contextmanager
def _replacing(path):
    """A binary file that takes the place of `path` on leaving without an exception."""
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _remove_stale(path):
    """Remove what a killed process (SIGKILL, power cut) left of an earlier attempt."""
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
