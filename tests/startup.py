# SPDX-License-Identifier: MIT
"""Commands in processes of their own, started as users do: what TensorFlow says at its start."""

import os

# What TensorFlow writes from C++ when it is loaded and when it looks for devices.
_LINES = ("cudart_stub", "cpu_feature_guard", "oneDNN custom operations", "InitializeLog")


def user_environment(**variables):
    """The environment without what the tests set to keep libraries quiet."""
    kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return {**kept, **variables}


def start_up_lines(output):
    """The lines of a command's output that are TensorFlow's."""
    return [line for line in output.splitlines() if any(words in line for words in _LINES)]
