# SPDX-License-Identifier: MIT
"""The table, CSV and JSON of rows whose numbers are known."""

import csv
import io
import json
import math

import pytest

from segsrgan.evaluation import METRICS, Case, EvaluationSettings, Scores
from segsrgan.evaluation.report import format_table, statistics, to_csv, to_json

COLUMNS = [METRICS[name] for name in ("dice", "hd95", "components", "reference_volume")]


def row(name, *values, **details):
    names = [metric.name for metric in COLUMNS]
    case = Case(label=f"p/{name}.nii", reference_label=f"r/{name}.nii")
    return Scores(case, dict(zip(names, values, strict=False)), **details)


ROWS = [
    row("a", 0.8, 1.0, 1.0, 12.5),
    row("b, c", 0.9, math.nan, 4.0, math.inf, notes=("prediction empty", "label resampled")),
    row("d", error="d.nii: no such file"),
]


def test_means_leave_out_what_is_not_defined():
    found = statistics(ROWS, COLUMNS)
    nan = math.nan
    assert list(found["mean"].values()) == pytest.approx([0.85, 1, 2.5, 12.5])
    expected = [math.sqrt(0.005), nan, math.sqrt(4.5), nan]
    assert list(found["sd"].values()) == pytest.approx(expected, nan_ok=True)
    assert list(found["n"].values()) == [2, 1, 2, 1]
    nothing = statistics(ROWS[2:], COLUMNS[:1])
    assert [nothing[key]["dice"] for key in ("mean", "sd", "n")] == pytest.approx(
        [nan, nan, 0], nan_ok=True
    )


def test_the_table():
    expected = """
case    dice  hd95  components  reference  note
                                   volume
                mm                     ml
----------------------------------------------------------------------------
a     0.8000  1.00           1      12.50
b, c  0.9000     -           4        inf  prediction empty, label resampled
d          -     -           -          -  failed
----------------------------------------------------------------------------
mean  0.8500  1.00         2.5      12.50
sd    0.0707     -         2.1          -
n          2     1           2          1
class: reference labels 3, 42, prediction every label but 0; probabilities from 0.25
1 of 3 cases failed
"""
    settings = EvaluationSettings(labels=(3, 42), threshold=0.25)
    assert format_table(ROWS, COLUMNS, settings).splitlines() == expected.strip().splitlines()


def test_the_table_says_where_images_were_compared():
    rows = [
        Scores(Case(image="a", reference_image="b"), {"psnr": 20.0}, region)
        for region in ("mask", "mask", "reference not 0")
    ]
    lines = format_table(rows, [METRICS["psnr"]], EvaluationSettings()).splitlines()
    assert lines[-2:] == [
        "images compared where the mask is not 0 (2)",
        "images compared where the reference is not 0 (1)",
    ]
    assert not any("class:" in line or "note" in line for line in lines)


def test_the_csv_has_every_digit_and_the_whole_name_which_the_table_cuts():
    long = row("x" * 50, 1 / 3)
    assert "x" * 37 + "..." in format_table([long], COLUMNS[:1], EvaluationSettings())
    rows = list(csv.DictReader(io.StringIO(to_csv([long, *ROWS], COLUMNS))))
    assert list(rows[0]) == ["case", *(m.name for m in COLUMNS), "region", "notes", "error"]
    assert [item["case"] for item in rows] == ["x" * 50, "a", "b, c", "d"]
    assert float(rows[0]["dice"]) == 1 / 3
    assert (rows[2]["hd95"], rows[2]["reference_volume"]) == ("", "inf")
    assert rows[2]["notes"] == "prediction empty; label resampled"
    assert (rows[3]["dice"], rows[3]["error"]) == ("", "d.nii: no such file")


def test_the_json_has_all():
    given = {"metrics": ["dice"], "labels": [3], "predicted_labels": None}
    given |= {"threshold": 0.25, "resample": True}
    settings = EvaluationSettings(**given)
    found = json.loads(to_json(ROWS, COLUMNS, settings), parse_constant=pytest.fail)
    assert found["settings"] == given
    libraries = {"numpy", "scipy", "scikit-image", "SimpleITK"}
    assert found["versions"].keys() == {"segsrgan", "python", *libraries}
    assert all(found["versions"].values())
    assert (found["metrics"]["hd95"]["unit"], found["metrics"]["hd95"]["better"]) == ("mm", "lower")
    second = found["cases"][1]
    assert second["files"] == {"label": "p/b, c.nii", "reference_label": "r/b, c.nii"}
    values = {"dice": 0.9, "hd95": None, "components": 4.0, "reference_volume": "inf"}
    assert (second["values"], second["notes"]) == (values, ["prediction empty", "label resampled"])
    assert found["cases"][2]["error"] == "d.nii: no such file"
    assert found["mean"]["dice"] == pytest.approx(0.85)
    assert found["sd"]["hd95"] is None
    assert found["n"] == {"dice": 2, "hd95": 1, "components": 2, "reference_volume": 1}
