# SPDX-License-Identifier: MIT
"""The simulated examinations of `benchmarks/supermask.py`."""

import numpy as np

from segsrgan.volumes import SUFFIXES, read_volume
from supermask.datasets import find_pairs, read_channel
from supermask.simulation import Simulation, simulate
from supermask.training import paint


def gather(args, distance, seed):
    """The cases of all volumes: a list of (volume's name, `Case`), those of one side by side.

    The test volumes, the last ones, have one case each; the others `args.repeats`.
    """
    simulation = Simulation(
        (distance,),
        spacing=args.spacing,
        angle=args.angle,
        shift=args.shift / args.spacing,
        noise=args.noise,
    )
    cases = []
    volumes = _volumes(args)
    for index, (image_path, mask_path) in enumerate(volumes):
        mask = read_volume(mask_path)
        image = None if image_path is None else read_channel(image_path)
        tested = index >= len(volumes) - args.test
        for number in range(1 if tested else args.repeats):
            # The test cases are the same ones for every seed of the training.
            key = [0 if tested else seed, index, number, tested]
            rng = np.random.default_rng(key)
            own = paint(mask, rng, args.spacing, anatomy=0) if image is None else image
            cases.append((mask_path.name.partition(".")[0], simulate(own, mask, rng, simulation)))
    return cases


def split(cases, args):
    """The cases to train on, and those to test on."""
    return cases[: -args.test], cases[-args.test :]


def _volumes(args):
    """The chosen volumes, (image or None, mask) paths."""
    if args.collection:
        pairs = find_pairs(args.collection)
    else:
        masks = sorted(p for p in args.masks.iterdir() if p.name.endswith(SUFFIXES))
        pairs = [(None, mask) for mask in masks]
    wanted = args.train + args.test
    if len(pairs) < wanted:
        raise SystemExit(
            f"expected {args.train} volumes to train on and {args.test} to test on, found "
            f"{len(pairs)}; lower --train and --test"
        )
    return pairs[:wanted]
