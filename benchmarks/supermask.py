# SPDX-License-Identifier: MIT
"""The SuperMask paper's Tables 1, 2 and 4 in kind, on examinations with a known answer.

    python benchmarks/supermask.py --masks FOLDER --runs RUNS
    python benchmarks/supermask.py --collection BRATS --runs RUNS --grid_size 128 --spacing 2

Examinations are simulated (`supermask.simulate`) of masks with synthesised intensities, or of a
collection of images with masks (Medical Segmentation Decathlon, BraTS). Every seed leaves out other
volumes to test on. For each it trains an AlignNet by the true motions of the cases of all slice
distances, a segmentor of high-resolution images (Unet-HR), and for every distance on the same
cases: the segmentor by itself (with AlignNet: one stage), both together (two stages), and the
segmentor alone on as many more images (Unet-LR and the classical baselines). What is trained
already in RUNS is used again, whatever the other flags say: one RUNS for each choice of them. The
defaults are for two cores; the paper's size is `--grid_size 256 --spacing 1 --kernel 32
--alignnet_kernels 16,32,64`. Writes `NAME.json` and `NAME_tables.md`.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

# In place of this script's own folder, where `supermask` would be this file.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.supermask_cases import gather  # noqa: E402
from benchmarks.supermask_methods import (  # noqa: E402
    ABLATIONS,
    METHODS,
    needed,
    settings,
    train,
    try_methods,
)
from benchmarks.supermask_networks import trained_alignnet  # noqa: E402
from benchmarks.supermask_report import tables  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent / "docs"


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--masks", type=Path, help="folder of masks; their images are painted")
    source.add_argument("--collection", type=Path, help="folder of the Decathlon or of BraTS")
    add("--runs", type=Path, required=True, help="folder of the trainings")
    add("--output", type=Path, default=DOCS, help="folder of the tables (default: docs)")
    add("--name", default="supermask", help="of the tables (default: supermask)")
    add("--slices", type=float, nargs="+", default=[8.0, 16.0], help="distances, mm")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="each trains everything, leaving out others",
    )
    add("--train", type=int, default=15, help="volumes to train on (default: 15)")
    add("--test", type=int, default=5, help="volumes to test on (default: 5)")
    add("--repeats", type=int, default=16, help="examinations of a training volume (default: 16)")
    add("--grid_size", type=int, default=48, help="of the networks' grid, voxels (default: 48)")
    add("--spacing", type=float, default=3.0, help="of that grid and the truth, mm (default: 3)")
    add("--angle", type=float, default=45.0, help="largest, degrees (default: 45)")
    add("--shift", type=float, default=30.0, help="largest, mm (default: 30)")
    add("--noise", type=float, default=0.02, help="of the views, of their range")
    add("--kernel", type=int, default=8, help="of the segmentor (default: 8)")
    add("--alignnet_kernels", default="16,32", help="of AlignNet (default: 16,32)")
    add("--alignnet_updates", type=int, default=4000, help="(default: 4000)")
    add("--segmentor_updates", type=int, default=600, help="(default: 600)")
    add("--stage2_updates", type=int, default=150, help="(default: 150)")
    add(
        "--precision",
        default="mixed_bfloat16",
        help="of the segmentor and stage 2 (default: mixed_bfloat16)",
    )
    add("--passes", type=int, default=2, help="of AlignNet (default: 2)")
    add("--methods", nargs="+", choices=[*METHODS, *ABLATIONS], help="(default: all)")
    return parser


def main(argv=None):
    """Trains, tests and writes the tables; returns the exit status."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    start, rows = time.perf_counter(), []
    for seed in args.seeds:
        parts = {distance: gather(args, distance, seed) for distance in args.slices}
        known = [case for trained, _ in parts.values() for _, case in trained]
        alignnet = None
        if needed(args) & {"apart", "both", "long"}:
            folder = args.runs / f"alignnet_{seed}"
            alignnet = trained_alignnet(folder, known, settings(args, seed), args.alignnet_updates)
        for distance, (trained, tested) in parts.items():
            cases = [case for _, case in trained]
            networks = train(args, cases, alignnet, distance, seed)
            for name, case in tested:
                found = try_methods(args, case, networks)
                rows += [{"slices": distance, "seed": seed, "case": name, **row} for row in found]
                print(f"{distance:g} mm, seed {seed}, {name}: {len(found)} methods", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    chosen = {key: v for key, v in vars(args).items() if not isinstance(v, Path)}
    chosen["data"] = (args.masks or args.collection).name
    content = {"settings": chosen, "seconds": time.perf_counter() - start, "rows": rows}
    (args.output / f"{args.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    text = tables(rows)
    (args.output / f"{args.name}_tables.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
