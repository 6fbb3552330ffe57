# SPDX-License-Identifier: MIT
"""The command `job_model.py`, under the name that users of the original know."""

import sys

from segsrgan.cli.job_model import main

if __name__ == "__main__":
    sys.exit(main())
