# SPDX-License-Identifier: MIT
"""Whether a result can be used: pass, look or fail, by what is measured without any truth.

The thresholds stand in `CHECKS`. They hold for brains, from a fetus of 21 weeks to an adult;
docs/results/segsrgan.md says which bad images they find, and how often they are wrong.
"""

import math
from typing import NamedTuple

PASS, LOOK, FAIL = "pass", "look", "fail"
_LEVELS = (PASS, LOOK, FAIL)


class Verdict(NamedTuple):
    """What a result is worth."""

    level: str  # PASS, LOOK or FAIL
    reasons: tuple[str, ...]  # a sentence each, with the value and the threshold


class Check(NamedTuple):
    """The usual values of a measure of `segsrgan.inference.measures`."""

    measure: str
    text: str  # a sentence on the value, which stands at {}
    form: str  # of the value and the bounds in messages, a format
    look: tuple[float, float]  # bounds; beyond them the verdict is at least LOOK
    fail: tuple[float, float] = (-math.inf, math.inf)  # beyond them it is FAIL


def _up_to(look, fail=math.inf):
    return (-math.inf, look), (-math.inf, fail)


# fmt: off
CHECKS = (
    Check("noise_fraction", "its noise is {} of the range", "{:.1%}", *_up_to(0.025, 0.06)),
    Check("background", "its background is not dark but at {} of the range", "{:.0%}",
          *_up_to(0.15)),
    Check("background_constant", "{} of its background is exactly dark, as where a head is not "
          "stripped", "{:.0%}", (0.4, math.inf)),
    Check("head_volume", "it shows an object of {}", "{:.0f} ml", (40, 2200), (20, 2600)),
    Check("head_elongation", "what it shows is {} times as long as wide", "{:.1f}",
          *_up_to(1.9, 2.4)),
    Check("head_cut", "the border cuts what it shows where that has {} of its largest section, as "
          "through a neck", "{:.0%}", *_up_to(0.5, 0.95)),
    Check("head_dark", "{} of what lies 8 to 20 mm deep is dark, as a skull is", "{:.1%}",
          *_up_to(0.025, 0.1)),
    Check("slice_shift", "its slices lie {} beside their neighbours, as after motion", "{:.1f} mm",
          *_up_to(0.8, 2.5)),
    Check("missing_slices", "{} of its slices are missing", "{:.0f}", *_up_to(0)),
    Check("alternating", "its slices are alternately bright and dark, as of two images", "{:.0f}",
          *_up_to(0)),
    Check("repaired", "its header contradicts itself, or its slices are uneven", "{:.0f}",
          *_up_to(0)),
    Check("clipped", "it has voxels far beyond all others, which were clipped", "{:.0f}",
          *_up_to(0)),
    Check("thickness_mismatch", "its slices look thicker than they are taken for by {}", "{:.0%}",
          (-0.4, 0.6)),
    Check("profile_width", "the network's image fits slices {} times as thick as taken",
          "{:.2f}", *_up_to(1.03)),
    Check("residual_fraction", "the network contradicts its slices by {} of the range", "{:.1%}",
          *_up_to(0.015)),
    Check("cortex_thickness", "the cortex found is {} thick", "{:.1f} mm", (1.4, 7), (0.5, 10)),
    Check("cortex_folding", "the cortex found has {} of the surface usual in a head of that size",
          "{:.0%}", (0.65, 1.5)),
    Check("cortex_in_islands", "{} of the cortex found lay in islands", "{:.1%}", *_up_to(0.03)),
)
# fmt: on


def judge(measures):
    """The `Verdict` by the measures of a result, name -> number; what is missing says nothing.

    Example:
        >>> judge({"noise_fraction": 0.05, "head_volume": 1400}).level
        'look'
    """
    level, reasons = PASS, []
    for check in CHECKS:
        value = measures.get(check.measure)
        if value is None:
            continue
        for name, (low, high) in ((FAIL, check.fail), (LOOK, check.look)):
            if low <= value <= high:
                continue
            side, bound = ("below", low) if value < low else ("above", high)
            text = check.text.format(check.form.format(value))
            reasons.append(f"{text} ({name} {side} {check.form.format(bound)})")
            level = max(level, name, key=_LEVELS.index)
            break
    return Verdict(level, tuple(reasons))
