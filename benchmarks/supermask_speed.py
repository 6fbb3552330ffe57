# SPDX-License-Identifier: MIT
"""Time and memory of `supermask-predict` for three stacks of 256 x 256 x 32 voxels.

    python benchmarks/supermask_speed.py --weights WEIGHTS --output speed.json

The stacks are those of a painted ellipsoid of a head's size, 0.9 mm in plane and slices of 5 mm, in
which the patient has moved. Every line is a command of its own, from its start to its end: what a
user waits for, and the most memory that it ever held.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np

# In place of this script's own folder, where `supermask` would be a file.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.inference_run import run  # noqa: E402
from segsrgan.volumes import Grid, Volume, write_volume  # noqa: E402
from supermask.geometry import sample  # noqa: E402
from supermask.rigid import Rigid  # noqa: E402

SHAPE, SPACING = (256, 256, 32), (0.9, 0.9, 5.0)
# The order of (x, y, z) of each plane's voxels, and the motion of the patient before it.
PLANES = {
    "axial": ((0, 1, 2), Rigid()),
    "coronal": ((0, 2, 1), Rigid((0.05, -0.03, 0.08), (3, -4, 5))),
    "sagittal": ((1, 2, 0), Rigid((-0.06, 0.04, 0.05), (-5, 2, 3))),
}
RADII = (62.0, 80.0, 66.0)  # mm


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="of SuperMask; without, only the classical alignment")
    parser.add_argument("--segsrgan", help="weights of SegSRGAN, to super-resolve stacks first")
    parser.add_argument("--shrink", type=int, default=1, help="divides the sizes, for a trial")
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser


def write_stacks(folder, shrink):
    """Writes the three stacks and masks as NIfTI."""
    rng = np.random.default_rng(0)
    coarse = Grid((30, 40, 34), (6.0,) * 3, (-87, -117, -99))
    points = coarse.index_to_physical(np.moveaxis(np.indices(coarse.shape), 0, -1))
    inside = np.sum((points / RADII) ** 2, axis=-1) <= 1
    image = Volume.from_grid((inside * rng.uniform(50, 150, coarse.shape)).astype("f4"), coarse)
    mask = Volume.from_grid(inside.astype("f4"), coarse)
    for name, (order, pose) in PLANES.items():
        direction = np.eye(3)[:, order]
        shape = [max(4, n // shrink) for n in SHAPE]
        spacing = np.array(SPACING) * SHAPE / shape
        origin = -direction @ ((np.array(shape) - 1) / 2 * spacing)
        if np.linalg.det(direction) < 0:  # a left-handed order: turn the slice axis
            direction[:, 2] *= -1
            origin = -direction @ ((np.array(shape) - 1) / 2 * spacing)
        grid = Grid(tuple(shape), tuple(spacing), tuple(origin), direction)
        values = sample(image, grid, pose.inverse())
        noise = rng.normal(0, 2, grid.shape).astype("f4")
        write_volume(Volume.from_grid(values + noise, grid), folder / f"{name}.nii.gz")
        own = (sample(mask, grid, pose.inverse()) >= 0.5).astype(np.uint8)
        write_volume(Volume.from_grid(own, grid), folder / f"{name}_mask.nii.gz")


def measure(flags, masks, folder):
    """Seconds and memory of one command, see `inference_run.run`."""
    views = [folder / f"{name}.nii.gz" for name in PLANES]
    given = ["--masks", *(folder / f"{name}_mask.nii.gz" for name in PLANES)] if masks else []
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable,
            "-m",
            "segsrgan.cli.supermask_predict",
            "--views",
            *views,
            *given,
        ]
        return run([*command, "-o", output, *flags])


def table(results):
    """The results as Markdown."""
    lines = ["| | seconds | peak memory, GB |", "|---|---|---|"]
    for name, row in results.items():
        if "failed" in row:
            lines.append(f"| {name} | {row['failed']} | |")
        else:
            lines.append(f"| {name} | {row['seconds']:.1f} | {row['memory_gb']:.2f} |")
    return "\n".join(lines)


def main(argv=None):
    """Measures every way to predict; returns the exit status."""
    args = build_parser().parse_args(argv)
    ways = {
        "masks given, no alignment": (["--alignment", "none"], True),
        "masks given, classical": (["--alignment", "classical"], True),
    }
    if args.weights:
        own = ["--weights", args.weights]
        ways["AlignNet and segmentor"] = ([*own, "--no-refine"], False)
        ways["AlignNet, refined, and segmentor"] = ([*own, "--refine"], False)
        ways["classical and segmentor"] = ([*own, "--alignment", "classical"], False)
    if args.segsrgan:
        ways["masks given, SegSRGAN first"] = (
            ["--alignment", "none", "--segsrgan", args.segsrgan],
            True,
        )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        write_stacks(Path(folder), args.shrink)
        for name, (flags, masks) in ways.items():
            results[name] = measure(flags, masks, Path(folder))
    print(table(results))
    if args.output:
        shape = [n // args.shrink for n in SHAPE]
        content = {"cores": os.cpu_count(), "machine": platform.machine(), "shape": shape}
        args.output.write_text(json.dumps({**content, "results": results}, indent=1) + "\n")
    return int(any("failed" in row for row in results.values()))


if __name__ == "__main__":
    sys.exit(main())
