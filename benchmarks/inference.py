# SPDX-License-Identifier: MIT
"""Seconds, memory, distance to the machine's limit, and accuracy of applying a network.

    python benchmarks/inference.py [--runs 3] [--only jobs limit scaling accuracy gpu] [--small]
        [--original PYTHON3.7] [--monai PYTHON] [--output docs/speed]

jobs      whole jobs on a synthetic scan of 196x232x63 voxels of 1x1x3 mm to 1 mm with the paper's
          network (first kernel 16, random weights): plain Keras fed patch by patch, every engine
          and precision that this processor computes, MONAI's sliding window over the same network
          in torch where it is installed, and with `--original`, the interpreter of an environment
          with SegSRGAN 2.2.4, the released code.
limit     seconds for one patch of 128^3 over (operations of the rewritten network / rate of a large
          matrix product at the same precision), and where the time goes.
scaling   seconds and peak memory against step, patch and size of the volume.
accuracy  PSNR, SSIM and Dice of the bundled weights by engine and precision, on nilearn's T1
          template with simulated slices of 4 mm.
gpu       290x290x198 voxels, patch 128, steps 100 to 10, where TensorFlow sees a GPU.

Every job is a process of its own; runs are interleaved; one job of each kind on a tiny scan comes
first, so that the self-check of the engines, made once per machine and weights, is not counted.
`--output NAME` writes NAME.json and NAME_tables.md.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from inference_jobs import gpu_jobs, scaling_jobs, warm_up, whole_jobs
from inference_report import machine, summary, tables
from inference_run import run, run_child

PARTS = ("jobs", "limit", "scaling", "accuracy", "gpu")
# Jobs that take many minutes, and are run only so often.
SLOW = "SegSRGAN 2.2.4"


def measure(jobs, args):
    """Runs jobs in turns; `{key: command}` to a list of rows."""
    results = {key: [] for key in jobs}
    for number in range(args.runs):
        for key, command in jobs.items():
            if key[0] != SLOW or number < args.original_runs:
                results[key].append(run(command))
                print(*key, json.dumps(results[key][-1]), file=sys.stderr, flush=True)
    return [summary(key, found) for key, found in results.items()]


def part(name, args, folder):
    """The results of one part, and what was left out of it with the reason."""
    if name in ("limit", "accuracy"):
        options = ["--small"] if args.small else []
        return run_child(f"inference_{name}.py", "--runs", args.runs, *options), []
    make = {"jobs": whole_jobs, "scaling": scaling_jobs, "gpu": gpu_jobs}[name]
    jobs, left_out = make(args, folder)
    return measure(jobs, args), left_out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--original", help="python 3.7 of an environment with SegSRGAN 2.2.4")
    parser.add_argument("--original_runs", type=int, default=1)
    parser.add_argument("--monai", default=sys.executable, help="python with MONAI and torch")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    report = {"machine": machine(), "small": args.small}
    with tempfile.TemporaryDirectory() as name:
        warm_up(args, Path(name))
        for what in args.only:
            rows, left_out = part(what, args, Path(name))
            report[what] = {"rows": rows, "left_out": left_out}
    text = tables(report)
    print(text)
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        args.output.with_name(f"{args.output.name}_tables.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
