# SPDX-License-Identifier: MIT
"""What the documentation's figures were measured with; `python -m benchmarks` lists it."""
