# SPDX-License-Identifier: MIT
"""Seconds and peak memory of training cycles.

A cycle is five updates of the discriminator (first kernel 32) and one of the generator (first
kernel 16) on random patches of 64^3. Each precision and batch size runs in a process of its own,
interleaved: one update of each kind to warm up, then --cycles. --recipe: updates of the generator
alone, as recipes of `segsrgan train --config` say. --course draws the log of a training instead:
Dice of the cortex and PSNR over the interpolation on the test images, against the hours.
"""

import statistics
from pathlib import Path

import pandas as pd

from benchmarks.common import cost_cells, interleaved, markdown, ours, spread, summary

PRECISIONS = ("float32", "mixed_bfloat16")


def add_arguments(parser):
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[4, 32])
    add("--patch", type=int, default=64)
    add("--runs", type=int, default=3)
    add("--cycles", type=int, default=3, help="timed in each run")
    add("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add("--recipe", nargs="+", metavar="FILE.toml", help="of which the updates are timed instead")
    add("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    add("--course", type=Path, metavar="FILE.csv", help="columns of history.csv, and patch")
    add("--picture", type=Path, default=Path("docs/images/training.png"), help="of --course")


def run(args, save):
    if args.course:
        draw(pd.read_csv(args.course), args.picture)
        return {"results": []}
    if args.recipe:
        return _recipes(args, save)
    report = {"patch": args.patch, "backend": args.backend}
    jobs = {
        (precision, batch): ours("cycle", batch, *report.values(), precision, args.cycles)
        for batch in args.batch
        for precision in args.precision
    }

    def add(results):
        report["results"] = [_summary(*key, found) for key, found in results.items()]
        save(report)

    interleaved(jobs, args.runs, add)
    return report


def _recipes(args, save):
    report = {}

    def add(results):
        report["results"] = [_of_recipe(*key, found) for key, found in results.items()]
        save(report)

    jobs = {(name,): ours("update", name, args.cycles) for name in args.recipe}
    interleaved(jobs, args.runs, add)
    return report


def _of_recipe(name, results):
    """One row: medians over the updates of all runs."""
    row = {"job": Path(name).stem, "batch": "", **summary(results)}
    good = [result for result in results if "failed" not in result]
    if good:
        row |= spread(sum((result["cycles"] for result in good), []))
        row["voxels_per_second"] = good[0]["voxels"] / row["seconds"]
        row |= _share_of_limit(good, row["seconds"])
    return row


def _share_of_limit(good, seconds):
    rate = statistics.median(result["matrix_rate"] for result in good)
    operations = good[0]["operations"]
    fraction = operations / seconds / rate
    return {"operations": operations, "matrix_rate": rate, "matrix_fraction": fraction}


def _summary(precision, batch, results):
    """One row: medians over the cycles of all runs."""
    row = {"job": f"segsrgan 3, {precision}", "batch": batch, **summary(results)}
    good = [result for result in results if "failed" not in result]
    if not good:
        return row
    row |= spread(sum((result["cycles"] for result in good), []))
    # Five batches for the discriminator, one for the generator.
    row["patches_per_second"] = 6 * batch / row["seconds"]
    return row | _share_of_limit(good, row["seconds"])


def tables(report):
    lines = []
    for row in report["results"]:
        cells = [row["job"], row["batch"], *cost_cells(row)]
        if "matrix_fraction" in row:
            speed = row.get("patches_per_second") or row["voxels_per_second"] / 64**3
            cells.append(f"{speed:.2f}")
            cells.append(f"{row['matrix_fraction']:.0%} of {row['matrix_rate'] / 1e12:.2f} TFLOP/s")
        lines.append(cells)
    heads = ["cycle", "batch", "seconds (min to max)", "peak memory, GB", "patches/s"]
    return markdown([*heads, "fraction of the matrix rate"], lines)


def draw(history, path):
    """Dice, and PSNR over the input's, against hours; a colour for each size of patch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4))
    hours = history["seconds"].cumsum() / 3600
    values = {
        "Dice of the cortex": history["dice"],
        "PSNR over the interpolation, dB": history["psnr"] - history["psnr_input"],
    }
    for axis, (title, value) in zip(axes, values.items(), strict=True):
        for size, rows in history.groupby("patch").groups.items():
            axis.plot(hours[rows], value[rows], ".", label=f"patches of {size}^3")
        axis.set(title=title, xlabel="hours on two cores")
        axis.grid(alpha=0.3)
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
