# SPDX-License-Identifier: MIT
"""Scores as a table to read, as CSV and as JSON.

`results` are a list of `Scores`, `columns` the list of `Metric` that `EvaluationSettings.columns`
gives, `settings` the `EvaluationSettings`.
"""

import csv
import io
import math
import platform
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from itertools import zip_longest

import numpy as np

from segsrgan import __version__
from segsrgan.files import json_text

_LIBRARIES = ("numpy", "scipy", "scikit-image", "SimpleITK")
_REGIONS = {"mask": "the mask is not 0", "reference not 0": "the reference is not 0"}
_REGIONS["reference not background"] = "the reference is not its background"
_WIDEST = 40  # characters of a case's name in the table


def statistics(results, columns):
    """`{"mean", "sd", "n"}`, each a dict from metric to number, over the cases.

    The n cases are those whose value is finite; sd has n - 1 in the denominator; nan where there
    are too few cases.
    """
    found = {"mean": {}, "sd": {}, "n": {}}
    for name in (metric.name for metric in columns):
        values = [scores.values.get(name, math.nan) for scores in results]
        values = [value for value in values if math.isfinite(value)]
        found["mean"][name] = float(np.mean(values)) if values else math.nan
        found["sd"][name] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        found["n"][name] = len(values)
    return found


def format_table(results, columns, settings):
    """The results as lines of aligned columns, with mean, sd and n below, and how it was measured.

    `-` stands where a value is not defined or was not measured.
    """
    noted = any(scores.notes or scores.error for scores in results)
    lines = [[scores.case.name, *_cells(scores.values, columns)] for scores in results]
    for line in lines:
        line[0] = line[0] if len(line[0]) <= _WIDEST else f"{line[0][: _WIDEST - 3]}..."
    if noted:
        for line, scores in zip(lines, results, strict=True):
            line.append("failed" if scores.error else ", ".join(scores.notes))
    found = statistics(results, columns)
    below = [[key, *_cells(found[key], columns, 1)] for key in ("mean", "sd")]
    below.append(["n", *map(str, found["n"].values())])
    aligned = _aligned(_header(columns, noted), lines, below)
    return "\n".join([*aligned, *_explanations(results, columns, settings)])


def to_csv(results, columns):
    """The results as CSV: case, a column for each metric, region, notes, error.

    Values have all their digits, and are empty where they are nan.
    """
    names = [metric.name for metric in columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *names, "region", "notes", "error"])
    for scores in results:
        values = [scores.values.get(name, math.nan) for name in names]
        cells = ["" if math.isnan(value) else repr(value) for value in values]
        writer.writerow(
            [scores.case.name, *cells, scores.region, "; ".join(scores.notes), scores.error]
        )
    return text.getvalue()


def to_json(results, columns, settings):
    """All of it as JSON: settings, versions, metrics, cases, and mean, sd and n of each metric.

    null where a value is nan, the text "inf" where it is infinite.
    """
    versions = {"segsrgan": __version__, "python": platform.python_version()}
    content = {
        "settings": asdict(settings),
        "versions": versions | {name: version(name) for name in _LIBRARIES},
        "metrics": {
            metric.name: {"unit": metric.unit, "better": metric.better, "text": metric.text}
            for metric in columns
        },
        "cases": [
            {
                "case": scores.case.name,
                "files": {kind: str(path) for kind, path in scores.case.files.items()},
                "values": _numbers(scores.values),
                "region": scores.region,
                "notes": list(scores.notes),
                "error": scores.error,
            }
            for scores in results
        ],
        **{key: _numbers(values) for key, values in statistics(results, columns).items()},
    }
    return json_text(content, indent=2, allow_nan=False)


def _numbers(values):
    special = {name: value for name, value in values.items() if not math.isfinite(value)}
    return values | {n: None if math.isnan(value) else str(value) for n, value in special.items()}


def _cells(values, columns, more=0):
    """Texts of the values; `more` decimals where the metric has none, for means of counts."""
    texts = [f"{values.get(m.name, math.nan):.{m.digits or more}f}" for m in columns]
    return ["-" if text == "nan" else text for text in texts]


def _header(columns, noted):
    """Lines of cells: the names, a word on a line so that columns stay narrow, then the units."""
    heads = [["case"], *(metric.name.split("_") for metric in columns), *[["note"]] * noted]
    lines = [list(line) for line in zip_longest(*heads, fillvalue="")]
    if any(metric.unit for metric in columns):
        lines.append(["", *(metric.unit for metric in columns), *[""] * noted])
    return lines


def _aligned(header, lines, below):
    body = [*header, *lines, *below]
    count = len(header[0])
    body = [line + [""] * (count - len(line)) for line in body]
    widths = [max(len(line[k]) for line in body) for k in range(count)]
    last = len(below[0])  # notes, if any, stand behind the numbers and to the left
    texts = [
        "  ".join(
            cell.rjust(width) if 0 < k < last else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in body
    ]
    rule = "-" * max(map(len, texts))
    first, second = len(header), len(header) + len(lines)
    return [*texts[:first], rule, *texts[first:second], rule, *texts[second:]]


def _explanations(results, columns, settings):
    kinds = {metric.kind for metric in columns}
    lines = []
    if "label" in kinds:
        lines.append(
            f"class: reference {_values(settings.labels)}, prediction "
            f"{_values(settings.predicted_labels)}; probabilities from {settings.threshold:g}"
        )
    regions = Counter(scores.region for scores in results if scores.region)
    lines += [f"images compared where {_REGIONS[name]} ({n})" for name, n in regions.items()]
    failed = sum(bool(scores.error) for scores in results)
    lines += [f"{failed} of {len(results)} cases failed"] if failed else []
    return lines


def _values(values):
    if values is None:
        return "every label but 0"
    return f"label{'s' if len(values) > 1 else ''} {', '.join(map(str, values))}"
