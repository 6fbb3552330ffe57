# SPDX-License-Identifier: MIT
"""Texts of the command line become values, or a line that says what to do."""

import pytest

from segsrgan.errors import UserError
from segsrgan.inference.settings import (
    PredictorSettings,
    checked_patch,
    checked_resolution,
    parse_pairs,
)


@pytest.mark.parametrize(
    ("patches", "steps", "pairs"),
    [
        ("128", None, ((128, 64),)),
        ("64,128", None, ((64, 32), (128, 64))),
        ("64,128", "32 64,64 128", ((64, 32), (64, 64), (128, 64), (128, 128))),
        ("64,128", "32 64,64", ((64, 32), (64, 64), (128, 64))),
        ("64", "32  32", ((64, 32),)),
        ("None", None, ((None, None),)),
        ("None", "64", ((None, None),)),
        ("64, None", "20, None", ((64, 20), (None, None))),
    ],
)
def test_pairs_follow_the_original_syntax(patches, steps, pairs):
    assert parse_pairs(patches, steps) == pairs


@pytest.mark.parametrize(
    ("patches", "steps", "words"),
    [
        ("64,128", "32", ["2 patch sizes", "1 groups"]),
        ("64", "32,16", ["1 patch sizes", "2 groups"]),
        ("64,128", "32,", ["no value for patch 128"]),
        ("66", None, ["divisible by 4", "66", "try 64"]),
        ("4", None, ["at least 8", "try 8"]),
        ("-64", None, ["try 8"]),
        ("64", "80", ["between 1 and the patch size 64", "received 80", "try 32"]),
        ("64", "0", ["between 1", "received 0"]),
        ("64.5", None, ["whole number", "64.5"]),
        ("", None, ["whole number"]),
        ("64", "half", ["step", "half"]),
    ],
)
def test_bad_pairs_are_explained(patches, steps, words):
    with pytest.raises(UserError) as error:
        parse_pairs(patches, steps)
    assert all(word in str(error.value) for word in words)


def test_maps_without_consistency_are_fewer_and_a_warning_says_so(caplog):
    PredictorSettings(maps=True)
    PredictorSettings(consistency="off")
    PredictorSettings(geometry="legacy")
    assert not caplog.records
    PredictorSettings(maps=True, consistency="off")
    (record,) = caplog.records
    assert "no map of what the network invented" in record.message


def test_a_resolution_takes_commas_and_blanks_or_one_number_for_all_axes():
    for text in ("0.5,1,3", "0.5 1 3", "0.5, 1, 3"):
        assert checked_resolution(text) == (0.5, 1.0, 3.0)
    assert checked_resolution("0.7") == checked_resolution(0.7) == (0.7, 0.7, 0.7)


@pytest.mark.parametrize("text", ["0,1,1", "1,-1,1", "1,1", "1,1,1,1", "", "a,b,c", "nan", "inf"])
def test_bad_resolutions_are_refused(text):
    with pytest.raises(UserError, match="try 0.5,0.5,0.5"):
        checked_resolution(text)


def test_arguments_of_the_predictor_are_checked():
    wrong = {
        "threshold": (0.0, 1.5),
        "thickness": (0.0, -1.0),
        "gap": (-1.0,),
        "flips": (0, 3, 16),
        "islands": ("remove",),
        "consistency": (True, "maybe"),
        "batch_size": (0, 1.5),
        "threads": (0,),
        "spline_order": (6,),
    }
    texts = "engine precision geometry interp interpolation_type blend".split()
    for name, values in (wrong | dict.fromkeys(texts, ("steam",))).items():
        for value in values:
            with pytest.raises(UserError, match=name):
                PredictorSettings(**{name: value})
    with pytest.raises(UserError, match="legacy"):
        PredictorSettings(geometry="legacy", interp="sitk")
    with pytest.raises(UserError, match="interp"):
        PredictorSettings(thickness=2.0, interp="scipy")
    for name, value in {"thickness": 2.0, "gap": 0.0, "strip": "yes", "maps": True}.items():
        with pytest.raises(
            UserError, match=f"legacy geometry knows no {name}, .*; leave {name} out"
        ):
            PredictorSettings(geometry="legacy", **{name: value})
    with pytest.raises(UserError, match="leave one out"):
        PredictorSettings(thickness=2.0, gap=1.0)
    with pytest.raises(UserError, match="whole number"):
        checked_patch(True)
