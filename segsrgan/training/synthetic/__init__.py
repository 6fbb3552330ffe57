# SPDX-License-Identifier: MIT
"""Training patches drawn at random: painted on label maps, or of images in any orientation."""
