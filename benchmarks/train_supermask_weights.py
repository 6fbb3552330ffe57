# SPDX-License-Identifier: MIT
"""Trains small weights of SuperMask on simulated examinations.

    python benchmarks/train_supermask_weights.py --data FOLDER --folder RUN [--object fetal]

FOLDER holds `fetal_templates/` (`*_T2w.nii.gz` and `*_labels.nii.gz`; CC0) and `heart_masks/`
(masks alone; CC-BY-SA 4.0). The object is the fetal brain, whose template lies among painted
structures, or the left atrium, painted altogether. Volumes named in HELD_OUT never enter the
training; their examinations are scored at the end. Slices are 3 to 8 mm apart. AlignNet learns from
the true motions, which are known. Called again with a RUN that was stopped, it goes on from there.
At the end the weights are in RUN/NAME.h5, with what they were trained on and their scores; `--ship`
puts them into weights/ and its registry as well.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

# In place of this script's own folder, where `supermask` would be a file.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.ship_weights import WEIGHTS, enter  # noqa: E402
from benchmarks.supermask_networks import (  # noqa: E402
    epochs,
    trained,
    trained_alignnet,
    trained_segmentor,
)

HELD_OUT = {
    "fetal": ("GA25_operated", "GA28", "GA32"),
    "heart": ("la_023", "la_024", "la_026", "la_029", "la_030"),
}
TEXTS = {
    "fetal": ("fetal T2 templates of the spina bifida atlas (weeks 21 to 34)", "CC0"),
    "heart": (
        "left atrium masks of the Medical Segmentation Decathlon, task 2",
        "CC-BY-SA 4.0",
    ),
}
SLICES = (3.0, 8.0)  # mm
SCORES = ("dice", "overlap_before", "overlap", "angle_error_before", "angle_error")
SCORES += ("shift_error_before", "shift_error")


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--folder", type=Path, required=True)
    add("--object", nargs="+", choices=sorted(HELD_OUT), default=["fetal"])
    add("--name", default="supermask_small")
    add("--ship", action="store_true", help="put the result into weights/")
    add("--volumes", type=int, help="of each object at most, to try it out (default: all)")
    add("--repeats", type=int, default=6, help="examinations of a training volume (default: 6)")
    add("--grid_size", type=int, default=48, help="voxels (default: 48)")
    add("--spacing", type=float, default=2.5, help="mm (default: 2.5)")
    add("--kernel", type=int, default=8, help="of the segmentor (default: 8)")
    add("--alignnet_kernels", default="16,32", help="(default: 16,32)")
    add("--alignnet_updates", type=int, default=9000, help="(default: 9000)")
    add("--segmentor_updates", type=int, default=900, help="(default: 900)")
    add("--stage2_updates", type=int, default=100, help="(default: 100)")
    add("--pose", type=float, default=90.0, help="largest angle of the pose (default: 90)")
    add("--rotation", type=float, default=40.0, help="of the motion (default: 40)")
    add("--shift", type=float, default=6.0, help="of both, voxels (default: 6)")
    add("--precision", default="mixed_bfloat16", help="of the segmentor (default: mixed_bfloat16)")
    add("--seed", type=int, default=0)
    return parser


def volumes(folder, name, most=None):
    """Yields (file's name, mask, image or None, whether it is held out) of an object."""
    from segsrgan.volumes import read_volume

    pattern = {"fetal": "fetal_templates/*_T2w.nii.gz", "heart": "heart_masks/*.nii.gz"}[name]
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SystemExit(f"{folder}: no {pattern}; name the folder that holds it in --data")
    counts = [0, 0]
    for path in paths:
        held_out = any(word in path.name for word in HELD_OUT[name])
        counts[held_out] += 1
        if most is not None and counts[held_out] > most:
            continue
        image = read_volume(path) if name == "fetal" else None
        file = str(path).replace("_T2w", "_labels") if name == "fetal" else path
        mask = read_volume(file)
        yield path.name, mask.with_array((mask.array > 0).astype(np.float32)), image, held_out


def examination(mask, image, rng, args):
    """A simulated `Case` of a volume; its brain, if it has one, among painted structures."""
    from supermask.simulation import Simulation, simulate
    from supermask.training import paint

    simulation = Simulation(
        (max(float(rng.uniform(*SLICES)), 1.01 * args.spacing),),
        spacing=args.spacing,
        angle=args.rotation,
        shift=args.shift,
        noise=0.02,
    )
    painted = paint(mask, rng, args.spacing, inverted=0.3)
    return simulate(
        painted if image is None else within(painted, mask, image), mask, rng, simulation
    )


def within(painted, mask, image):
    """A painted image whose object is an image's, with its own contrast."""
    from supermask.geometry import sample

    share = sample(mask, painted.grid)
    top = np.percentile(image.array[mask.array > 0], 99)
    inside = np.clip(sample(image, painted.grid) / top, 0, 1.2)
    return painted.with_array(((1 - share) * painted.array + inside * share).astype(np.float32))


def cases(args):
    """The examinations to train on and those held out."""
    train, test = [], []
    for kind, name in enumerate(args.object):
        for index, (file, mask, image, held_out) in enumerate(
            volumes(args.data, name, args.volumes)
        ):
            for number in range(3 if held_out else args.repeats):
                rng = np.random.default_rng([args.seed, kind, index, number])
                (test if held_out else train).append(examination(mask, image, rng, args))
            print(f"{file}: {'held out' if held_out else 'to train on'}", flush=True)
    return train, test


def settings(args):
    from supermask.training import TrainingSettings

    names = "grid_size spacing kernel alignnet_kernels pose rotation shift precision seed"
    return TrainingSettings(
        **{name: getattr(args, name) for name in names.split()},
        hidden=64,
        largest_angle=60.0,
        window=9,
        contrast_max=0.4,
        noise=0.03,
        supervised_alignment="transforms",
        decay_every=50,
        snapshot=10**6,
    )


def reporter():
    """Prints the losses now and then, with the seconds since the start."""
    start = time.perf_counter()

    def report(label, done, total, text):
        if done % 10 == 0 or done == total:
            seconds = time.perf_counter() - start
            print(f"{seconds:8.0f} s  {label} {done}/{total} {text}", flush=True)

    return report


def scored(networks, cases, common):
    """The scores of networks on examinations, each pair of views moved at random."""
    from supermask.training.dataset import Dataset
    from supermask.training.learners import Learners, Objective
    from supermask.training.poses import Augmentation
    from supermask.training.step import Step
    from supermask.training.validation import validate

    moved = Augmentation(
        common.grid_size, common.spacing, rotation=common.rotation, shift=common.largest_motion
    )
    learners = Learners(networks.segmentor, networks.alignnet, Objective())
    found = validate(Step(learners), Dataset(cases, moved, 1), common.spacing, common.window)
    return {name: found[name] for name in SCORES if name in found}


def ship(path, notes):
    """Puts a weights file among those that ship, in the place of one of its name."""
    from segsrgan.networks import describe

    (WEIGHTS / path.name).write_bytes(path.read_bytes())
    known = describe(path)
    architecture = {name: known[name] for name in ("segmentor", "alignnet")}
    own = {"name": path.stem, "kind": "supermask", "architecture": architecture}
    enter({**own, **notes}, default=False)


def main(argv=None):
    args = parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from supermask.networks import save_networks

    start, report = time.perf_counter(), reporter()
    train, test = cases(args)
    print(f"{len(train)} examinations to train on, {len(test)} held out", flush=True)
    common = settings(args)
    alignnet = trained_alignnet(args.folder, train, common, args.alignnet_updates, report)
    segmentor = trained_segmentor(args.folder, train, common, args.segmentor_updates, report)
    apart = args.folder / "apart.h5"
    save_networks(apart, segmentor, alignnet)
    both = {"weights": str(apart), "stage1_epochs": 0, "stage2_epochs": epochs(args.stage2_updates)}
    found = trained(args.folder / "both.h5", train, common, report, **both)
    scores = {name: round(value, 4) for name, value in scored(found, test, common).items()}
    texts, licences = zip(*(TEXTS[name] for name in args.object), strict=True)
    notes = {
        "training": f"examinations simulated of {' and of '.join(texts)}; "
        "benchmarks/train_supermask_weights.py",
        "license": f"MIT; data: {', '.join(licences)}",
        "scores": {"held out": scores},
    }
    held_out = [word for name in args.object for word in HELD_OUT[name]]
    path = args.folder / f"{args.name}.h5"
    save_networks(path, found.segmentor, found.alignnet, held_out=held_out, **notes)
    if args.ship:
        ship(path, notes)
    print(f"{path}: {scores}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
