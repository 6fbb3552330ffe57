# SPDX-License-Identifier: MIT
"""Errors of the evaluation: a message names the file, what was expected and what to do."""


class EvaluationError(ValueError):
    """A wrong argument, or a case that cannot be measured."""
