# SPDX-License-Identifier: MIT
"""The tables of `benchmarks/supermask.py` as Markdown."""

import math
import statistics

from benchmarks.supermask_methods import ABLATIONS, METHODS

BASELINE = "Unet-LR"
_SCORES = ("dsc", "us", "os", "rms", "mba", "mba_3d")


def tables(rows):
    """Tables 1, 2 and 4 of the paper in kind.

    Args:
        rows: a list of dicts: `slices`, `method`, the scores, `between`.

    Returns:
        A str of Markdown; each cell is the mean and the standard deviation over cases and seeds,
        and what a method gains over the baseline is taken case by case.
    """
    parts = []
    for distance in sorted({row["slices"] for row in rows}):
        here = [row for row in rows if row["slices"] == distance]
        cases = len({_case(row) for row in here})
        parts.append(f"## Slices of {distance:g} mm, {cases} cases\n")
        parts += _scores("Masks (Table 1)", here, METHODS)
        parts += _scores("Ablations (Table 4)", here, ["SuperMask", *ABLATIONS])
        parts += _between(here)
    return "\n".join(parts)


def _scores(title, rows, methods):
    lines = [[name.upper().replace("MBA", "mBA") for name in _SCORES] + [f"DSC over {BASELINE}"]]
    names = [name for name in methods if any(row["method"] == name for row in rows)]
    base = {_case(row): row["dsc"] for row in rows if row["method"] == BASELINE}
    for name in names:
        own = [row for row in rows if row["method"] == name]
        gains = [row["dsc"] - base[_case(row)] for row in own if _case(row) in base]
        lines.append([*(_cell([row[key] for row in own]) for key in _SCORES), _cell(gains, "+")])
    return [f"### {title}\n", *_markdown(["method", *names], lines)]


def _case(row):
    return row["seed"], row["case"]


def _between(rows):
    """Agreement of the aligned views with each other and with the truth (Table 2)."""
    own = {}
    for row in rows:
        if row["between"]:
            own.setdefault(row["method"], []).append(row["between"])
    if not own:
        return []
    pairs = list(next(iter(own.values()))[0])
    lines = [
        pairs,
        *([_cell([item[p] for item in items]) for p in pairs] for items in own.values()),
    ]
    return ["### Dice between aligned views (Table 2)\n", *_markdown(["method", *own], lines)]


def _markdown(names, lines):
    body = [[name, *cells] for name, cells in zip(names, lines, strict=True)]
    texts = [f"| {' | '.join(cells)} |" for cells in body]
    return [texts[0], "|" + "---|" * len(body[0]), *texts[1:], ""]


def _cell(values, sign=""):
    count = len(values)
    values = [value for value in values if value is not None and math.isfinite(value)]
    if not values:
        return "-"
    lacking = f" ({len(values)} of {count})" if len(values) < count else ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.3f} ± {deviation:.3f}{lacking}"
