# SPDX-License-Identifier: MIT
"""How well the voxels show the thickness of slices (`segsrgan.volumes.estimated_width`).

The volumes of `python -m benchmarks weights` and all infants, slices 3, 4 and 6 voxels apart along
each axis, as thick as their distance, three quarters of it, or half, without and with 2 % of noise.
"""

import sys
from itertools import product
from pathlib import Path

from benchmarks.common import markdown
from benchmarks.weights import acquire, cases, infants
from segsrgan.volumes import estimated_width
from segsrgan.volumes.thickness import DOUBT

RATIOS, THICKNESSES, NOISES = (3, 4, 6), (1.0, 0.75, 0.5), (0.0, 0.02)


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)


def run(args, save):
    rows = []
    for group, name, truth, _, brain in [*cases(args.data), *infants(args.data, left_out=False)]:
        for ratio, thickness, axis, noise in product(RATIOS, THICKNESSES, range(3), NOISES):
            _, low = acquire(truth, brain, axis, noise=noise, thickness=thickness, ratio=ratio)
            row = {"set": group, "name": name, "ratio": ratio, "axis": axis, "noise": noise}
            rows.append(row | {"thickness": thickness, "estimate": estimated_width(low)})
            print(*rows[-1].values(), file=sys.stderr, flush=True)
        save({"cases": rows})
    return {"cases": rows}


def tables(report):
    """Of each set and thickness over the distance, how many estimates are near it."""
    lines, rows = [], report["cases"]
    for group, true in dict.fromkeys((row["set"], row["thickness"]) for row in rows):
        found = [r["estimate"] for r in rows if (r["set"], r["thickness"]) == (group, true)]
        known = [width for width in found if width is not None]
        within = [sum(abs(w / true - 1) <= limit for w in known) for limit in (0.15, 0.25)]
        thin = sum(width < 1 - DOUBT for width in known)
        lines.append([group, true, len(found), len(found) - len(known), *within, thin])
    heads = ["set", "thickness over distance", "scans", "no estimate", "within 15 %"]
    return markdown([*heads, "within 25 %", "taken as thinner than the distance"], lines)
