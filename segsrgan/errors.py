# SPDX-License-Identifier: MIT
"""The errors that users read: each names the argument or file, the rule, the value, the remedy."""

import re


class UserError(ValueError):
    """A wrong argument, file or setting; the base of the errors below."""


class TableError(UserError):
    """A CSV file that cannot be read, or problems in its rows; the message lists them all."""


class VolumeError(UserError):
    """An image that cannot be read, used or written; the message names it."""


class WeightsError(UserError):
    """Weights that are missing, unreadable or do not fit."""


class StateError(UserError):
    """The saved state of a training that cannot be used."""


class MemoryShortage(UserError):
    """A request that would take more memory than is free or allowed."""


class TrainingError(RuntimeError):
    """A training that cannot go on; the message says why and what to try."""


_LONGEST = 300


def printable(text):
    """The text in one line: control characters and line breaks as Python writes them."""
    return re.sub(
        r"[\0-\x1f\x7f-\x9f\u2028\u2029]",
        lambda match: match[0].encode("unicode_escape").decode(),
        text,
    )


def one_line(error):
    """The error in one line, as a user reads it: no class name where the text speaks for itself."""
    # Of ours a line break is part of a file's name; other blanks may be that, too.
    lines = [printable(str(error))] if isinstance(error, UserError) else str(error).splitlines()
    name, text = type(error).__name__, " ".join(filter(None, map(str.strip, lines)))
    if isinstance(error, UnicodeEncodeError):  # which names but a character
        return f"{error.object[:_LONGEST]}: is not UTF-8, which is needed here; rename it"
    if isinstance(error, MemoryError) or name == "ResourceExhaustedError":  # TensorFlow's
        return "out of memory; take a smaller patch or a coarser resolution"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return printable(f"{error.filename}: {error.strerror}")
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    # Unforeseen: enough to recognise it by, --verbose shows the rest.
    return f"{name}: {text[:_LONGEST]}".removesuffix(": ")


def full_text(error):
    """A user's error with its line breaks, since reports on a CSV have several; others in one."""
    known = isinstance(error, (ValueError, OSError, TrainingError))
    if known and not isinstance(error, UnicodeEncodeError) and str(error).strip():
        return str(error).strip()
    return one_line(error)


def problems_error(title, problems):
    """One `TableError`, to be raised, that lists every problem found in the file of the title."""
    listed = "\n  ".join(problems)
    return TableError(f"{title}: {len(problems)} problem(s):\n  {listed}")
