# SPDX-License-Identifier: MIT
"""Settings: each field's rule, help and flag stated once, for Python, flags, TOML and records.

A settings class is a frozen dataclass whose fields are made by `setting`::

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        step: int | None = setting(None, "voxels between patches", ">= 1", flag="-s")

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
from dataclasses import MISSING, asdict, field, fields
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin

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
_METAVARS = {bool: "True|False", int: "N", float: "X", str: "PATH"}
# What messages say of an interval, by the marks of its bounds.
_INTERVALS = {
    "": "",
    ">": " above {}",
    ">=": " from {} up",
    "[]": " from {} to {}",
    "[)": " from {} up and below {}",
    "(]": " above {} and up to {}",
    "()": " above {} and below {}",
}


class Rule:
    """The values that one setting may have.

    Args:
        annotation: bool, int, float or str; a tuple of so many, such as `tuple[float, float]`, or
            of any number, by comma on the command line, such as `tuple[int, ...]`; with `| None`
            where the setting may be None. Two numbers are bounds: the first is not the larger.
        interval: that numbers lie in: "> 0", ">= 1", "[0, 180]", "[0, 1)".
        choices: the words to choose from, if they are few.
        default: of the setting; "" allows the empty text.
    """

    def __init__(self, annotation, interval="", choices=(), default=MISSING):
        self.optional = NoneType in get_args(annotation)
        if self.optional:
            annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
        is_tuple = get_origin(annotation) is tuple
        self.kind, *others = get_args(annotation) if is_tuple else (annotation,)
        self.is_list = others == [...]
        self.count = None if self.is_list else 1 + len(others)
        self.choices, self.default = tuple(choices), default
        # Of "[0, 1)" the marks are "[)" and the bounds "0" and "1".
        marks = re.sub(r"[^][()>=]", "", interval)
        bounds = re.findall(r"[^][()>=, ]+", interval) or ["-inf"]
        self._interval = _INTERVALS[marks].format(*bounds)
        low, high = self._range = tuple(map(float, (*bounds, "inf")[:2]))
        self._excluded = [low] * (marks[:1] == "(" or marks == ">") + [high] * (marks[-1:] == ")")

    @property
    def expected(self):
        """What a message says is expected, such as "a number above 0"."""
        if self.kind is bool:
            return "True or False"
        if self.choices:
            return f"{'some' if self.is_list else 'one'} of {', '.join(self.choices)}"
        if self.kind is str:
            return "a text" if self.default == "" else "a text that is not empty"
        noun = "whole number" if self.kind is int else "number"
        if self.is_list:
            return f"{noun}s{self._interval} by comma"
        return (f"a {noun}" if self.count == 1 else f"{self.count} {noun}s") + self._interval

    def parse(self, text):
        """The value that a word of the command line stands for.

        The word itself where it stands for none, which `checked` then refuses.
        """
        if self.kind is bool:
            return _WORDS.get(text.strip().lower(), text)
        try:
            if self.is_list:
                return tuple(self.kind(word) for word in re.split(r"[\s,;]+", text) if word)
            return self.kind(text)
        except ValueError:
            return text

    def checked(self, value, name):
        """The value in the type of the setting: 100 as 100.0, a `Path` as str, a list as tuple.

        Values of a tuple of any length may be a text, by comma. `UserError` says what was expected
        of the setting called `name`.
        """
        if value is None and self.optional:
            return None
        values = self.parse(value) if self.is_list and isinstance(value, str) else value
        values = [values] if self.count == 1 else values
        if isinstance(values, (tuple, list)) and len(values) == (self.count or len(values) or 1):
            checked = tuple(map(self._checked, values))
            if None not in checked:
                if self.count == 2 and checked[0] > checked[1]:
                    raise UserError(
                        f"{name}: the first number is the lower bound, received {checked[0]:g} and "
                        f"{checked[1]:g}; swap them"
                    )
                return checked[0] if self.count == 1 else checked
            value = values[checked.index(None)] if self.is_list else value
        raise UserError(f"{name} must be {self.expected}, received {value!r}{self._hint}")

    @property
    def _hint(self):
        if self.is_list and self.kind is int:
            return "; try 3,42"
        is_number = self.kind in (int, float) and isinstance(self.default, Real)
        return f"; try {self.default:g}" if is_number else ""

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
        is_inside = self._range[0] <= value <= self._range[1] and value not in self._excluded
        return value if math.isfinite(value) and is_inside else None

    def _checked_text(self, value):
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not (value or self.default == "") or "\0" in value:
            return None
        return value if not self.choices or value in self.choices else None


def setting(default=MISSING, help="", interval="", **others):  # noqa: A002 - argparse's word
    """A dataclass field with the `Rule` that its annotation begins; required without a default.

    Args:
        default: of the field.
        help: of the flag, one sentence; without it there is no flag.
        interval: see `Rule`.
        **others: `choices`, see `Rule`; of the flag its further spelling `flag`, `group`, the
            heading in `--help`, and `metavar`.
    """
    return field(default=default, metadata={"help": help, "interval": interval, **others})


@cache
def rules_of(settings_class):
    """The rule of each field of a settings class, as `{name: Rule}`."""
    return {
        item.name: Rule(
            item.type, item.metadata["interval"], item.metadata.get("choices", ()), item.default
        )
        for item in fields(settings_class)
    }


def check(settings, title=str):
    """Puts every value of a frozen settings object into its type, or raises `UserError`.

    For `__post_init__`; `title` makes of the name of a field that in messages.
    """
    for name, rule in rules_of(type(settings)).items():
        object.__setattr__(settings, name, rule.checked(getattr(settings, name), title(name)))


def add_flags(parser, *settings_classes, without=()):
    """Adds a flag to a parser for each field of settings classes that has a help.

    In each group what the class inherits comes last. The help tells the default, unless it says
    "(default: ...)" itself. A parser with `argument_default=argparse.SUPPRESS` gives only what was
    typed.
    """
    groups = {"": parser}
    for settings_class in settings_classes:
        _add_flags(parser, settings_class, groups, without)


def _add_flags(parser, settings_class, groups, without):
    rules = rules_of(settings_class)
    inherited = rules.keys() - vars(settings_class)["__annotations__"].keys()
    for item in sorted(fields(settings_class), key=lambda item: item.name in inherited):
        rule, shown = rules[item.name], item.metadata
        if not shown["help"] or item.name in without:
            continue
        group = shown.get("group", "")
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        options = {"help": _help(shown["help"], rule), "type": rule.parse}
        if rule.kind is bool:
            options |= {"nargs": "?", "const": True}
        if rule.choices and not rule.is_list:
            options["choices"] = rule.choices
        elif rule.count != 1 and not rule.is_list:
            options["nargs"] = rule.count
        if "metavar" in shown or not rule.choices:
            options["metavar"] = shown.get("metavar", _METAVARS[rule.kind] + ",..." * rule.is_list)
        names = [shown["flag"]] if "flag" in shown else []
        groups[group].add_argument(*names, f"--{item.name}", dest=item.name, **options)


def _help(text, rule):
    if rule.default in (MISSING, None, "") or "(default:" in text:
        return text
    values = rule.default if isinstance(rule.default, tuple) else (rule.default,)
    return f"{text} (default: {(',' if rule.is_list else ' ').join(map(str, values))})"


def typed(args, settings_class):
    """The settings of a namespace with the flags of `add_flags`, None or absent where not typed."""
    values = {name: getattr(args, name, None) for name in rules_of(settings_class)}
    return settings_class(**{name: v for name, v in values.items() if v is not None})


def to_toml(settings, command):
    """The text of a settings file, from which `from_toml` reads the same values.

    Settings of None are left out, since TOML has no word for it and None is their default. The
    `command`, which repeats the run, is told in the file.
    """
    lines = [
        f"# Settings written by SegSRGAN {__version__}. To repeat the run, name new outputs:",
        f"#   {command}",
    ]
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    return "\n".join([*lines, *(f"{name} = {_toml(v)}" for name, v in values.items()), ""])


def from_toml(path, settings_class):
    """The values of a settings file, each in the type of its setting.

    Any fields of the class may be absent; contradictions are for the class to find.

    Raises:
        UserError: if it is unreadable, not TOML, or has an unknown key or a wrong value.
    """
    try:
        values = tomllib.loads(Path(path).read_text("utf-8-sig", "surrogateescape"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see --config") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a TOML file ({error}); see --config") from error
    return checked(values, settings_class, f"{path}: ")


def checked(values, settings_class, where=""):
    """Values of some settings by name, each in its type; messages begin with `where`.

    Raises:
        UserError: if a name is unknown or a value wrong.
    """
    rules = rules_of(settings_class)
    for name in values:
        if name not in rules:
            near = get_close_matches(name, rules, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(rules)}"
            if isinstance(values[name], dict):
                hint = f"settings stand in no section, so leave out the line [{name}]"
            raise UserError(f"{where}{name} is not a setting; {hint}")
    return {name: rules[name].checked(value, where + name) for name, value in values.items()}


def _toml(value):
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's; TOML wants one more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
