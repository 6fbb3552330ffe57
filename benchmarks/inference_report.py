# SPDX-License-Identifier: MIT
"""The figures of `inference.py`: medians with their spread, and tables for docs/speed.md."""

import statistics

import numpy as np
import training_report

LIBRARIES = ("openvino", "monai")


def machine():
    """What the figures depend on."""
    found = {name: training_report.version_of(name) for name in LIBRARIES}
    return training_report.machine() | {name: text for name, text in found.items() if text}


def summary(key, results):
    """One row: medians over all runs.

    Args:
        key: (job, patch, step), perhaps with the shape of the volume.
        results: what `inference_run.run` returned.
    """
    row = dict(zip(("job", "patch", "step", "shape"), key, strict=False))
    good = [result for result in results if "failed" not in result]
    row["runs"] = len(good)
    if len(good) < len(results):
        row["failed"] = results[-1].get("failed", "in an earlier run")
    if good:
        seconds, memory = zip(*((r["seconds"], r["memory_gb"]) for r in good), strict=True)
        row |= {"seconds": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
        row["memory_gb"] = max(memory)
    return row


def tables(report):
    """All parts as Markdown."""
    makers = {"jobs": _jobs, "limit": _limit, "scaling": _scaling, "accuracy": _accuracy}
    makers["gpu"] = _scaling
    blocks = []
    for name, make in makers.items():
        if name in report:
            rows, left_out = report[name]["rows"], report[name]["left_out"]
            lines = list(make(rows)) if rows else []
            blocks.append("\n".join([*lines, *(f"\nLeft out: {text}." for text in left_out)]))
    return "\n\n".join(blocks)


def _jobs(rows):
    reference = {(row["patch"], row["step"]): row for row in rows if row["job"] == "plain Keras"}
    yield "| job | patch, step | seconds (min to max) | peak memory, GB | plain Keras over it |"
    yield "|---|---|---|---|---|"
    for row in rows:
        if "seconds" in row:
            plain = reference[row["patch"], row["step"]]
            times = f"{plain['seconds'] / row['seconds']:.1f}" if "seconds" in plain else ""
            yield _line(row["job"], f"{row['patch']}, {row['step']}", *_measured(row), times)
        else:
            yield _line(row["job"], f"{row['patch']}, {row['step']}", row["failed"], "", "")


def _limit(rows):
    yield "| engine | seconds a patch (min to max) | GFLOP | GFLOP/s of a product | limit times |"
    yield "|---|---|---|---|---|"
    for row in rows:
        rates = (f"{row[key] / 1e9:.0f}" for key in ("operations", "matrix_rate"))
        name, times = f"{row['engine']} {row['precision']}", f"{row['times_the_limit']:.2f}"
        yield _line(name, _spread(row), *rates, times)
    for row in rows:
        if "profile" in row:
            total = sum(row["profile"].values())
            shares = (f"{kind} {100 * t / total:.0f} %" for kind, t in row["profile"].items())
            yield f"\n{row['engine']} {row['precision']}: {', '.join(list(shares)[:8])}."


def _scaling(rows):
    yield "| varied | volume | patch, step | patches | seconds (min to max) | peak memory, GB |"
    yield "|---|---|---|---|---|---|"
    by_step = []
    for row in rows:
        count = patches(row["shape"], row["patch"], row["step"])
        volume = "x".join(map(str, row["shape"]))
        measured = _measured(row) if "seconds" in row else (row["failed"], "")
        yield _line(row["job"], volume, f"{row['patch']}, {row['step']}", count, *measured)
        if row["job"].endswith(("step", "GPU")) and "seconds" in row:
            by_step.append((count, row["seconds"]))
    if len(by_step) > 2:
        count, seconds = np.array(by_step).T
        slope, start = np.polyfit(count, seconds, 1)
        share = np.corrcoef(count, seconds)[0, 1] ** 2
        yield f"\nBy step: {start:.1f} s + {slope:.3f} s a patch (R^2 {share:.4f})."


def _accuracy(rows):
    yield "| engine | PSNR, dB | SSIM | Dice | Dice with the plain network |"
    yield "|---|---|---|---|---|"
    for row in rows:
        scores = f"{row['psnr']:.3f}", f"{row['ssim']:.4f}", f"{row['dice']:.4f}"
        name = f"{row['engine']} {row['precision']}"
        yield _line(name, *scores, f"{row['dice_with_plain']:.5f}")


def patches(shape, patch, step):
    """How many patches a volume has."""
    from segsrgan.volumes import plan

    return len(plan(shape, patch, step).starts)


def _measured(row):
    return _spread(row), f"{row['memory_gb']:.2f}"


def _spread(row):
    return f"{row['seconds']:.2f} ({row['min']:.2f} to {row['max']:.2f})"


def _line(*cells):
    return f"| {' | '.join(map(str, cells))} |"
