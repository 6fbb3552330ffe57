# SPDX-License-Identifier: MIT
"""Child of `inference_run.py`: runs a command, and writes what it took.

    python measured.py FILE COMMAND ...

A process starts with the largest memory of the one it was forked from; that of this one is small.
"""

import json
import os
import subprocess
import sys


def main(path, *command):
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    with open(path, "w") as file:
        json.dump({"memory_gb": usage.ru_maxrss * 1024 / 1e9}, file)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
