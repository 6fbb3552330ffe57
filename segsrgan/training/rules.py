# SPDX-License-Identifier: MIT
"""What a setting may be, stated once for the command line, for files and for Python."""

import math
import os
from dataclasses import MISSING, dataclass, field
from numbers import Integral, Real

_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}


@dataclass(frozen=True)
class Rule:
    """The values that one setting may have.

    Attributes:
        kind: bool, int, float or str.
        low, high: the smallest and the largest number; `high` needs `low`.
        above: whether the number must be larger than `low`.
        below: a bound that the number stays under.
        choices: the words to choose from, if they are few.
        optional: whether it may be None.
        empty: whether the text may be empty.
        count: how many numbers make up the setting.
    """

    kind: type
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: float | None = None
    choices: tuple = ()
    optional: bool = False
    empty: bool = False
    count: int = 1

    @property
    def expected(self):
        """What a message says is expected, such as "a number above 0"."""
        if self.kind is bool:
            return "True or False"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is str:
            return "a text" if self.empty else "a text that is not empty"
        noun = "a whole number" if self.kind is int else "a number"
        words = [noun if self.count == 1 else f"{self.count} numbers"]
        if self.above:
            words.append(f"above {self.low}")
            if self.high is not None:
                words.append(f"and up to {self.high}")
        elif self.high is not None:
            words.append(f"from {self.low} to {self.high}")
        elif self.low is not None:
            words.append(f"from {self.low} up")
        if self.below is not None:
            words.append(f"and below {self.below}")
        return " ".join(words)

    def parse(self, text):
        """The value that a word of the command line stands for.

        The word itself where it stands for none, which `checked` then refuses.
        """
        if self.kind is bool:
            return _WORDS.get(text.lower(), text)
        try:
            return self.kind(text)
        except ValueError:
            return text

    def checked(self, value, name):
        """The value in the type of the setting: `100` as 100.0, a `Path` as str, a list as tuple.

        Args:
            value: of any type.
            name: of the setting, for the message.

        Raises:
            ValueError: if it is not what is expected.
        """
        if value is None and self.optional:
            return None
        values = value if self.count > 1 else [value]
        if isinstance(values, (tuple, list)) and len(values) == self.count:
            checked = tuple(map(self._checked, values))
            if None not in checked:
                return checked if self.count > 1 else checked[0]
        raise ValueError(f"{name} must be {self.expected}, received {value!r}")

    def _checked(self, value):
        """The value in its type, or None."""
        if self.kind is bool:
            return value if isinstance(value, bool) else None
        if self.kind is str:
            return self._checked_text(value)
        expected = Integral if self.kind is int else Real
        # True is an integer to Python, a mistake to us; an integer may be too large for a float.
        if isinstance(value, bool) or not isinstance(value, expected):
            return None
        try:
            value = self.kind(value)
        except OverflowError:
            return None
        return value if math.isfinite(value) and self._in_range(value) else None

    def _checked_text(self, value):
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not (value or self.empty):
            return None
        try:
            value.encode()
        except UnicodeEncodeError:  # a file name in another encoding; no text file could hold it
            return None
        return value if not self.choices or value in self.choices else None

    def _in_range(self, value):
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        if self.below is not None and value >= self.below:
            return False
        return self.high is None or value <= self.high


def setting(kind, default=MISSING, **limits):
    """A dataclass field with a `Rule`; without a default it is required.

    Args:
        kind: bool, int, float or str.
        default: None makes None a possible value, "" the empty text.
        **limits: see `Rule`.
    """
    rule = Rule(kind, optional=default is None, empty=default == "", **limits)
    return field(default=default, metadata={"rule": rule})


def whole_numbers(text, name):
    """The numbers above 0 of a text such as "3,42", separated by commas, semicolons or blanks.

    Args:
        text: str.
        name: of the setting, for the message.

    Returns:
        tuple of int.

    Raises:
        ValueError: if there is none, or anything else.
    """
    words = text.replace(",", " ").replace(";", " ").split()
    if words and all(word.isascii() and word.isdigit() and int(word) for word in words):
        return tuple(map(int, words))
    raise ValueError(f"{name} must be whole numbers from 1 up, such as 3,42, received {text!r}")


def check_bounds(bounds, name):
    """Raises `ValueError` unless the first of two numbers is the smaller one, or they are equal."""
    low, high = bounds
    if low > high:
        raise ValueError(
            f"{name}: the first number is the lower bound, received {low:g} and {high:g}; swap them"
        )


def rules_of(settings):
    """The rule of each field of a dataclass made of `setting`s, as `{name: Rule}`."""
    return {name: item.metadata["rule"] for name, item in settings.__dataclass_fields__.items()}
