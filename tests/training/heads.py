# SPDX-License-Identifier: MIT
"""Small label maps that the tests of synthetic images share."""

import numpy as np

from segsrgan.volumes import Volume, write_volume


def head(size=32):
    """FreeSurfer numbers: white matter in a cortex shell in fluid in a skull."""
    grid = np.stack(np.meshgrid(*(np.arange(size),) * 3, indexing="ij"), -1)
    distance = np.linalg.norm(grid - (size - 1) / 2, axis=-1)
    labels = np.zeros((size,) * 3, "int32")
    for radius, value in ((14, 515), (12, 24), (10, 3), (7, 2)):
        labels[distance < radius] = value
    return labels


def write_map(path, array, spacing=(1.0, 1.0, 1.0)):
    """Writes a label map of any values."""
    write_volume(Volume(np.asarray(array, "float32"), spacing), path)
    return path


def write_maps(folder, count=2, header="Label_map", rows=None, name="maps.csv"):
    """Heads, each a voxel larger than the one before, and the CSV that names them."""
    names = [f"head{index}.nii.gz" for index in range(count)]
    for index, file in enumerate(names):
        write_map(folder / file, head(32 + index))
    path = folder / name
    path.write_text("\n".join([header, *(rows or names)]) + "\n")
    return path
