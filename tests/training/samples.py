# SPDX-License-Identifier: MIT
"""Small volumes that the tests of the training share."""

import numpy as np

from segsrgan.volumes import Volume, write_volume


def ball(shape=(24, 24, 24), radius=7.0, spacing=(1.0, 1.0, 1.0)):
    """An image of a shaded ball and its shell as label."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    distance = np.linalg.norm(grid - (np.array(shape) - 1) / 2, axis=-1)
    image = np.where(distance < radius, 100 + 10 * np.sin(grid[..., 0]), 0).astype("float32")
    label = ((distance < radius) & (distance > radius - 3)).astype("float32")
    return Volume(image, spacing), Volume(label, spacing)


def write_table(folder, rows=("Train", "Test"), **options):
    """Images, labels and the CSV that names them; returns the CSV's path."""
    lines = ["HR_image,Label_image,Base"]
    for index, base in enumerate(rows):
        image, label = ball(**options)
        write_volume(image, folder / f"image{index}.nii.gz")
        write_volume(label, folder / f"label{index}.nii.gz")
        lines.append(f"image{index}.nii.gz,label{index}.nii.gz,{base}")
    path = folder / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
