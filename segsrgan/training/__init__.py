# SPDX-License-Identifier: MIT
"""Training: simulation of low-resolution images, patch streams, losses, the loop."""
