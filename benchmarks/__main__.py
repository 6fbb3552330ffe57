# SPDX-License-Identifier: MIT
"""Runs a benchmark: `python -m benchmarks NAME --help`, in the root of a clone.

A benchmark is a module of this folder with `add_arguments(parser)`, `run(args, save)` that returns
its report, a dict of JSON values, and `tables(report)` that returns Markdown. `save(report)` may be
called in between, so that nothing is lost when a long one is stopped.
"""

import json
import os
import shlex
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from benchmarks.common import machine
from segsrgan.cli.console import import_quietly

BENCHMARKS = {
    "inference": "seconds, memory, distance to the machine's limit and accuracy of applying",
    "training": "seconds and memory of training cycles",
    "weights": "scores of weights on volumes that their training never saw",
    "stripping": "the brain that is found in painted heads, and what is kept of brains alone",
    "thickness": "how well the voxels show the thickness of slices",
    "verdict": "which good and bad images the verdict tells apart",
    "doubt": "how well the maps of doubt point at errors, and how honest probabilities are",
    "gallery": "pictures of real scans and their results",
    "paper": "the SegSRGAN paper's tables: steps, robustness, pipelines, adversarial loss",
    "supermask": "the SuperMask paper's tables, on simulated examinations",
    "supermask_image": "PSNR of SuperMask's image with and without --consistency",
    "supermask_speed": "seconds and memory of supermask-predict",
}


def main(argv=None):
    """Runs the command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in BENCHMARKS:
        lines = [f"  {name:<16} {text}" for name, text in BENCHMARKS.items()]
        print("usage: python -m benchmarks NAME [--help] ...\n\n" + "\n".join(lines))
        return 0 if argv in ([], ["-h"], ["--help"]) else 2
    name = argv[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    module = import_quietly(f"benchmarks.{name}")
    options = {"description": module.__doc__, "formatter_class": RawDescriptionHelpFormatter}
    parser = ArgumentParser(f"python -m benchmarks {name}", **options)
    module.add_arguments(parser)
    parser.add_argument("--output", type=Path, help="FILE.json; the tables go to FILE.md beside it")
    args = parser.parse_args(argv[1:])
    about = {"command": f"python -m benchmarks {shlex.join(argv)}", "machine": machine()}

    def save(report):
        if args.output:
            text = json.dumps({**about, **report}, indent=1, ensure_ascii=False)
            args.output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
            args.output.with_suffix(".md").write_text(module.tables(report) + "\n", "utf-8")

    report = module.run(args, save)
    save(report)
    print(module.tables(report))
    return int("failed" in json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
