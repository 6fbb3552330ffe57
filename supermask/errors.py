# SPDX-License-Identifier: MIT
"""Errors of SuperMask."""


class SupermaskError(ValueError):
    """A wrong argument or a patient that cannot be processed; the message says what to do."""
