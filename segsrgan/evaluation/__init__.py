# SPDX-License-Identifier: MIT
"""How near predictions come to their references: scores of every case, means, tables.

Importing this package loads nothing; the names below are loaded at their first use.

Example:
    >>> from segsrgan.evaluation import Case, evaluate
    >>> (row,) = evaluate([Case(label="cortex.nii.gz", reference_label="truth.nii.gz")])
    >>> row.values["dice"], row.values["hd95"]
    (0.913, 0.5)
"""

from importlib import import_module

_HOMES = {
    "METRICS": "metrics",
    "Case": "case",
    "EvaluationError": "errors",
    "Metric": "metrics",
    "Row": "case",
    "Settings": "settings",
    "evaluate": "job",
    "format_table": "report",
    "match_cases": "places",
    "read_cases": "cases",
    "to_csv": "report",
    "to_json": "report",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
