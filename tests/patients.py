# SPDX-License-Identifier: MIT
"""Patients of a few voxels, for the tests of SuperMask's training."""

import numpy as np
from examinations import CENTRE, examination

from segsrgan.volumes import Volume, write_volume
from supermask.geometry import Rigid
from supermask.training import Examination, TrainingSettings

PLANES = ("axial", "coronal", "sagittal")
TINY = {
    "grid_size": 16,
    "spacing": 5.0,
    "kernel": 2,
    "levels": 2,
    "alignnet_kernels": "4",
    "hidden": 8,
    "window": 5,
    "rotation": 20.0,
    "shift": 1.0,
    "steps": 2,
    "stage1_epochs": 2,
    "stage2_epochs": 2,
    "tensorboard": False,
}


def tiny(**options):
    """The settings of a training that takes seconds."""
    return TrainingSettings(**{**TINY, **options})


def write_masks(folder):
    """Makes a folder of two masks, ellipsoids of label 2 within label 1; returns the folder."""
    folder.mkdir(exist_ok=True)
    points = np.indices((16, 16, 16)).T - 7.5
    radius = np.linalg.norm(points * (1.6, 1.3, 1), axis=-1)
    array = (radius < 7).astype(np.uint8) + (radius < 5)
    for index in range(2):
        write_volume(Volume(array, (3.0 + index,) * 3), folder / f"m{index}.nii.gz")
    return folder


def patient(seed=0, known=True, planes=PLANES, fine=4.0, thick=8.0):
    """Stacks of the ellipsoid, which has moved between them."""
    rng, poses = np.random.default_rng(seed), {}
    for plane in planes[1:]:
        angles = np.deg2rad(rng.uniform(-20, 20, 3))
        poses[plane] = Rigid(tuple(angles), tuple(rng.uniform(-4, 4, 3)), tuple(CENTRE))
    views = examination(poses, planes, fine=fine, thick=thick)
    transforms = tuple(poses.get(plane, Rigid()) for plane in planes)
    return Examination(tuple(views), transforms if known else None, f"patient {seed}")
