# SPDX-License-Identifier: MIT
"""How near predictions come to their references: scores of every case, means, tables.

Importing this package loads nothing; the names below are loaded at their first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cases": ["Case", "match_cases", "read_cases"],
        "metrics": ["METRICS", "EvaluationSettings", "Metric"],
        "report": ["format_table", "to_csv", "to_json"],
        "run": ["Scores", "evaluate"],
    },
)
