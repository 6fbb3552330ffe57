# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py`, under the name that users of the original know."""

import sys

from segsrgan.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
