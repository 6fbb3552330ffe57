# SPDX-License-Identifier: MIT
"""Synthetic patches on disk, to look at what a training on label maps would see."""

import io
import time
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import check_writable, write_bytes
from segsrgan.training.picture import contact_sheet, side_views
from segsrgan.volumes import Volume, write_volume

PARTS = ("LR", "HR", "label")
SHEET = "samples.png"


class Sample(NamedTuple):
    """What is known of a sample.

    Attributes:
        source: number of the source it was drawn from.
        resolution: distance of its slices in voxels.
        seconds: that drawing it took.
    """

    source: int
    resolution: float
    seconds: float


def write_samples(sources, folder, number, seed=0, overwrite=False):
    """Draws patches from sources in turn and writes them, after the last a picture of all.

    The files are `sample_001_LR.nii.gz` and so on, see `PARTS`, and `samples.png`. Their voxels are
    1 mm; the label is uint8.

    Args:
        sources: sequence of objects with `draw(rng)`.
        folder: where the files go; made if need be.
        number: of samples.
        seed: a sample follows from it and its number alone.
        overwrite: whether existing files may be replaced.

    Yields:
        `Sample`, already written.

    Raises:
        UserError: if there is such a file already.
        OSError, VolumeError: if a file or the folder cannot be written.
    """
    folder = Path(folder)
    files = [
        [folder / f"sample_{index:03d}_{part}.nii.gz" for part in PARTS]
        for index in range(1, number + 1)
    ]
    sheet = folder / SHEET
    existing = [path for path in (*chain(*files), sheet) if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{existing[0]}: exists already; take another folder, or --overwrite to replace it"
        )
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, paths in enumerate(files):
        start, chosen = time.perf_counter(), index % len(sources)
        patch = sources[chosen].draw(np.random.default_rng([seed, index]))
        seconds = time.perf_counter() - start
        hr, label = patch.truth["sr"], patch.truth["cortex"]
        for path, array in zip(paths, (patch.lr, hr, np.uint8(label > 0.5)), strict=True):
            write_volume(Volume(array, (1.0, 1.0, 1.0)), path)
        rows.append(side_views(patch.lr, hr, label))
        yield Sample(chosen, patch.resolution, seconds)
    write_bytes(sheet, _png(contact_sheet(rows)))


def _png(picture):
    from PIL import Image  # slow to import

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
