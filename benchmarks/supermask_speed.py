# SPDX-License-Identifier: MIT
"""Seconds and memory of supermask-predict for three stacks of 256 x 256 x 32 voxels.

The stacks are those of a painted ellipsoid of a head's size, 0.9 mm in plane and slices of 5 mm, in
which the patient has moved. Every line is a command of its own, from its start to its end: what a
user waits for, and the most memory that it ever held.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import markdown, timed

SHAPE, SPACING = (256, 256, 32), (0.9, 0.9, 5.0)
# The order of (x, y, z) of each plane's voxels, and the motion of the patient before it: angles in
# radians, shifts in mm.
PLANES = {
    "axial": ((0, 1, 2), (0, 0, 0), (0, 0, 0)),
    "coronal": ((0, 2, 1), (0.05, -0.03, 0.08), (3, -4, 5)),
    "sagittal": ((1, 2, 0), (-0.06, 0.04, 0.05), (-5, 2, 3)),
}
RADII = (62.0, 80.0, 66.0)  # mm


def add_arguments(parser):
    parser.add_argument("--weights", help="of SuperMask; without, only the classical alignment")
    parser.add_argument("--segsrgan", help="weights of SegSRGAN, to super-resolve stacks first")
    parser.add_argument("--shrink", type=int, default=1, help="divides the sizes, for a trial")


def run(args, save):
    given = "masks given, "
    ways = {f"{given}no alignment": ["--alignment", "none"]}
    ways[f"{given}classical"] = ["--alignment", "classical"]
    if args.weights:
        network = ["--weights", args.weights]
        ways["AlignNet and segmentor"] = [*network, "--no-refine"]
        ways["AlignNet, refined, and segmentor"] = [*network, "--refine"]
        ways["classical and segmentor"] = [*network, "--alignment", "classical"]
    if args.segsrgan:
        ways[f"{given}SegSRGAN first"] = ["--alignment", "none", "--segsrgan", args.segsrgan]
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_stacks(folder, args.shrink)
        for way, flags in ways.items():
            command = [sys.executable, "-m", "segsrgan.cli.supermask_predict", "--views"]
            command += [folder / f"{plane}.nii.gz" for plane in PLANES]
            if way.startswith(given):
                command += ["--masks", *(folder / f"{plane}_mask.nii.gz" for plane in PLANES)]
            results[way] = timed([*command, "-o", folder / way, *flags])
    return {"shape": [n // args.shrink for n in SHAPE], "results": results}


def tables(report):
    lines = []
    for name, row in report["results"].items():
        seconds = row.get("failed") or f"{row['seconds']:.1f}"
        lines.append([name, seconds, f"{row['memory_gb']:.2f}" if "memory_gb" in row else ""])
    return markdown(["", "seconds", "peak memory, GB"], lines)


def write_stacks(folder, shrink):
    """Writes the three stacks and masks as NIfTI."""
    from segsrgan.volumes import Grid, Volume, write_volume
    from supermask.geometry import Rigid, sample

    rng = np.random.default_rng(0)
    coarse = Grid((30, 40, 34), (6.0,) * 3, (-87, -117, -99))
    points = coarse.index_to_physical(np.moveaxis(np.indices(coarse.shape), 0, -1))
    inside = np.sum((points / RADII) ** 2, axis=-1) <= 1
    image = Volume.from_grid((inside * rng.uniform(50, 150, coarse.shape)).astype("f4"), coarse)
    mask = Volume.from_grid(inside.astype("f4"), coarse)
    for name, (order, angles, shift) in PLANES.items():
        direction = np.eye(3)[:, order]
        if np.linalg.det(direction) < 0:  # a left-handed order: turn the slice axis
            direction[:, 2] *= -1
        shape = tuple(max(4, n // shrink) for n in SHAPE)
        spacing = np.array(SPACING) * SHAPE / shape
        origin = -direction @ ((np.array(shape) - 1) / 2 * spacing)
        grid = Grid(shape, tuple(spacing), tuple(origin), direction)
        back = Rigid(angles, shift).inverse()
        values = sample(image, grid, back) + rng.normal(0, 2, shape).astype("f4")
        write_volume(Volume.from_grid(values, grid), folder / f"{name}.nii.gz")
        cut = (sample(mask, grid, back) >= 0.5).astype(np.uint8)
        write_volume(Volume.from_grid(cut, grid), folder / f"{name}_mask.nii.gz")
