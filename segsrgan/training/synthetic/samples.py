# SPDX-License-Identifier: MIT
"""Synthetic patches on disk, to look at what a training on label maps would see."""

import io
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.files import write_bytes
from segsrgan.training.picture import contact_sheet, side_views
from segsrgan.training.synthetic.sources import Patch
from segsrgan.volumes import Volume, write_volume

PARTS = ("LR", "HR", "label")


class Sample(NamedTuple):
    """A drawn patch.

    Attributes:
        patch: a `Patch`.
        source: number of the source it was drawn from.
        seconds: that drawing it took.
    """

    patch: Patch
    source: int
    seconds: float


def draw_samples(sources, number, seed=0):
    """Draws patches from sources in turn.

    Args:
        sources: sequence of objects with `draw(rng)`.
        number: of patches.
        seed: a patch follows from it and its number alone.

    Yields:
        `Sample`.
    """
    for index in range(number):
        start, chosen = time.perf_counter(), index % len(sources)
        patch = sources[chosen].draw(np.random.default_rng([seed, index]))
        yield Sample(patch, chosen, time.perf_counter() - start)


def write_samples(sources, folder, number, seed=0, overwrite=False):
    """Writes samples and, after the last, a picture of all, see `sample_paths` and `sheet_path`.

    Voxels of the files are 1 mm; the label is uint8.

    Args:
        sources: see `draw_samples`.
        folder: where they go; made if need be.
        number: of samples.
        seed: see `draw_samples`.
        overwrite: whether files that are there may be replaced.

    Yields:
        `Sample`, already written.

    Raises:
        ValueError: if there is such a file already.
        OSError, VolumeError: if a file or the folder cannot be written.
    """
    files = [sample_paths(folder, index) for index in range(1, number + 1)]
    sheet = sheet_path(folder)
    paths = [path for part in files for path in part.values()]
    existing = [path for path in (*paths, sheet) if path.exists()]
    if existing and not overwrite:
        raise ValueError(
            f"{existing[0]}: exists already; take another folder, or --overwrite to replace it"
        )
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"{folder}: is a file; take another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for paths, sample in zip(files, draw_samples(sources, number, seed), strict=True):
        lr, hr, label = sample.patch.lr, *map(sample.patch.truth.get, ("sr", "cortex"))
        arrays = (lr, hr, (label > 0.5).astype(np.uint8))
        for part, array in zip(PARTS, arrays, strict=True):
            write_volume(Volume(array, (1.0, 1.0, 1.0)), paths[part])
        rows.append(side_views(lr, hr, label))
        yield sample
    write_bytes(sheet, _png(contact_sheet(rows)))


def sample_paths(folder, index):
    """The files of a sample, `{part: path}` for each of `PARTS`."""
    return {part: Path(folder) / f"sample_{index:03d}_{part}.nii.gz" for part in PARTS}


def sheet_path(folder):
    """The picture of all samples."""
    return Path(folder) / "samples.png"


def _png(picture):
    from PIL import Image  # slow to import

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
