# SPDX-License-Identifier: MIT
"""Small made-up heads for trying the commands where the user has put no images."""

from pathlib import Path

import numpy as np

from segsrgan import Volume, write_volume
from segsrgan.volumes import degrade


def folded_ball(shape, spacing, seed):
    """Draw a T2-like ball with a folded cortex.

    Args:
        shape: Voxels along x, y, z.
        spacing: Size of a voxel in mm, the same along all axes.
        seed: Seed of the folds and of the noise.

    Returns:
        Two Volumes (x, y, z): intensities, float32 in [0, 1000], and the cortex, uint8 0 or 1.
    """
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1.15, 1.15, n) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    waves = [np.sin(7 * axis + rng.uniform(0, 2 * np.pi)) for axis in (x, y, z)]
    depth = 1 - np.sqrt(x**2 + y**2 + z**2) + 0.08 * (waves[0] * waves[1] + waves[1] * waves[2])
    outside, cortex = depth < 0, (depth >= 0.1) & (depth < 0.28)
    image = np.select([outside, depth < 0.1, cortex], [0, 900, 450], default=650)
    image = np.where(outside, 0, image + rng.normal(0, 15, shape)).clip(0, 1000)
    image = Volume(image.astype(np.float32), (spacing,) * 3)
    return image, image.with_array(cortex.astype(np.uint8))


def for_testing(folder):
    """Write one image of 1x1x3 mm into the folder and return its path."""
    path = Path(folder) / "testing" / "example.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    image, _ = folded_ball((48, 56, 48), 1.0, seed=1)
    write_volume(degrade(image, (1.0, 1.0, 3.0)), path)
    return path


def for_training(folder):
    """Write two images of 0.5 mm with their labels and return [(image, label), ...]."""
    pairs = []
    for seed in (1, 2):
        paths = [Path(folder) / "training" / kind / f"{seed}.nii.gz" for kind in ("HR", "Label")]
        for volume, path in zip(folded_ball((88, 96, 84), 0.5, seed), paths, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(volume, path)
        pairs.append(tuple(paths))
    return pairs
