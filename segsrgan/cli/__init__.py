# SPDX-License-Identifier: MIT
"""The commands: parsers, messages, progress. The only place that prints."""
