# SPDX-License-Identifier: MIT
"""Errors of the inference: a message names the rule, the value received and a remedy."""


class InferenceError(ValueError):
    """A wrong argument, or an image that cannot be processed as asked."""


class MemoryShortage(InferenceError):
    """What is asked for would take more memory than there is, or than is allowed."""


_LONGEST = 300


def one_line(error):
    """The error in one line, as a user reads it: no class name where the text speaks for itself.

    Args:
        error: an exception.

    Returns:
        A str without line breaks, never empty.
    """
    name, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, MemoryError) or name == "ResourceExhaustedError":  # TensorFlow's
        return "out of memory; take a smaller patch or a coarser resolution"
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    # Nothing we foresaw: enough to recognise it by, --verbose shows the rest.
    return f"{name}: {text[:_LONGEST]}".removesuffix(": ")
