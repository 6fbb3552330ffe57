# SPDX-License-Identifier: MIT
"""Seconds, memory, distance to the machine's limit, and accuracy of applying a network.

jobs      whole jobs on a synthetic scan of 196x232x63 voxels of 1x1x3 mm to 1 mm with the paper's
          network (first kernel 16, random weights): plain Keras fed patch by patch, every engine
          and precision that this processor computes, MONAI's sliding window over the same network
          in torch where it is installed, and with --original, the interpreter of an environment
          with SegSRGAN 2.2.4, the released code.
limit     seconds for one patch of 128^3 over (operations of the rewritten network / rate of a large
          matrix product at the same precision).
scaling   seconds and peak memory against step, patch and size of the volume.
accuracy  PSNR, SSIM and Dice of the bundled weights by engine and precision, on nilearn's T1
          template with simulated slices of 4 mm.

Every job is a process of its own; runs are interleaved.
"""

import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.common import HERE, cost_cells, interleaved, markdown, ours, summary, timed
from segsrgan.cli.console import import_quietly
from segsrgan.config import ENGINES
from segsrgan.inference.engines import engine_module

PARTS = ("jobs", "limit", "scaling", "accuracy")
ORIGINAL, MONAI, PLAIN = "SegSRGAN 2.2.4", "MONAI, torch", "plain Keras"


def add_arguments(parser):
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--original", help="python 3.7 of an environment with SegSRGAN 2.2.4")
    parser.add_argument("--monai", default=sys.executable, help="python with MONAI and torch")


def run(args, save):
    import_quietly("keras")
    report, makers = {"small": args.small}, {"jobs": whole_jobs, "scaling": scaling_jobs}

    def add(part, results):
        keys = ("job", "patch", "step", "shape")
        rows = [(zip(keys, key, strict=False), found) for key, found in results.items()]
        report[part] = {"rows": [dict(key) | summary(found) for key, found in rows]}
        save(report)

    with tempfile.TemporaryDirectory() as name:
        for part in args.only:
            if part in makers:
                interleaved(makers[part](args, Path(name)), args.runs, partial(add, part))
            else:
                found = timed(ours(part, args.runs, *["--small"] * args.small))
                report[part] = {"rows": found.get("rows", [found])}
    return report


def engines():
    """(engine, precision) pairs that this machine computes."""
    found = [name for name in ENGINES if find_spec(name)]
    return [(name, precision) for name in found for precision in engine_module(name).precisions()]


def job_model(csv, weights_path, patch, step, engine="auto", precision="float32"):
    """The command of a `job_model.py` job."""
    command = [sys.executable, "-m", "segsrgan.job_model", "-p", csv, "-pa", patch, "-s", step]
    command += ["-n", "1,1,1", "-wp", weights_path, "--overwrite", "--quiet"]
    return [*command, "--engine", engine, "--precision", precision]


def scan(folder, shape, spacing):
    """Writes a synthetic scan and its CSV, once; returns the CSV's path.

    Smooth structures and noise everywhere: no patch of it is constant, so that nothing is gained
    by the background of real heads.
    """
    from scipy import ndimage

    from segsrgan import Volume, write_volume

    name = "x".join(map(str, shape))
    csv = folder / f"{name}.csv"
    if not csv.exists():
        rng = np.random.default_rng(0)
        coarse = rng.random([-(-n // 8) + 2 for n in shape], dtype=np.float32)
        smooth = ndimage.zoom(coarse, 8, order=1)[tuple(slice(0, n) for n in shape)]
        array = 100 * smooth + rng.normal(0, 2, shape).astype(np.float32)
        write_volume(Volume(np.maximum(array, 0), spacing), folder / f"{name}.nii.gz")
        csv.write_text(f"{name}.nii.gz\n")
    return csv


def weights(folder, small):
    """The paper's generator with random weights, in our layout and in the released one."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from networks.variants import randomise, write_released

    import segsrgan.networks as ns

    paths = folder / "weights", folder / "released"
    if not paths[0].exists():
        generator = randomise(ns.build_generator(ns.GeneratorSpec(4 if small else 16)))
        # The released code finds the generator as the second group of the file.
        discriminator = ns.build_discriminator(ns.DiscriminatorSpec(2))
        write_released(paths[1], generator, discriminator)
        ns.save_generator(generator, paths[0])
    return paths


def whole_jobs(args, folder):
    """`{(job, patch, step): command}` of the part "jobs"."""
    shape, kernel = ((40, 36, 12), 4) if args.small else ((196, 232, 63), 16)
    csv = scan(folder, shape, (1.0, 1.0, 3.0))
    path, released = weights(folder, args.small)
    image, jobs = csv.with_suffix(".nii.gz"), {}
    probe = [args.monai, "-c", "import monai, torch"]
    monai = subprocess.run(probe, capture_output=True).returncode == 0
    for patch, step in ((16, 8), (32, 16)) if args.small else ((64, 32), (128, 64)):
        arguments = [image, patch, step, folder]
        jobs[PLAIN, patch, step] = ours("job", *arguments, path)
        for pair in engines():
            jobs[" ".join(pair), patch, step] = job_model(csv, path, patch, step, *pair)
        if monai:
            jobs[MONAI, patch, step] = [args.monai, HERE / "peer_monai.py", *arguments, kernel]
        if args.original:
            peer = [args.original, HERE / "peer_original.py", *arguments, released]
            jobs[ORIGINAL, patch, step] = peer
    return jobs


def scaling_jobs(args, folder):
    """Jobs whose step, patch or volume changes while the rest stays, see `whole_jobs`."""
    path, _ = weights(folder, args.small)
    scale, jobs = 8 if args.small else 1, {}
    for varied, shape, patch, step in [
        *(("step", (160, 160, 160), 64, step) for step in (64, 48, 32, 24, 16)),
        *(("patch", (192, 192, 192), patch, patch // 2) for patch in (64, 96, 128, 192)),
        *(("volume", (n, n, n), 128, 64) for n in (128, 192, 256)),
        ("volume", (512, 512, 400), 128, 128),
    ]:
        shape, patch, step = tuple(n // scale for n in shape), patch // scale, step // scale
        csv = scan(folder, (*shape[:2], shape[2] // 2), (1.0, 1.0, 2.0))
        jobs[f"auto, by {varied}", patch, step, shape] = job_model(csv, path, patch, step)
    return jobs


def tables(report):
    """All parts as Markdown."""
    makers = {"jobs": _jobs, "limit": _limit, "scaling": _scaling, "accuracy": _accuracy}
    blocks = []
    for name in [name for name in makers if name in report]:
        rows = report[name]["rows"]
        if name in ("limit", "accuracy") and "failed" in rows[0]:
            blocks.append(f"The part {name} failed: {rows[0]['failed']}")
        elif rows:
            blocks.append(makers[name](rows))
    return "\n\n".join(blocks)


def _jobs(rows):
    plain = {(row["patch"], row["step"]): row.get("seconds") for row in rows if row["job"] == PLAIN}
    lines = []
    for row in rows:
        base = plain[row["patch"], row["step"]]
        times = f"{base / row['seconds']:.1f}" if base and "seconds" in row else ""
        lines.append([row["job"], f"{row['patch']}, {row['step']}", *cost_cells(row), times])
    heads = ["job", "patch, step", "seconds (min to max)", "peak memory, GB", "plain Keras over it"]
    return markdown(heads, lines)


def _limit(rows):
    lines = []
    for row in rows:
        rates = [f"{row[key] / 1e9:.0f}" for key in ("operations", "matrix_rate")]
        cells = f"{row['engine']} {row['precision']}", cost_cells(row)[0]
        lines.append([*cells, *rates, f"{row['times_the_limit']:.2f}"])
    heads = ["engine", "seconds a patch (min to max)", "GFLOP", "GFLOP/s of a product"]
    return markdown([*heads, "limit times"], lines)


def _scaling(rows):
    from segsrgan.volumes import plan

    lines, by_step = [], []
    for row in rows:
        count = len(plan(row["shape"], row["patch"], row["step"]).starts)
        cells = "x".join(map(str, row["shape"])), f"{row['patch']}, {row['step']}", count
        lines.append([row["job"], *cells, *cost_cells(row)])
        if row["job"].endswith("step") and "seconds" in row:
            by_step.append((count, row["seconds"]))
    heads = ["varied", "volume", "patch, step", "patches", "seconds (min to max)"]
    text = markdown([*heads, "peak memory, GB"], lines)
    if len(by_step) > 2:
        count, seconds = np.array(by_step).T
        slope, start = np.polyfit(count, seconds, 1)
        explained = np.corrcoef(count, seconds)[0, 1] ** 2
        text += f"\n\nBy step: {start:.1f} s + {slope:.3f} s a patch (R^2 {explained:.4f})."
    return text


def _accuracy(rows):
    digits = {"psnr": 3, "ssim": 4, "dice": 4, "dice_with_plain": 5}
    lines = [
        [f"{row['engine']} {row['precision']}", *(f"{row[k]:.{n}f}" for k, n in digits.items())]
        for row in rows
    ]
    return markdown(["engine", "PSNR, dB", "SSIM", "Dice", "Dice with the plain network"], lines)
