# SPDX-License-Identifier: MIT
"""What every child of `training.py` does alike, so that all are timed in the same way.

Imported by the Python 3.7 and NumPy 1.16 of the released code too.
"""

import argparse
import json
import os
import time

import numpy as np

DISCRIMINATOR_UPDATES = 5


def parser(description):
    """The parser of a child: what to time, and how much of it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("what", choices=("cycle", "epoch"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--cycles", type=int, default=1, help="timed cycles, at most")
    parser.add_argument("--budget", type=float, default=60, help="no further cycle after, seconds")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--csv", help="of the images that `epoch` cuts")
    parser.add_argument("--resolution", type=float, nargs=3, help="of their simulated scans, mm")
    parser.add_argument("--stride", type=int, default=20)
    parser.add_argument("--folder", help="for files that `epoch` writes")
    return parser


def arrays(batch, patch):
    """Random `(lr, target)`, float32 (b, p, p, p) and (b, p, p, p, 2): image, label."""
    rng = np.random.RandomState(0)
    image, lr, label = (rng.rand(batch, patch, patch, patch).astype("float32") for _ in range(3))
    return lr, np.stack([image, (label > 0.5).astype("float32")], axis=-1)


def measure(discriminator, generator, wait, args):
    """Times cycles of five discriminator updates and one generator update.

    Args:
        discriminator: function without arguments that does one update; may return before it is
            done.
        generator: likewise.
        wait: function that ends when the update whose result it is given is done, and returns
            its losses, numbers.
        args: of `parser`.

    Returns:
        dict: the seconds of the discriminator's and of the generator's updates in each cycle,
        and the last losses, by which to see that all is finite.
    """
    start = time.perf_counter()
    wait(discriminator())  # compiles
    wait(generator())
    result = {"warm_up": time.perf_counter() - start, "discriminator": [], "generator": []}
    start = time.perf_counter()
    while len(result["generator"]) < args.cycles:
        begin = time.perf_counter()
        for _ in range(DISCRIMINATOR_UPDATES):
            last = discriminator()
        critic = wait(last)
        middle = time.perf_counter()
        losses = wait(generator())
        end = time.perf_counter()
        result["discriminator"].append(middle - begin)
        result["generator"].append(end - middle)
        if end - start > args.budget:
            break
    return dict(result, losses=[*critic, *losses])


def written():
    """Bytes that this process has handed over to be written so far."""
    with open("/proc/self/io") as file:
        return int(dict(line.split(":") for line in file)["wchar"])


def first_to_end():
    """Where memory runs out this process is to be ended, none beside it."""
    if os.path.exists("/proc/self/oom_score_adj"):
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")


def emit(result):
    """Prints a result as the last line, where the parent finds it."""
    print("\n" + json.dumps(result), flush=True)
