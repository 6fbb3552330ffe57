# SPDX-License-Identifier: MIT
"""Puts a snapshot among the weights that ship, and makes it the default.

    python benchmarks/ship_weights.py RUN/SegSRGAN_epoch_40 NAME --scores scores.json

`scores.json` is what `score_weights.py --output` wrote. The card in weights/README.md is written
by hand.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

WEIGHTS = Path(__file__).parent.parent / "weights"
TRAINING = (
    "fetal T2 templates of the spina bifida atlas (weeks 21 to 34), images painted with random "
    "contrast on their label maps and on adult FreeSurfer label maps; weights/recipes"
)
LICENSE = "MIT; data: CC0 (fetal templates), Apache-2.0 (adult label maps)"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("snapshot")
    parser.add_argument("name")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--training", default=TRAINING)
    parser.add_argument("--license", default=LICENSE)
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segsrgan.networks import describe, load_generator, save_generator

    notes = describe(args.snapshot)["metadata"]
    means = json.loads(args.scores.read_text())["mean"]
    scores = {
        name: {key: round(value, 4) for key, value in conditions["z"].items()}
        for name, conditions in means.items()
    }
    path = WEIGHTS / f"{args.name}.h5"
    texts = {"training": args.training, "license": args.license}
    save_generator(load_generator(args.snapshot), path, **notes, **texts, scores=scores)
    enter(
        {"name": args.name, "architecture": describe(path)["generator"], **texts, "scores": scores}
    )


def enter(entry, default=True):
    """Adds weights NAME.h5 of weights/ to the registry, in the place of others of the same name.

    Args:
        entry: `name`, `architecture`, `training`, `license`, `scores`, perhaps `kind`.
        default: whether they are what is taken where no weights are named.
    """
    path = WEIGHTS / f"{entry['name']}.h5"
    known = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    registry = WEIGHTS / "registry.json"
    content = json.loads(registry.read_text()) if registry.exists() else {"weights": []}
    others = [other for other in content["weights"] if other["name"] != entry["name"]]
    weights = [{**entry, **known}, *others] if default else [*others, {**entry, **known}]
    name = entry["name"] if default else content["default"]
    registry.write_text(json.dumps({"default": name, "weights": weights}, indent=2) + "\n")


if __name__ == "__main__":
    main()
