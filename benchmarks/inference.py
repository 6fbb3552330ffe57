# SPDX-License-Identifier: MIT
"""Seconds and peak memory of whole `job_model.py` jobs.

    python benchmarks/inference.py [--runs 3] [--original PYTHON3.7] [--output docs/speed]

The scan is nilearn's T1 template cropped to 196x232x189 mm with simulated slices of 3 mm
(196x232x63 voxels), the network the paper's (first kernel 16, random weights), the result 1 mm.
With `--original`, the interpreter of an environment with SegSRGAN 2.2.4 (Python 3.7, TensorFlow
1.13.1, Keras 2.2.4), the released code does the same in the same run. Runs are interleaved.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ((64, 32), (128, 64))

# What the released package's own command does for one image, without its download of weights.
ORIGINAL = """
import os, sys
import SegSRGAN
sys.path.insert(0, os.path.dirname(SegSRGAN.__file__))
from SegSRGAN.Function_for_application_test_python3 import segmentation
image, weights, patch, step, folder = sys.argv[1:]
segmentation(image, int(step), (1, 1, 1), os.path.join(folder, "cortex.nii.gz"),
             os.path.join(folder, "sr.nii.gz"), weights, "Spline", int(patch))
"""


def make_inputs(folder):
    """Writes the scan, its CSV and the weights, in our layout and in the released one."""
    from nilearn import datasets

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from networks.variants import randomise, write_released

    from segsrgan import Volume, write_volume
    from segsrgan.networks import (
        DiscriminatorSpec,
        GeneratorSpec,
        build_discriminator,
        build_generator,
        save_generator,
    )
    from segsrgan.volumes import degrade

    template = datasets.load_mni152_template(resolution=1).get_fdata(dtype="float32")
    scan = degrade(Volume(template[:196, :232, :189], (1.0, 1.0, 1.0)), (1.0, 1.0, 3.0))
    write_volume(scan, folder / "scan.nii.gz")
    (folder / "data.csv").write_text("scan.nii.gz\n")
    generator = randomise(build_generator(GeneratorSpec(16)))
    save_generator(generator, folder / "weights")
    # The released code finds the generator as the second group of the file.
    write_released(folder / "released", generator, build_discriminator(DiscriminatorSpec(2)))
    return scan.array.shape


def commands(folder, original):
    """The commands to time: {(who, patch, step): argument list}."""
    script = Path(sys.executable).with_name("job_model.py")
    result = {}
    for patch, step in SETTINGS:
        ours = [sys.executable, str(script), "-p", str(folder / "data.csv"), "-pa", str(patch)]
        ours += ["-s", str(step), "-n", "1,1,1", "-wp", str(folder / "weights"), "--overwrite"]
        result["segsrgan 3", patch, step] = ours
        if original:
            arguments = [folder / "scan.nii.gz", folder / "released", patch, step, folder]
            theirs = [original, "-c", ORIGINAL, *map(str, arguments)]
            result["SegSRGAN 2.2.4", patch, step] = theirs
    return result


def timed(command):
    """Runs a command; returns its seconds and the peak memory of its process in GB."""
    # TensorFlow 2 sets this in its own process; TensorFlow 1 must not inherit it.
    environment = {key: value for key, value in os.environ.items() if key != "TF2_BEHAVIOR"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(command[:3])} failed:\n{errors.decode()[-2000:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e9


def machine():
    """What the figures depend on."""
    from importlib.metadata import version

    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "SegSRGAN")},
    }


def table(report):
    """The report as Markdown."""
    lines = ["| job | patch, step | seconds (min to max) | peak memory, GB |", "|---|---|---|---|"]
    for row in report["results"]:
        times = f"{row['seconds']:.1f} ({row['min']:.1f} to {row['max']:.1f})"
        lines.append(
            f"| {row['job']} | {row['patch']}, {row['step']} | {times} | {row['memory_gb']:.2f} |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--original", help="python 3.7 of an environment with SegSRGAN 2.2.4")
    parser.add_argument("--original_runs", type=int, default=1, help="it takes many minutes")
    parser.add_argument("--output", type=Path, help="writes OUTPUT.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = make_inputs(folder)
        jobs = commands(folder, args.original)
        measured = {key: [] for key in jobs}
        for run in range(args.runs):
            for key, command in jobs.items():
                if key[0].startswith("segsrgan") or run < args.original_runs:
                    measured[key].append(timed(command))
                    print(*key, *(f"{x:.2f}" for x in measured[key][-1]), flush=True)
    rows = []
    for (job, patch, step), runs in measured.items():
        seconds, memory = zip(*runs, strict=True)
        rows.append(
            {
                "job": job,
                "patch": patch,
                "step": step,
                "seconds": statistics.median(seconds),
                "min": min(seconds),
                "max": max(seconds),
                "runs": len(runs),
                "memory_gb": max(memory),
            }
        )
    report = {"scan": list(shape), "machine": machine(), "results": rows}
    print(json.dumps(report["machine"]))
    print(table(report))
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
