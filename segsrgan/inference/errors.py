# SPDX-License-Identifier: MIT
"""Errors of the inference: a message names the rule, the value received and a remedy."""


class InferenceError(ValueError):
    """A wrong argument, or an image that cannot be processed as asked."""


def one_line(error):
    """The error in one line, as a user reads it: no class name where the text speaks for itself.

    Args:
        error: an exception.

    Returns:
        A str without line breaks, never empty.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory: take a smaller patch or a coarser resolution ({text})".replace(
            " ()", ""
        )
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")
