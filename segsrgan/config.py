# SPDX-License-Identifier: MIT
"""Settings: each field's rule, help and flag stated once, for Python, flags, TOML and records.

A settings class is a frozen dataclass whose fields are made by `setting`::

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        step: int | None = setting(int, None, "voxels between patches", flags=("-s",), low=1)

        def __post_init__(self):
            check(self)

`add_flags` gives a parser its flags, `from_toml` and `to_toml` read and write it, `check` puts
every value into its type and refuses wrong ones. The choices that several parts share are here.
"""

import json
import math
import os
import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path

from segsrgan import __version__
from segsrgan.errors import UserError

# Interpolations before the network, see `segsrgan.volumes.resample_to`.
INTERPS = ("scipy", "sitk", "profile")
# SimpleITK's interpolators by the names of the released original's flag.
INTERPOLATION_TYPES = {
    "NearestNeighbor": "sitkNearestNeighbor",
    "Linear": "sitkLinear",
    "Spline": "sitkBSpline",
    "Gaussian": "sitkGaussian",
    "Hamming": "sitkHammingWindowedSinc",
    "Cosine": "sitkCosineWindowedSinc",
    "Welch": "sitkWelchWindowedSinc",
    "Lanczos": "sitkLanczosWindowedSinc",
    "Blackman": "sitkBlackmanWindowedSinc",
}
GEOMETRIES = ("exact", "legacy")
BLENDS = ("uniform", "gaussian")
ENGINES = ("openvino", "tensorflow")
# Of an engine at inference; of the networks in training.
PRECISIONS = ("float32", "float16", "bfloat16")
TRAINING_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

_WORDS = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}
_METAVARS = {bool: "True|False", int: "N", float: "X", str: "TEXT"}


@dataclass(frozen=True)
class Rule:
    """The values that one setting may have, and what its flag looks like.

    Attributes:
        kind: bool, int, float or str.
        low, high: the smallest and the largest number; `high` needs `low`.
        above: whether the number must be larger than `low`.
        below: a bound that the number stays under.
        choices: the words to choose from, if they are few.
        optional: whether it may be None.
        empty: whether the text may be empty.
        count: how many numbers make up the setting.
        many: whether the setting is a tuple of any number of values, by comma on the command line.
        multiple: what the whole number must be divisible by.
        example: a value to try, for messages.
        title: the name in messages, where it is not that of the field.
        help: of the flag, one sentence.
        flags: further spellings of the flag.
        group: heading of the flag in `--help`.
        metavar: of the flag's value.
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
    many: bool = False
    multiple: int = 1
    example: object = None
    title: str = ""
    help: str = ""
    flags: tuple = ()
    group: str = ""
    metavar: str | None = None

    @property
    def expected(self):
        """What a message says is expected, such as "a number above 0"."""
        if self.kind is bool:
            return "True or False"
        if self.choices:
            return f"{'some' if self.many else 'one'} of {', '.join(self.choices)}"
        if self.many:
            return f"{'whole numbers' if self.kind is int else 'values'} by comma"
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
        if self.multiple > 1:
            words.append(f"divisible by {self.multiple}")
        return " ".join(words)

    def parse(self, text):
        """The value that a word of the command line stands for.

        The word itself where it stands for none, which `checked` then refuses.
        """
        if self.kind is bool:
            return _WORDS.get(text.strip().lower(), text)
        try:
            if self.many:
                return tuple(self.kind(word) for word in re.split(r"[\s,;]+", text) if word)
            return self.kind(text)
        except ValueError:
            return text

    def checked(self, value, name):
        """The value in the type of the setting: `100` as 100.0, a `Path` as str, a list as tuple.

        Args:
            value: of any type.
            name: of the setting, for the message.

        Raises:
            UserError: if it is not what is expected.
        """
        if value is None and self.optional:
            return None
        if self.many:
            return self._checked_many(value, name)
        values = value if self.count > 1 else [value]
        if isinstance(values, (tuple, list)) and len(values) == self.count:
            checked = tuple(map(self._checked, values))
            if None not in checked:
                return checked if self.count > 1 else checked[0]
        hint = "" if self.example is None else f"; try {self.example}"
        raise UserError(f"{name} must be {self.expected}, received {value!r}{hint}")

    def _checked_many(self, values, name):
        if not isinstance(values, (tuple, list)):
            hint = "" if self.choices else "; try 3,42"
            raise UserError(f"{name} must be {self.expected}, received {values!r}{hint}")
        checked = tuple(map(self._checked, values))
        if not checked or None in checked:
            wrong = repr(values[checked.index(None)]) if checked else "none"
            raise UserError(f"{name} must be {self.expected}, received {wrong}")
        return checked

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
        if self.multiple > 1 and value % self.multiple:
            return False
        return self.high is None or value <= self.high


def setting(kind, default=MISSING, help="", **limits):  # noqa: A002 - argparse's word
    """A dataclass field with a `Rule`; without a default it is required.

    Args:
        kind: bool, int, float or str.
        default: None makes None a possible value, "" the empty text.
        help: of the flag; without it there is no flag.
        **limits: further attributes of `Rule`.
    """
    limits["choices"] = tuple(limits.get("choices", ()))
    rule = Rule(kind, optional=default is None, empty=default == "", help=help, **limits)
    return field(default=default, metadata={"rule": rule})


def rules_of(settings):
    """The rule of each field of a settings class or object, as `{name: Rule}`."""
    return {name: item.metadata["rule"] for name, item in settings.__dataclass_fields__.items()}


def check(settings, prefix=""):
    """Puts every value of a settings object into its type; for `__post_init__`.

    Args:
        settings: a frozen dataclass made of `setting`s.
        prefix: before names in messages: "--" where people type them as flags.

    Raises:
        UserError: if a value is not what its rule expects.
    """
    for name, rule in rules_of(settings).items():
        value = rule.checked(getattr(settings, name), rule.title or f"{prefix}{name}")
        object.__setattr__(settings, name, value)


def check_bounds(bounds, name):
    """Raises `UserError` unless the first of two numbers is the smaller one, or they are equal."""
    low, high = bounds
    if low > high:
        raise UserError(
            f"{name}: the first number is the lower bound, received {low:g} and {high:g}; swap them"
        )


def whole_numbers(text, name, low=None):
    """The whole numbers of a text such as "3,42", separated by commas, semicolons or blanks.

    Args:
        text: str.
        name: of the setting or column, for the message.
        low: the smallest number allowed, any when None.

    Returns:
        A non-empty tuple of int.

    Raises:
        UserError: if there is none, or anything else.
    """
    words = re.split(r"[\s,;]+", text.strip())
    if all(re.fullmatch(r"[+-]?[0-9]+", word) for word in words):
        values = tuple(map(int, words))
        if low is None or min(values) >= low:
            return values
    kind = "whole numbers" if low is None else f"whole numbers from {low} up"
    raise UserError(f"{name} must be {kind} by comma, received {text!r}; try 3,42")


def boolean(text):
    """True or False from `True`, `False`, `yes`, `no`, in any case, for `argparse`.

    Raises:
        UserError: on any other text.
    """
    value = Rule(bool).parse(str(text))
    if not isinstance(value, bool):
        raise UserError(f"expected True or False, received {text!r}")
    return value


def add_flags(parser, settings_class):
    """Adds the flags of a settings class to a parser, in the order of its fields.

    The parser should have `argument_default=argparse.SUPPRESS`: what was not typed is then absent
    and takes its default from the class.

    Args:
        parser: an `argparse.ArgumentParser`.
        settings_class: a dataclass made of `setting`s; those with a `help` get a flag.
    """
    groups = {"": parser}
    for item in fields(settings_class):
        rule = item.metadata["rule"]
        if rule.help:
            if rule.group not in groups:
                groups[rule.group] = parser.add_argument_group(rule.group)
            add_flag(groups[rule.group], item.name, rule, item.default)


def add_flag(group, name, rule, default=MISSING):
    """Adds one flag.

    Args:
        group: a parser or argument group.
        name: of the setting; the flag is `--name`.
        rule: its `Rule`.
        default: what it is where it is not typed, told in the help unless the help says
            "(default: ...)" itself.
    """
    text = rule.help
    if default not in (MISSING, None, "") and "(default:" not in text:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    options = {"help": text, "type": rule.parse, "dest": name}
    if rule.kind is bool:
        options |= {"nargs": "?", "const": True}
    if rule.choices and not rule.many:
        options["choices"] = rule.choices
    if rule.count > 1:
        options["nargs"] = rule.count
    if rule.metavar or not rule.choices:
        options["metavar"] = rule.metavar or _METAVARS[rule.kind]
    group.add_argument(*rule.flags, f"--{name}", **options)


def typed(args, settings_class):
    """The settings of parsed flags; what was not typed takes its default.

    Args:
        args: namespace of a parser with the flags of `add_flags`, None or absent where not typed.
        settings_class: the class of these flags.

    Raises:
        UserError: if a value is not what is expected.
    """
    values = {name: getattr(args, name, None) for name in rules_of(settings_class)}
    return settings_class(**{name: v for name, v in values.items() if v is not None})


def to_toml(settings, command):
    """The text of a settings file, from which `from_toml` reads the same values.

    Settings of None are left out, since TOML has no word for it and None is their default.

    Args:
        settings: a dataclass made of `setting`s.
        command: that repeats the run, told in the file.
    """
    lines = [
        f"# Settings written by SegSRGAN {__version__}. To repeat the run, name new outputs:",
        f"#   {command}",
    ]
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    return "\n".join([*lines, *(f"{name} = {_toml(v)}" for name, v in values.items()), ""])


def from_toml(path, settings_class):
    """The values of a settings file.

    Args:
        path: of a TOML file whose keys are fields of the class; any of them may be absent.
        settings_class: a dataclass made of `setting`s.

    Returns:
        dict of values in the types of the settings; contradictions are for the class to find.

    Raises:
        UserError: if it is unreadable, not TOML, or has an unknown key or a wrong value.
    """
    try:
        values = tomllib.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see --config") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise UserError(f"{path}: is not a TOML file ({error}); see --config") from error
    rules = rules_of(settings_class)
    for key in values:
        if key not in rules:
            near = get_close_matches(key, rules, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(rules)}"
            raise UserError(f"{path}: {key} is not a setting; {hint}")
    return {key: rules[key].checked(value, f"{path}: {key}") for key, value in values.items()}


def _toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's; TOML wants one more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
