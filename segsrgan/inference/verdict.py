# SPDX-License-Identifier: MIT
"""Whether a result can be used: pass, look or fail, by what is measured without any truth.

The thresholds stand in `CHECKS`. They hold for brains, from a fetus of 21 weeks to an adult;
docs/results/segsrgan.md says which bad images they find, and how often they are wrong.
"""

import math
from typing import NamedTuple

PASS, LOOK, FAIL = "pass", "look", "fail"
_LEVELS = (PASS, LOOK, FAIL)
_MOST_DIGITS = 9  # of a value beside its bound


class Verdict(NamedTuple):
    """What a result is worth."""

    level: str  # PASS, LOOK or FAIL
    reasons: tuple[str, ...]  # a sentence each, with the value and the threshold


class Check(NamedTuple):
    """The usual values of a measure of `segsrgan.inference.measures`."""

    measure: str
    text: str  # a sentence on the value, which stands at {}; without {} it says all
    form: str  # of the value and the bounds in messages: a format, the digits are an argument
    digits: int  # after the point; of a value that would look like a bound, more
    look: tuple[float, float]  # bounds; beyond them the verdict is at least LOOK
    fail: tuple[float, float] = (-math.inf, math.inf)  # beyond them it is FAIL
    negative: str = ""  # the text on values below 0, which is then on the value without its sign

    def show(self, value):
        """The value as text, with as many digits as tell it from bounds that it may lie beyond."""
        bounds = [b for b in (*self.look, *self.fail) if math.isfinite(b) and b != value]
        digits = self.digits
        while digits < _MOST_DIGITS and self.form.format(value, digits) in {
            self.form.format(bound, digits) for bound in bounds
        }:
            digits += 1
        return self.form.format(value, digits)


def _up_to(look, fail=math.inf):
    return (-math.inf, look), (-math.inf, fail)


_PERCENT, _PLAIN, _MM, _YES = "{:.{}%}", "{:.{}f}", "{:.{}f} mm", ""
_LEAST = 1e-9  # what is above 0
_FEW_VALUES = 20

# fmt: off
CHECKS = (
    Check("noise_fraction", "its noise is {} of the range", _PERCENT, 1, *_up_to(0.025, 0.06)),
    Check("values", "it has {} different intensities, as a mask or a label map", _PLAIN, 0,
          (_FEW_VALUES, math.inf)),
    Check("background", "its background is not dark but at {} of the range", _PERCENT, 0,
          *_up_to(0.15)),
    Check("background_constant", "{} of its background is exactly dark, as where a head is not "
          "stripped", _PERCENT, 0, (0.4, math.inf)),
    Check("head_volume", "it shows an object of {}", "{:.{}f} ml", 0, (40, 2200), (20, 2600)),
    Check("head_elongation", "what it shows is {} times as long as wide", _PLAIN, 1,
          *_up_to(1.9, 2.4)),
    Check("head_cut", "the border cuts what it shows where that has {} of its largest section, as "
          "through a neck", _PERCENT, 0, *_up_to(0.5, 0.95)),
    Check("head_dark", "{} of what lies 8 to 20 mm deep is dark, as a skull is", _PERCENT, 1,
          *_up_to(0.025, 0.1)),
    Check("brain_unsure", "{} of the brain that was found in its head is unsure", _PERCENT, 0,
          *_up_to(0.15, 0.3)),
    Check("slice_shift", "its slices lie {} beside their neighbours, as after motion", _MM, 1,
          *_up_to(0.8, 2.5)),
    Check("missing_slices", "slices that are missing or empty: {}", _PLAIN, 0, *_up_to(0)),
    Check("alternating", "its slices are alternately bright and dark, as of two images", _YES, 0,
          *_up_to(0)),
    Check("repaired", "its header contradicts itself, or its slices are uneven", _YES, 0,
          *_up_to(0)),
    Check("clipped", "it has voxels far beyond all others, which were clipped", _YES, 0,
          *_up_to(0)),
    Check("thickness_mismatch", "its slices look {} thicker than stated, or than they are apart",
          _PERCENT, 0, (-0.4, 0.6),
          negative="its slices look {} thinner than stated, or than they are apart"),
    Check("profile_width", "the network's image fits slices {} times as thick as taken", _PLAIN, 2,
          *_up_to(1.03)),
    Check("residual_fraction", "the network contradicts its slices by {} of the range", _PERCENT,
          1, *_up_to(0.015)),
    Check("cortex_volume", "no cortex was found", _YES, 0, (-math.inf, math.inf),
          (_LEAST, math.inf)),
    Check("cortex_thickness", "the cortex found is {} thick", _MM, 1, (1.4, 8), (0.5, 10)),
    Check("cortex_folding", "the cortex found has {} of the surface usual in a head of that size",
          _PERCENT, 0, (0.65, 1.5)),
    Check("cortex_in_islands", "{} of the cortex found lay in islands", _PERCENT, 1,
          *_up_to(0.03)),
)
# fmt: on


def judge(measures):
    """The `Verdict` by the measures of a result, name -> number; what is missing says nothing.

    Examples:
        >>> judge({"noise_fraction": 0.05, "head_volume": 1400}).level
        'look'
    """
    level, reasons = PASS, []
    for check in CHECKS:
        value = measures.get(check.measure)
        if value is None:
            continue
        for name, (low, high) in ((FAIL, check.fail), (LOOK, check.look)):
            if not low <= value <= high:
                reasons.append(_reason(check, value, name, low if value < low else high))
                level = max(level, name, key=_LEVELS.index)
                break
    return Verdict(level, tuple(reasons))


def _reason(check, value, level, bound):
    """A sentence on a value beyond a bound: `its noise is 4.7% of the range (look above 2.5%)`."""
    if "{}" not in check.text:
        return f"{check.text} ({level})"
    side, text = "below" if value < bound else "above", check.text
    shown, limit = check.show(value), check.form.format(bound, check.digits)
    if check.negative and value < 0:
        side, text = "above", check.negative
        shown, limit = shown.lstrip("-"), limit.lstrip("-")
    return f"{text.format(shown)} ({level} {side} {limit})"
