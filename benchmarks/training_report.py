# SPDX-License-Identifier: MIT
"""The figures of `training.py`: medians, tables, and what they depend on."""

import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("tensorflow", "keras", "jax", "torch", "numpy")


def machine():
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    flags = " ".join(line for line in lines if line.startswith("flags")).split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
    return {
        "processor": names[0] if names else platform.processor(),
        "instructions": [name for name in wanted if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "python": platform.python_version(),
        **{name: version_of(name) for name in LIBRARIES if version_of(name)},
    }


def version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def summary(key, results):
    """One row: medians over all runs.

    Args:
        key: `("cycle" or "epoch", job, batch)`.
        results: what the children returned, see `training_timing.measure`.
    """
    what, job, batch = key
    row = {"what": what, "job": job, "batch": batch, "runs": len(results)}
    good = [result for result in results if "failed" not in result]
    if len(good) < len(results):
        row["failed"] = results[-1]["failed"]
    if not good:
        return row
    row.update(_cycle(batch, good) if what == "cycle" else _epoch(good))
    row["memory_gb"] = max(r.get("device_memory_gb", r["memory_gb"]) for r in good)
    return row


def _spread(values):
    return {"seconds": statistics.median(values), "min": min(values), "max": max(values)}


def _cycle(batch, results):
    parts = [pair for r in results for pair in zip(r["discriminator"], r["generator"], strict=True)]
    row = _spread([sum(pair) for pair in parts])
    row["cycles"] = len(parts)
    row["warm_up"] = statistics.median(r["warm_up"] for r in results)
    row["generator_update"] = statistics.median(pair[1] for pair in parts)
    # Five batches for the discriminator, one for the generator.
    row["patches_per_second"] = 6 * batch / row["seconds"]
    if "operations" in results[0]:
        row["operations"] = results[0]["operations"]
        row["matrix_rate"] = statistics.median(r["matrix_rate"] for r in results)
        row["matrix_share"] = row["operations"] / row["seconds"] / row["matrix_rate"]
    return row


def _epoch(results):
    row = _spread([result["seconds"] for result in results])
    last = results[-1]
    return {**row, **{name: last[name] for name in ("written_gb", "patches", "cycles")}}


def table(report):
    """The report as Markdown."""
    parts = []
    for what, rows_of in (("cycle", _cycle_rows), ("epoch", _epoch_rows)):
        rows = [row for row in report["results"] if row["what"] == what]
        if rows:
            heads, lines = rows_of(rows)
            lines = [heads, ["---"] * len(heads), *lines]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def _times(row):
    return f"{row['seconds']:.2f} ({row['min']:.2f} to {row['max']:.2f})"


def _cycle_rows(rows):
    heads = ["cycle", "batch", "seconds (min to max)", "of them generator", "patches/s"]
    heads += ["peak memory, GB", "share of the matrix rate"]
    lines = []
    for row in rows:
        cells = [row["job"], str(row["batch"])]
        if "seconds" not in row:
            lines.append([*cells, f"failed: {row['failed']}", *[""] * 4])
            continue
        cells += [_times(row), f"{row['generator_update']:.2f}"]
        cells += [f"{row['patches_per_second']:.2f}", f"{row['memory_gb']:.2f}"]
        share = row.get("matrix_share")
        rate = row.get("matrix_rate", 0) / 1e12
        lines.append([*cells, f"{share:.0%} of {rate:.2f} TFLOP/s" if share else ""])
    return heads, lines


def _epoch_rows(rows):
    heads = ["epoch of patches", "batch", "patches", "cycles", "seconds (min to max)"]
    heads += ["written, GB", "peak memory, GB"]
    lines = []
    for row in rows:
        cells = [row["job"], str(row["batch"])]
        if "seconds" not in row:
            lines.append([*cells, "", "", f"failed: {row['failed']}", "", ""])
            continue
        cells += [str(row["patches"]), str(row["cycles"]), _times(row)]
        lines.append([*cells, f"{row['written_gb']:.2f}", f"{row['memory_gb']:.2f}"])
    return heads, lines
