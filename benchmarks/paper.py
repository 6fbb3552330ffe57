# SPDX-License-Identifier: MIT
"""The SegSRGAN paper's tables and figures, qualitatively, on fetal templates left out of training.

steps        the bundled weights with several patches and steps: time, Dice, PSNR, SSIM, components
             (Figures 6 to 8, Tables 2 to 5).
robustness   noise and contrast at the test, networks trained with and without that augmentation
             (Figures 9 to 12).
pipelines    one network for both tasks against cubic splines, and against super-resolution followed
             by a segmentation network (Tables 8 to 10).
adversarial  two trainings that go on from the bundled weights, with and without the adversarial
             loss (Table 7).

Everything is measured with slices 4 times thicker. All but the first train what they compare by
SegSRGAN_training.py, in --runs, on the other templates: same seed, network and length; what is
trained there already is used again. --data is the folder that the benchmark weights reads.
"""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.common import HERE, markdown, mean_and_deviation
from benchmarks.weights import RATIO, acquire, fetal_cases, measure, predicted, score
from segsrgan import Predictor
from segsrgan.networks import default_weights
from segsrgan.training.degradation import change_contrast
from segsrgan.volumes import resample_to

PAIRS = {128: (30, 80, 128), 64: (20, 40, 64)}
CHANGES = {"noise": (0.0, 0.01, 0.03, 0.05, 0.08), "power": (0.4, 0.6, 1.0, 1.5, 2.0)}
THICK = f"--new_low_res 0.8 0.8 {0.8 * RATIO}"  # the templates have 0.8 mm
# A small U-Net from scratch, its image first of all, as the bundled weights began.
SCRATCH = """--u_net_generator True --kernel_gen 8 --head_gen 3 --scaled_residual True
    --zero_head True --patch_size 48 --batch_size 2 --steps 100 --schedule cosine --warm_up 60
    --lrgen 2e-3 --beta_1 0.9 --clip_gradient 1 --lambadv 0 --reconstruction_loss balanced
    --nu 1.5 --lambda_image 8 --lambda_entropy 0.3 --lambda_dice 0.3
    --precision mixed_bfloat16"""
JOINT = f"{THICK} {SCRATCH} --interp profile --slice_voxels 4"
DIGITS = {"seconds": 1, "psnr": 2, "ssim": 4, "dice": 3, "components": 1}


def add_arguments(parser):
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="folder of the trainings")
    parser.add_argument("--weights", help="of the steps: name or file (default: the bundled)")
    parser.add_argument("--epochs", type=int, default=6, help="of 100 updates (default: 6)")


def run(args, save):
    if args.table != "steps" and args.runs is None:
        sys.exit(f"{args.table} trains networks: name a folder for them with --runs")
    rows = []
    for row, scores in TABLES[args.table](args):
        # Means and deviations over the cases.
        keys = [key for key, value in scores[0].items() if not isinstance(value, str)]
        rows.append({**row, **{k: mean_and_deviation([float(s[k]) for s in scores]) for k in keys}})
        print(tables({"rows": rows[-1:]}).splitlines()[-1], file=sys.stderr, flush=True)
        save({"epochs": args.epochs, "rows": rows})
    return {"epochs": args.epochs, "rows": rows}


def steps(args):
    """Yields ({patch, step}, scores of each case)."""
    predictor, volumes = Predictor(args.weights), list(fetal_cases(args.data))
    for patch, strides in PAIRS.items():
        for stride in reversed(strides):
            scores = []
            for _, truth, cortex, brain in volumes:
                truth, low = acquire(truth, brain)
                if not scores:  # the first patch of a size compiles the network
                    predictor.predict(low, patch, patch, truth.spacing)
                start = time.perf_counter()
                found = predicted(predictor, low, truth, cortex, brain, patch, stride)
                scores.append({"seconds": time.perf_counter() - start, **found})
            yield {"patch": patch, "step": stride}, scores


def robustness(args):
    """Yields ({network, noise or power}, scores of each case)."""
    plain = f"{JOINT} --contrast_max 0 --percent_val_max 0"
    arms = {"with augmentation": ("joint", JOINT), "without": ("without augmentation", plain)}
    for arm, (name, flags) in arms.items():
        predictor = Predictor(train(args, name, flags))
        for kind, values in CHANGES.items():
            for value in values:
                scores = []
                for number, (_, truth, cortex, brain) in enumerate(fetal_cases(args.data)):
                    change = {"noise": value, "seed": number}
                    if kind == "power":
                        change = {"change": partial(change_contrast, power=value)}
                    truth, low = acquire(truth, brain, **change)
                    scores.append(predicted(predictor, low, truth, cortex, brain))
                yield {"network": arm, kind: value}, scores


def pipelines(args):
    """Yields ({method}, scores of each case)."""
    joint = Predictor(train(args, "joint", JOINT))
    alone = f"{JOINT} --lambda_entropy 0 --lambda_dice 0"
    image = Predictor(train(args, "image alone", alone))
    # The images themselves, undegraded, to the cortex.
    sharp = f"--new_low_res 0.8 0.8 0.8 {SCRATCH} --lambda_image 0 --percent_val_max 0"
    segmentation = Predictor(train(args, "segmentation", sharp))
    found = {"cubic spline, then segmentation": [], "two networks": [], "one network": []}
    for _, truth, cortex, brain in fetal_cases(args.data):
        truth, low = acquire(truth, brain)
        images = {
            "cubic spline, then segmentation": resample_to(low, truth.grid),
            "two networks": image.predict(low, 128, 64, truth.spacing).sr,
        }
        for method, volume in images.items():
            mask = segmentation.predict(volume, 128, 64, truth.spacing).cortex_mask.array
            found[method].append(measure(truth, volume.array, mask, cortex, brain))
        found["one network"].append(predicted(joint, low, truth, cortex, brain))
    for method, scores in found.items():
        yield {"method": method}, scores


def adversarial(args):
    """Yields ({training}, scores of each case)."""
    flags = f"{THICK} --weights {default_weights()} --batch_size 4 --stride 40 --contrast_max 0.3"
    arms = {"their beginning": default_weights()}
    for arm, weight in (("without adversarial loss", 0), ("with adversarial loss", 0.001)):
        arms[arm] = train(args, arm, f"{flags} --lambadv {weight} --precision mixed_bfloat16")
    for arm, weights in arms.items():
        predictor = Predictor(str(weights))
        scores = [score(predictor, *volumes) for _, *volumes in fetal_cases(args.data)]
        yield {"training": arm}, scores


TABLES = {table.__name__: table for table in (steps, robustness, pipelines, adversarial)}


def train(args, name, flags):
    """The weights of an arm, trained by flags of the command unless they are there."""
    folder = args.runs / name.replace(" ", "_")
    last = folder / f"SegSRGAN_epoch_{args.epochs}"
    if not last.exists():
        command = [sys.executable, "-m", "segsrgan.SegSRGAN_training"]
        command += ["--csv", HERE.parent / "weights/recipes/images.csv", "--label_values", "5"]
        command += ["--base_path", args.data, "--snapshot_folder", folder]
        command += ["--dice_file", folder / "dice.csv", "--mse_file", folder / "mse.csv"]
        command += ["--epoch", args.epochs, *flags.split()]
        if subprocess.run(list(map(str, command))).returncode:
            sys.exit(f"the training {name!r} failed")
    return last


def tables(report):
    def cell(value, name):
        if isinstance(value, (list, tuple)):
            return "{:.{d}f} ± {:.{d}f}".format(*value, d=DIGITS.get(name, 2))
        return value

    names = list(dict.fromkeys(key for row in report["rows"] for key in row))
    return markdown(names, [[cell(row.get(n, ""), n) for n in names] for row in report["rows"]])
