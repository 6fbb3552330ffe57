# SPDX-License-Identifier: MIT
"""Small images and segmentations with known scores, and the command run in process."""

import numpy as np
import pytest

from segsrgan.volumes import Volume, write_volume

SPACING = (1.0, 1.0, 2.0)
SHAPE = (12, 11, 10)


def cube(first=3, shape=SHAPE, value=1):
    """A cube of 4^3 voxels that begins at voxel (4, 4, first)."""
    array = np.zeros(shape, np.uint8)
    array[4:8, 4:8, first : first + 4] = value
    return array


def scan(seed=0, shape=SHAPE):
    """Random intensities between 10 and 200."""
    return np.random.default_rng(seed).uniform(10, 200, shape).astype(np.float32)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes an array and returns the name of its file."""

    def write(name, array, spacing=SPACING, **place):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(Volume(array, spacing, **place), path)
        return path

    return write


@pytest.fixture
def labels(save):
    """Return the columns of a case whose prediction lies one slice of 2 mm too high.

    Dice 2 * 48 / 128; of 56 surface voxels a layer of 16 lies 2 mm off and the 4 in the middle
    of the last layer 1 mm, so that the 95 % are 2 mm and the mean is 36 / 56.
    """
    return {"label": save("label.nii.gz", cube(4)), "reference_label": save("truth.nii", cube())}


@pytest.fixture
def images(save):
    """Return the columns of a case whose image is 19 off where its mask is, and 0 elsewhere.

    The peak there is 190, so that the PSNR is 20 dB.
    """
    reference = scan()
    reference[cube() > 0] = np.linspace(50, 190, 64)
    reference[0, 0, 0] = 5000
    image = np.where(cube() > 0, reference + 19, 0).astype(np.float32)
    return {
        "image": save("sr.nii.gz", image),
        "reference_image": save("hr.nii.gz", reference),
        "mask": save("mask.nii.gz", cube()),
    }


@pytest.fixture
def table(tmp_path):
    """Return a function that writes rows, dicts of columns, into a CSV and returns its path."""

    def write(*rows):
        columns = list(dict.fromkeys(column for row in rows for column in row))
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
        path = tmp_path / "cases.csv"
        path.write_text("".join(f"{','.join(line)}\n" for line in lines))
        return path

    return write


@pytest.fixture
def command():
    """Return a function that runs `segsrgan evaluate` in process and returns its exit status."""
    from segsrgan.cli.evaluate import main

    return lambda *argv: main([str(word) for word in argv])
