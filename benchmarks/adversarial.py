# SPDX-License-Identifier: MIT
"""What the adversarial loss does, in kind (Delannoy et al. 2020, Table 7).

    python benchmarks/adversarial.py --data FOLDER --folder RUN [--epochs 10]

Two trainings of the same data, seed, starting weights and length, with `--lambadv` 0.001 and 0, go
on from the bundled weights on the fetal templates of FOLDER (`train_weights.py` says which are
left out). Then both, and the weights they started from, are scored on the left-out templates,
slices 4 times thicker: PSNR, SSIM, Dice, connected components.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from score_weights import RATIO, cases, held_out, score
from train_weights import FETAL_CORTEX

ARMS = {"without adversarial loss": "0", "with adversarial loss": "0.001"}
SCORES = ("psnr", "ssim", "dice", "components")


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--stride", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="writes OUTPUT.json")
    return parser


def write_table(data, folder):
    """The CSV of the trainings; labels of the cortex alone, made from the templates' labels."""
    from segsrgan import read_volume, write_volume

    left_out = held_out((data / "fetal_templates").glob("*_T2w.nii.gz"))
    lines = ["HR_image,Label_image,Base"]
    for path in sorted((data / "fetal_templates").glob("*_T2w.nii.gz")):
        labels = read_volume(str(path).replace("_T2w", "_labels"))
        cortex = (labels.array == FETAL_CORTEX[0]).astype("float32")
        target = folder / path.name.replace("_T2w", "_cortex")
        write_volume(labels.with_array(cortex), target)
        lines.append(
            f"{path.resolve()},{target.resolve()},{'Test' if path in left_out else 'Train'}"
        )
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"


def train(args, table, arm, lambadv, weights):
    """Runs one training through its command; returns its weights and seconds."""
    from segsrgan.SegSRGAN_training import main

    folder = args.folder / arm.replace(" ", "_")
    thick = "0.8 0.8 3.2".split()  # the templates' 0.8 mm, and RATIO times it
    flags = ["--csv", table, "--new_low_res", *thick, "--snapshot_folder", folder]
    flags += ["--dice_file", folder / "dice.csv", "--mse_file", folder / "mse.csv"]
    flags += ["--weights", weights, "--epoch", args.epochs, "--batch_size", args.batch_size]
    flags += ["--stride", args.stride, "--precision", args.precision, "--seed", args.seed]
    flags += ["--contrast_max", "0.3", "--lambadv", lambadv]
    start = time.perf_counter()
    if main([str(flag) for flag in flags]):
        sys.exit(f"the training {arm} failed")
    return folder / f"SegSRGAN_epoch_{args.epochs}", time.perf_counter() - start


def evaluate(weights, data):
    """The scores of weights on each left-out template."""
    from segsrgan import Predictor

    predictor = Predictor(weights)
    return [
        {"name": name, **score(predictor, *volumes, 128, 64)}
        for group, name, *volumes in cases(data)
        if group == "fetal T2"
    ]


def table(report):
    """The report as Markdown."""
    lines = ["| | PSNR, dB | SSIM | Dice | components |", "|---|---|---|---|---|"]
    for arm, rows in report["arms"].items():
        cells = []
        for key, digits in zip(SCORES, (2, 4, 3, 1), strict=True):
            values = [row[key] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    args = parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segsrgan.networks import default_weights

    args.folder.mkdir(parents=True, exist_ok=True)
    csv = write_table(args.data, args.folder)
    start = default_weights()
    report = {"ratio": RATIO, "seconds": {}, "arms": {}}
    report |= {key: getattr(args, key) for key in ("epochs", "stride", "batch_size", "precision")}
    report["arms"]["start"] = evaluate(start, args.data)
    for arm, lambadv in ARMS.items():
        weights, seconds = train(args, csv, arm, lambadv, start)
        report["seconds"][arm] = round(seconds)
        report["arms"][arm] = evaluate(weights, args.data)
        print(table(report), flush=True)
    if args.output:
        args.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
