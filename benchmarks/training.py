# SPDX-License-Identifier: MIT
"""Seconds and peak memory of training cycles, and of preparing an epoch's patches.

    python benchmarks/training.py [--batch 4 32] [--runs 3] [--original PYTHON3.7]
                                  [--data FOLDER] [--output docs/training]

A cycle is five updates of the discriminator (first kernel 32) and one of the generator (first
kernel 16) on random patches of 64^3: ours, the same written plainly in torch where that is
installed, and with `--original`, the interpreter of an environment with SegSRGAN 2.2.4 (Python
3.7, TensorFlow 1.13.1, Keras 2.2.4), the released code's own. Each runs in a process of its own,
interleaved: one update of each kind to warm up, then at most `--cycles`, none begun after
`--budget` seconds.

With `--data`, a folder of pairs `*_T2w.nii.gz` and `*_labels.nii.gz` (cortex = 5), the batches of
an epoch are prepared as well, from the `--images` largest brains: streamed by ours, written to
.npy and read back by the released code, whose files go to the folder for temporary ones (TMPDIR).

With `--device gpu` the memory is the GPU's, and the released code is left out.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from training_report import machine, summary, table

HERE = Path(__file__).parent
ORIGINAL = "SegSRGAN 2.2.4"
PRECISIONS = ("float32", "mixed_bfloat16")
LABEL = 5


def cycle_commands(args):
    """What to time: `{(job, batch): argument list}`, and why something is left out."""
    options = ["--patch", args.patch, "--cycles", args.cycles, "--budget", args.budget]
    options += ["--device", args.device]
    no_torch, no_original = _no_torch(args), _no_original(args)
    jobs = {}
    for batch in args.batch:
        for precision in PRECISIONS:
            ours = _child(sys.executable, "ours", "cycle", batch, *options)
            ours += ["--precision", precision, "--backend", args.backend]
            jobs[f"segsrgan 3, {args.backend} {precision}", batch] = ours
            if not no_torch:
                plain = _child(sys.executable, "torch", "cycle", batch, *options)
                jobs[f"plain torch {precision}", batch] = [*plain, "--precision", precision]
        if not no_original and batch <= args.original_batch:
            jobs[ORIGINAL, batch] = _child(args.original, "original", "cycle", batch, *options)
    return jobs, no_torch + no_original


def _no_torch(args):
    """Why torch is left out, a list of one reason or none."""
    if not importlib.util.find_spec("torch"):
        return ["plain torch: not installed"]
    if args.device == "gpu":
        import torch

        if not torch.cuda.is_available():
            return ["plain torch: it sees no GPU"]
    return []


def _no_original(args):
    """Why the released code's cycle is left out, a list of one reason or none."""
    reasons = {
        "no --original PYTHON3.7": not args.original,
        "its TensorFlow is that for CPUs": args.device != "cpu",
        "its discriminator takes patches of 64^3 alone": args.patch != 64,
    }
    return [f"{ORIGINAL}: {reason}" for reason, true in reasons.items() if true][:1]


def _child(python, name, *arguments):
    what, batch, *rest = map(str, arguments)
    return [str(python), str(HERE / f"training_{name}.py"), what, "--batch", batch, *rest]


def epoch_commands(args, folder):
    """The same for the preparation of an epoch; empty without images."""
    from segsrgan import read_volume

    pairs = []
    for image in args.data.rglob("*_T2w.nii.gz") if args.data else ():
        label = image.with_name(image.name.replace("_T2w", "_labels"))
        box = [int(np.ptp(indices)) for indices in np.nonzero(read_volume(image).array > 0)]
        # The released code takes no other.
        if label.is_file() and min(box) >= args.patch:
            pairs.append((np.prod(box), image, label))
    if len(pairs) <= args.images:
        found = f"{len(pairs)} in {args.data}" if args.data else "no --data FOLDER"
        needed = f"expected {args.images + 1} pairs with a brain larger than the patch"
        return {}, [f"preparation of an epoch: {needed}, received {found}"]
    pairs = [pair[1:] for pair in sorted(pairs, reverse=True)]
    resolution = write_csv(pairs[: args.images + 1], folder)
    options = ["--csv", folder / "images.csv", "--patch", args.patch]
    options += ["--resolution", *resolution, "--folder"]
    jobs = {"segsrgan 3": (sys.executable, "ours")}
    if args.original:
        jobs[ORIGINAL] = (args.original, "original")
    return {
        (job, args.epoch_batch): _child(*child, "epoch", args.epoch_batch, *options)
        for job, child in jobs.items()
    }, []


def write_csv(pairs, folder):
    """Writes binary labels and the CSV, the last pair for Test; returns the scans' mm."""
    from segsrgan import read_volume, write_volume

    lines = ["HR_image,Label_image,Base"]
    for number, (image, labels) in enumerate(pairs):
        volume = read_volume(labels)
        path = folder / f"label_{number}.nii.gz"
        write_volume(volume.with_array((volume.array == LABEL).astype("uint8")), path)
        lines.append(f"{image.resolve()},{path},{'Test' if number == len(pairs) - 1 else 'Train'}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    x, y, z = read_volume(pairs[0][0]).spacing
    return x, y, 4 * z


def run(command, original=False):
    """Runs a child.

    Returns:
        What it printed last, with the peak memory of its process in GB; or `{"failed": reason}`.
    """
    # TensorFlow 2 sets the first in its own process; TensorFlow 1 must not inherit it.
    dropped = ("TF2_BEHAVIOR", "PYTHONPATH", "KERAS_BACKEND") if original else ("TF2_BEHAVIOR",)
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        for file in (output, errors):
            file.seek(0)
        if status:
            lines = errors.read().strip().splitlines() or ["no message"]
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9
            print(*lines[-8:], sep="\n", file=sys.stderr)
            return {"failed": "killed, as where memory runs out" if killed else lines[-1]}
        result = json.loads(output.read().splitlines()[-1])
    return {"memory_gb": usage.ru_maxrss * 1024 / 1e9, **result}


def measure(args, report):
    """Runs all children, interleaved; keeps `report` and its file up to date."""
    with tempfile.TemporaryDirectory() as name:
        cycles, left_out = cycle_commands(args)
        epochs, no_images = epoch_commands(args, Path(name))
        report["left_out"] = left_out + no_images
        for reason in report["left_out"]:
            print("left out:", reason, flush=True)
        jobs = {("epoch", *key): command for key, command in epochs.items()}
        jobs.update({("cycle", *key): command for key, command in cycles.items()})
        measured = {key: [] for key in jobs}
        for index in range(args.runs):
            for key, command in jobs.items():
                original = key[1] == ORIGINAL
                if original and index >= args.original_runs:
                    continue
                if any("failed" in result for result in measured[key]):
                    continue
                with tempfile.TemporaryDirectory() as scratch:
                    place = [scratch] if key[0] == "epoch" else []
                    measured[key].append(run(command + place, original))
                print(*key, json.dumps(measured[key][-1]), flush=True)
                report["results"] = [summary(k, r) for k, r in measured.items() if r]
                save(args, report)


def save(args, report):
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="*", default=[4, 32], help="none: no cycles")
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=3, help="timed in each run, at most")
    parser.add_argument("--budget", type=float, default=60, help="seconds of a run")
    parser.add_argument("--original", help="python 3.7 of an environment with SegSRGAN 2.2.4")
    parser.add_argument("--original_runs", type=int, default=1, help="it takes very long")
    parser.add_argument("--original_batch", type=int, default=4, help="the largest it is timed at")
    parser.add_argument("--data", type=Path, help="images whose preparation is timed")
    parser.add_argument("--images", type=int, default=6, help="how many of them")
    parser.add_argument("--epoch_batch", type=int, default=16, help="patches in their batches")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--output", type=Path, help="writes OUTPUT.json")
    args = parser.parse_args(argv)
    if args.original and not os.access(args.original, os.X_OK):
        parser.error(f"--original {args.original}: no such interpreter")
    return args


def main(argv=None):
    args = parse(argv)
    report = {"patch": args.patch, "device": args.device, "machine": machine(), "results": []}
    measure(args, report)
    save(args, report)
    print(json.dumps(report["machine"]))
    print(table(report))
    return int(any("failed" in row for row in report["results"]))


if __name__ == "__main__":
    sys.exit(main())
