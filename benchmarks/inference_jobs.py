# SPDX-License-Identifier: MIT
"""The jobs that `inference.py` times: scans, weights and argument lists."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ENGINES = ("tensorflow", "openvino")


def scan(folder, shape, spacing):
    """Writes a synthetic scan and its CSV, once: smooth structures and noise everywhere.

    No patch of it is constant, so that nothing is gained by the background of real heads.

    Returns:
        The path of the CSV.
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

    from segsrgan.networks import DiscriminatorSpec, GeneratorSpec, build_generator, save_generator
    from segsrgan.networks import build_discriminator as discriminator

    paths = folder / "weights", folder / "released"
    if not paths[0].exists():
        generator = randomise(build_generator(GeneratorSpec(4 if small else 16)))
        # The released code finds the generator as the second group of the file.
        write_released(paths[1], generator, discriminator(DiscriminatorSpec(2)))
        save_generator(generator, paths[0])
    return paths


def engines():
    """(engine, precision) pairs that this machine computes."""
    from segsrgan.errors import UserError
    from segsrgan.inference.engines import engine_module

    found = []
    for name in ENGINES:
        try:
            engine_module(name).check_available()
        except UserError:
            continue
        found += [(name, precision) for precision in engine_module(name).precisions()]
    return found


def ours(csv, weights_path, patch, step, engine="auto", precision="auto", resolution="1,1,1"):
    """The argument list of a `job_model.py` job."""
    command = [sys.executable, "-m", "segsrgan.job_model", "-p", csv, "-pa", patch, "-s", step]
    command += ["-n", resolution, "-wp", weights_path, "--overwrite", "--quiet"]
    return [*command, "--engine", engine, "--precision", precision]


def warm_up(args, folder):
    """One job of each engine on a tiny scan, for the self-check, which is remembered here."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    csv, (path, _) = scan(folder, (16, 16, 8), (1.0, 1.0, 2.0)), weights(folder, args.small)
    for pair in [("auto", "auto"), *engines()]:
        subprocess.run(list(map(str, ours(csv, path, 16, 16, *pair))), check=True)


def whole_jobs(args, folder):
    """`({(job, patch, step): command}, left out)` of the part "jobs"."""
    shape = (40, 36, 12) if args.small else (196, 232, 63)
    settings = ((16, 8), (32, 16)) if args.small else ((64, 32), (128, 64))
    csv = scan(folder, shape, (1.0, 1.0, 3.0))
    path, released = weights(folder, args.small)
    kernel = 4 if args.small else 16
    image, jobs, left_out = csv.with_suffix(".nii.gz"), {}, []
    for patch, step in settings:
        child = [image, patch, step, folder]
        jobs["plain Keras", patch, step] = [sys.executable, HERE / "inference_plain.py", *child]
        jobs["plain Keras", patch, step] += [path]
        for pair in engines():
            jobs[" ".join(pair), patch, step] = ours(csv, path, patch, step, *pair)
        jobs["MONAI, torch", patch, step] = [args.monai, HERE / "inference_monai.py", *child]
        jobs["MONAI, torch", patch, step] += [kernel]
        if args.original:
            theirs = [args.original, HERE / "inference_original.py", *child, released]
            jobs["SegSRGAN 2.2.4", patch, step] = theirs
    if not args.original:
        left_out.append("SegSRGAN 2.2.4: no --original PYTHON3.7")
    probe = [args.monai, "-c", "import monai, torch"]
    if subprocess.run(probe, capture_output=True).returncode:
        left_out.append("MONAI: not installed")
        jobs = {key: command for key, command in jobs.items() if key[0] != "MONAI, torch"}
    return jobs, left_out


def scaling_jobs(args, folder):
    """The same of "scaling": the step, the patch or the volume changes, the rest stays."""
    path, _ = weights(folder, args.small)
    scale = 8 if args.small else 1
    jobs = {}
    for varied, shape, patch, step in [
        *(("step", (160, 160, 160), 64, step) for step in (64, 48, 32, 24, 16)),
        *(("patch", (192, 192, 192), patch, patch // 2) for patch in (64, 96, 128, 192)),
        *(("volume", (n, n, n), 128, 64) for n in (128, 192, 256)),
        ("volume", (512, 512, 400), 128, 128),
    ]:
        shape, patch, step = tuple(n // scale for n in shape), patch // scale, step // scale
        csv = scan(folder, (*shape[:2], shape[2] // 2), (1.0, 1.0, 2.0))
        jobs[f"auto, by {varied}", patch, step, shape] = ours(csv, path, patch, step)
    return jobs, []


def gpu_jobs(args, folder):
    """The same of "gpu", empty where TensorFlow sees none."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return {}, ["GPU: TensorFlow sees none"]
    shape = (40, 40, 24) if args.small else (290, 290, 198)
    patch, steps = (16, (12, 8)) if args.small else (128, (100, 80, 60, 40, 30, 20, 10))
    path, _ = weights(folder, args.small)
    csv = scan(folder, (*shape[:2], shape[2] // 2), (1.0, 1.0, 2.0))
    return {
        ("tensorflow, GPU", patch, step, shape): ours(csv, path, patch, step, "tensorflow")
        for step in steps
    }, []
