# SPDX-License-Identifier: MIT
"""Training: degradation to low-resolution images, patch streams, losses, the loop."""
