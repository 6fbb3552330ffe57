# SPDX-License-Identifier: MIT
"""The simulated examinations of `benchmarks/supermask.py`."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segsrgan.volumes import SUFFIXES
from supermask.datasets import find_pairs, read_channel, read_mask
from supermask.simulation import Simulation, simulate
from supermask.training import paint


def gather(args, distance, seed):
    """The cases of all volumes of a seed.

    Every seed leaves out other volumes, as long as there are others: a cross-validation.

    Args:
        args: of the benchmark.
        distance: of the slices, mm.
        seed: int.

    Returns:
        `(train, test)`, lists of (volume's name, `Case`): `args.repeats` of each volume to train
        on, side by side, and one of each to test.
    """
    volumes = list(enumerate(_volumes(args)))
    first = (len(volumes) - (seed + 1) * args.test) % len(volumes)
    volumes = volumes[first:] + volumes[:first]
    tested, trained = volumes[: args.test], sorted(volumes[args.test :])
    # The test case of a volume is the same one for every seed.
    tasks = [(volume, [0, index, 0, True]) for index, volume in tested]
    for index, volume in trained:
        tasks += [(volume, [seed, index, number, False]) for number in range(args.repeats)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cases = list(pool.map(lambda task: _case(args, distance, *task), tasks))
    return cases[args.test :], cases[: args.test]


def _case(args, distance, volume, key):
    image_path, mask_path = volume
    rng, mask = np.random.default_rng(key), read_mask(mask_path)
    if image_path is None:
        image = paint(mask, rng, args.spacing, anatomy=0)
    else:
        image = read_channel(image_path)
    simulation = Simulation(
        (distance,),
        spacing=args.spacing,
        angle=args.angle,
        shift=args.shift / args.spacing,
        noise=args.noise,
    )
    return _name(mask_path), simulate(image, mask, rng, simulation)


def _name(path):
    """A file's name without its suffix; those of BraTS 2015 hold dots."""
    suffix = next(s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(s))
    return path.name.removesuffix(suffix)


def _volumes(args):
    """The chosen volumes, (image or None, mask) paths."""
    if args.collection:
        pairs = find_pairs(args.collection)
    else:
        masks = sorted(
            p for p in args.masks.iterdir() if p.name[0] != "." and p.name.endswith(SUFFIXES)
        )
        pairs = [(None, mask) for mask in masks]
    wanted = args.train + args.test
    if len(pairs) < wanted:
        raise SystemExit(
            f"expected {args.train} volumes to train on and {args.test} to test on, found "
            f"{len(pairs)}; lower --train and --test"
        )
    return pairs[:wanted]
