# SPDX-License-Identifier: MIT
"""Errors of the training."""


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what to try."""
