# SPDX-License-Identifier: MIT
"""Seconds and peak memory of training cycles.

A cycle is five updates of the discriminator (first kernel 32) and one of the generator (first
kernel 16) on random patches of 64^3. Each precision and batch size runs in a process of its own,
interleaved: one update of each kind to warm up, then at most --cycles, none begun after --budget
seconds.
"""

import statistics

from benchmarks.common import cost_cells, interleaved, markdown, ours, spread, summary

PRECISIONS = ("float32", "mixed_bfloat16")


def add_arguments(parser):
    add = parser.add_argument
    add("--batch", type=int, nargs="+", default=[4, 32])
    add("--patch", type=int, default=64)
    add("--runs", type=int, default=3)
    add("--cycles", type=int, default=3, help="timed in each run, at most")
    add("--budget", type=float, default=60, help="seconds of a run")
    add("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    add("--backend", choices=("tensorflow", "jax"), default="tensorflow")


def run(args, save):
    limits = args.backend, args.cycles, args.budget
    jobs = {
        (precision, batch): ours("cycle", batch, args.patch, precision, *limits)
        for batch in args.batch
        for precision in args.precision
    }

    def report(results):
        rows = [_summary(*key, found) for key, found in results.items() if found]
        return {"patch": args.patch, "backend": args.backend, "results": rows}

    return report(interleaved(jobs, args.runs, save=lambda results: save(report(results))))


def _summary(precision, batch, results):
    """One row: medians over the cycles of all runs."""
    row = {"what": "cycle", "job": f"segsrgan 3, {precision}", "batch": batch, **summary(results)}
    good = [result for result in results if "failed" not in result]
    if not good:
        return row
    parts = [pair for r in good for pair in zip(r["discriminator"], r["generator"], strict=True)]
    row |= {**spread([sum(pair) for pair in parts]), "cycles": len(parts)}
    row["warm_up"] = statistics.median(r["warm_up"] for r in good)
    row["generator_update"] = statistics.median(pair[1] for pair in parts)
    # Five batches for the discriminator, one for the generator.
    row["patches_per_second"] = 6 * batch / row["seconds"]
    row["operations"] = good[0]["operations"]
    row["matrix_rate"] = statistics.median(r["matrix_rate"] for r in good)
    row["matrix_share"] = row["operations"] / row["seconds"] / row["matrix_rate"]
    return row


def tables(report):
    lines = []
    for row in [row for row in report["results"] if row["what"] == "cycle"]:
        seconds, memory = cost_cells(row)
        names = {"generator_update": "{:.2f}", "patches_per_second": "{:.2f}"}
        rates = [text.format(row[name]) if name in row else "" for name, text in names.items()]
        fraction = ""
        if "matrix_share" in row:
            fraction = f"{row['matrix_share']:.0%} of {row['matrix_rate'] / 1e12:.2f} TFLOP/s"
        lines.append([row["job"], row["batch"], seconds, *rates, memory, fraction])
    heads = ["cycle", "batch", "seconds (min to max)", "of them generator", "patches/s"]
    return markdown([*heads, "peak memory, GB", "fraction of the matrix rate"], lines)
