# SPDX-License-Identifier: MIT
"""The SegSRGAN paper's tables and figures in kind, on volumes left out of training.

    python benchmarks/paper_tables.py steps --data FOLDER
    python benchmarks/paper_tables.py robustness --data FOLDER --runs RUNS
    python benchmarks/paper_tables.py pipelines --data FOLDER --runs RUNS

steps: the bundled weights with several patches and steps: time, Dice, PSNR, SSIM, components
(Figures 6 to 8, Tables 2 to 5). robustness: noise and contrast at the test, networks trained with
and without that augmentation (Figures 9 to 12). pipelines: one network for both tasks against
cubic splines, and against super-resolution followed by a segmentation network (Tables 8 to 10).
The last two train what they compare, in RUNS, on the fetal templates alone: same seed, network,
length. Everything is measured on the left-out fetal templates, slices 4 times thicker. Each writes
`docs/tables_<name>.json` and `.md`, and a plot to `docs/images`.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from score_weights import RATIO, acquire, cases, measure
from train_weights import IMAGE_WEIGHT, INTERP, SLICE_VOXELS, fit, load, loss_of

DOCS = Path(__file__).parent.parent / "docs"
PAIRS = {128: (30, 80, 128), 64: (20, 40, 64)}
NOISES = (0.0, 0.01, 0.03, 0.05, 0.08)
POWERS = (0.4, 0.6, 1.0, 1.5, 2.0)
SCORES = {"psnr": 2, "ssim": 4, "dice": 3, "components": 1}


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("steps", "robustness", "pipelines"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--runs", type=Path, help="folder of the trainings")
    parser.add_argument("--kernel", type=int, default=8)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--output", type=Path, default=DOCS, help="folder, by default docs")
    return parser


def fetal(data):
    """The left-out templates: a list of (name, truth, cortex, brain)."""
    return [case[1:] for case in cases(data) if case[0] == "fetal T2"]


def mean_scores(rows):
    """{score: [mean, sd]} over cases."""
    return {
        key: [statistics.mean(column), statistics.stdev(column) if len(column) > 1 else 0.0]
        for key in rows[0]
        for column in [[float(row[key]) for row in rows]]
    }


def train(args, name, augmented=True, image=IMAGE_WEIGHT, cortex=0.3, on_high_resolution=False):
    """The weights of one arm, trained unless they are there; (predictor, seconds)."""
    import keras

    from segsrgan import Predictor
    from segsrgan.networks import GeneratorSpec, build_generator
    from segsrgan.training.sources import Acquisition, ImageSource

    epochs = max(1, args.updates // 100)
    folder = args.runs / name.replace(" ", "_")
    snapshot = folder / f"SegSRGAN_epoch_{epochs}"
    start = time.perf_counter()
    if not snapshot.exists():
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy("mixed_bfloat16")
        noise = 0.03 if augmented and not on_high_resolution else 0.0
        # A ratio of 1 is no degradation: the input is the high-resolution image itself.
        ratio = (1.0, 1.0) if on_high_resolution else (RATIO, RATIO)
        how = {
            "power": (0.5, 1.5) if augmented else (1.0, 1.0),
            "invert": 0.0,
            "acquisition": Acquisition(ratio, (1.0, 1.0), (1.0, 1.0), noise, INTERP, SLICE_VOXELS),
        }
        training, held_out = (
            (ImageSource(tuple(sets[0]), args.patch, **how),) for sets in load(args.data)
        )
        told = {"interp": INTERP, "slice_voxels": SLICE_VOXELS}
        spec = GeneratorSpec(args.kernel, unet=True, scaled=True, head=3, **told)
        generator = build_generator(spec, (args.patch,) * 3, head_initializer="zeros")
        settings = SimpleNamespace(
            folder=folder, batch_size=2, epochs=epochs, steps=100, lrgen=2e-3, seed=0
        )
        fit(generator, training, held_out, loss_of(image, cortex, cortex), settings, (1.0,))
        keras.config.set_dtype_policy("float32")
    return Predictor(str(snapshot)), time.perf_counter() - start


def steps(args):
    """Rows: patch, step, patches' seconds, scores."""
    from segsrgan import Predictor

    predictor, volumes, rows = Predictor(args.weights), fetal(args.data), []
    for patch, strides in PAIRS.items():
        for stride in reversed(strides):
            scores = []
            for index, (_, truth, cortex, brain) in enumerate(volumes):
                truth, low = acquire(truth, brain)
                if index == 0 and stride == strides[-1]:  # traces the network
                    predictor.predict(low, patch, stride, truth.spacing)
                start = time.perf_counter()
                result = predictor.predict(low, patch, stride, truth.spacing)
                seconds = time.perf_counter() - start
                scores.append({"seconds": seconds, **measure(truth, result, cortex, brain)})
            rows.append({"patch": patch, "step": stride, **mean_scores(scores)})
            print(rows[-1], flush=True)
    return {"rows": rows}


def robustness(args):
    """Rows: network, condition, scores."""
    arms = {
        "with augmentation": train(args, "joint"),
        "without": train(args, "without augmentation", augmented=False),
    }
    rows = []
    for arm, (predictor, _) in arms.items():
        for kind, values in (("noise", NOISES), ("power", POWERS)):
            for value in values:
                scores = []
                for number, (_, truth, cortex, brain) in enumerate(fetal(args.data)):
                    truth, low = changed(truth, kind, value, number)
                    result = predictor.predict(low, 128, 64, truth.spacing)
                    scores.append(measure(truth, result, cortex, brain))
                rows.append({"network": arm, kind: value, **mean_scores(scores)})
                print(rows[-1], flush=True)
    return {"rows": rows, "updates": args.updates}


def changed(truth, kind, value, seed):
    """A volume and its acquisition with noise of a share of the maximum, or another contrast."""
    from segsrgan.training.simulate import add_noise, change_contrast
    from segsrgan.volumes import degrade

    if kind == "power":
        truth = truth.with_array(change_contrast(truth.array, value))
    low = degrade(truth, tuple(np.array(truth.spacing) * (1, 1, RATIO)))
    if kind == "noise":
        low = low.with_array(add_noise(low.array, value, np.random.default_rng(seed)))
    return truth, low


def pipelines(args):
    """Rows: method, scores."""
    from segsrgan.volumes import resample_to

    joint = train(args, "joint")[0]
    image = train(args, "image alone", cortex=0.0)[0]
    segmentation = train(args, "segmentation", image=0.0, on_high_resolution=True)[0]
    found = {"cubic spline, then segmentation": [], "two networks": [], "one network": []}
    for _, truth, cortex, brain in fetal(args.data):
        truth, low = acquire(truth, brain)

        def then_segmented(volume, truth=truth, cortex=cortex, brain=brain):
            result = segmentation.predict(volume, 128, 64, truth.spacing)
            scores = measure(truth, result, cortex, brain)
            own = measure(
                truth, SimpleNamespace(sr=volume, cortex_mask=result.cortex_mask), cortex, brain
            )
            return {**scores, "psnr": own["psnr"], "ssim": own["ssim"]}

        spline = resample_to(low, truth.grid)
        found["cubic spline, then segmentation"].append(then_segmented(spline))
        found["two networks"].append(then_segmented(image.predict(low, 128, 64, truth.spacing).sr))
        result = joint.predict(low, 128, 64, truth.spacing)
        found["one network"].append(measure(truth, result, cortex, brain))
    rows = [{"method": name, **mean_scores(scores)} for name, scores in found.items()]
    return {"rows": rows, "updates": args.updates}


def markdown(rows):
    """Rows as a table."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = []
        for name in names:
            value = row.get(name, "")
            if isinstance(value, list):
                digits = SCORES.get(name, 1)
                value = f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"
            cells.append(str(value))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(report, path):
    """Scores against the step, the noise or the contrast; a line per patch or network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = report["rows"]
    line = "patch" if "step" in rows[0] else "network"
    inputs = [name for name in ("step", "noise", "power") if any(name in row for row in rows)]
    scores = [key for key in ("seconds", *SCORES) if key in rows[0]]
    figure, axes = plt.subplots(
        len(inputs), len(scores), figsize=(3.2 * len(scores), 2.8 * len(inputs)), squeeze=False
    )
    for across, name in zip(axes, inputs, strict=True):
        for axis, score in zip(across, scores, strict=True):
            for label in dict.fromkeys(row[line] for row in rows):
                points = [(r[name], *r[score]) for r in rows if r[line] == label and name in r]
                x, mean, spread = zip(*sorted(points), strict=True)
                axis.errorbar(x, mean, spread, marker="o", capsize=2, label=f"{label}")
            axis.set(xlabel=name, ylabel=score)
    axes[0, 0].legend(title=line if line == "patch" else None, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main(argv=None):
    args = parser().parse_args(argv)
    if args.table != "steps" and args.runs is None:
        parser().error(f"{args.table} trains networks: name a folder for them with --runs")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    report = {"steps": steps, "robustness": robustness, "pipelines": pipelines}[args.table](args)
    print(markdown(report["rows"]))
    stem = args.output / f"tables_{args.table}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(report["rows"]) + "\n")
    if args.table != "pipelines":
        (args.output / "images").mkdir(exist_ok=True)
        plot(report, args.output / "images" / f"tables_{args.table}.png")


if __name__ == "__main__":
    main()
