# SPDX-License-Identifier: MIT
"""Scores weights on volumes that their training never saw, beside cubic spline interpolation.

    python benchmarks/score_weights.py --data FOLDER [--weights NAME] [--conditions all] \
        [--output FILE.json]

Left-out fetal templates (real T2 contrast), nilearn's T1 template, and left-out adult label maps
painted with random contrast; slices 4 times thicker, without noise, along the third axis. With
`--conditions all` also along the others, with the intensities turned over, squared and
square-rooted, and with 3 % noise. PSNR (peak: the reference's maximum) and SSIM (7^3 windows)
inside the brain; Dice and connected components of the thresholded cortex. Reference of the cortex:
the labels, for the T1 template the grey-matter map above 0.5, which also holds cerebellum and deep
grey matter.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from train_weights import ADULT_CORTEX, FETAL_CORTEX, HELD_OUT

RATIO = 4
# name -> (thick axis, change of the intensities in [0, 1], noise of the largest value)
CONDITIONS = {
    "z": (2, lambda image: image, 0.0),
    "x": (0, lambda image: image, 0.0),
    "y": (1, lambda image: image, 0.0),
    "inverted": (2, lambda image: 1.05 - image, 0.0),
    "squared": (2, np.square, 0.0),
    "square root": (2, np.sqrt, 0.0),
    "noise 3 %": (2, lambda image: image, 0.03),
}


def held_out(paths):
    return [path for path in sorted(paths) if any(name in path.name for name in HELD_OUT)]


def cases(folder):
    """Yields (set, name, truth Volume, cortex, brain): bool arrays on the truth's grid."""
    from nilearn import datasets

    from segsrgan import Volume, read_volume
    from segsrgan.training.synthesis import paint, prepare_labels

    for path in held_out((folder / "fetal_templates").glob("*_T2w.nii.gz")):
        truth = read_volume(path)
        labels = read_volume(str(path).replace("_T2w", "_labels")).array
        yield "fetal T2", path.name[:-11], truth, np.isin(labels, FETAL_CORTEX), truth.array > 0
    images = (datasets.load_mni152_template, datasets.load_mni152_gm_template)
    t1, grey = (load(resolution=1).get_fdata(dtype="float32") for load in images)
    yield "adult T1", "MNI152", Volume(t1, (1.0, 1.0, 1.0)), grey > 0.5, t1 > 0
    for path in held_out((folder / "adult_labels").glob("*.nii.gz")):
        volume = read_volume(path)
        label_map = prepare_labels(volume.array, ADULT_CORTEX)
        brain = label_map.brain[label_map.labels]
        low, high = np.argwhere(brain).min(0) - 4, np.argwhere(brain).max(0) + 5
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        image = paint(label_map.labels[box], label_map, np.random.default_rng(20), strip=True)
        cortex = np.isin(label_map.labels[box], label_map.cortex)
        yield "adult, painted", path.name[:-7], Volume(image, volume.spacing), cortex, brain[box]


def acquire(truth, brain, condition="z", ratio=RATIO):
    """What a condition makes of a volume.

    Returns:
        `(truth, low)`: the volume with the condition's intensities, and its acquisition with thick
        slices.
    """
    from segsrgan.training.simulate import add_noise
    from segsrgan.volumes import degrade

    axis, change, noise = CONDITIONS[condition]
    array = np.clip(truth.array / truth.array.max(), 0, None)
    # Turned over, the background would be the brightest: it stays dark.
    changed = np.where(brain | (array > 0), change(array), 0)
    truth = truth.with_array(changed.astype(np.float32))
    spacing = np.array(truth.spacing)
    spacing[axis] *= ratio
    low = degrade(truth, tuple(spacing))
    return truth, low.with_array(add_noise(low.array, noise, np.random.default_rng(0)))


def measure(truth, result, cortex, brain):
    """The scores of a `Prediction` against a volume and its cortex, a dict."""
    from segsrgan.volumes import connected_components, dice, psnr, ssim

    window = tuple(slice(0, n) for n in truth.array.shape)
    sr, found = result.sr.array[window], result.cortex_mask.array[window] > 0
    return {
        "psnr": psnr(truth.array, sr, brain),
        "ssim": ssim(truth.array, sr, brain),
        "dice": dice(found, cortex),
        "components": connected_components(found),
    }


def score(predictor, truth, cortex, brain, patch, step, condition="z"):
    """The scores of one case under a condition, those of the spline beside them, a dict."""
    from segsrgan.volumes import psnr, resample_to, ssim

    truth, low = acquire(truth, brain, condition)
    spline = resample_to(low, truth.grid).array
    result = predictor.predict(low, patch, step, truth.spacing)
    return {
        "psnr_spline": psnr(truth.array, spline, brain),
        "ssim_spline": ssim(truth.array, spline, brain),
        **measure(truth, result, cortex, brain),
    }


def means_of(rows, key):
    """The mean scores of the rows that agree in `key`, a dict of dicts."""
    groups = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return {
        name: {
            score: float(np.mean([row[score] for row in group]))
            for score in group[0]
            if isinstance(group[0][score], float)
        }
        for name, group in groups.items()
    }


def table(means):
    """Means, {set: {condition: scores}}, as Markdown."""
    lines = [
        "| set | condition | PSNR, dB | gain | SSIM | gain | Dice | components |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, conditions in means.items():
        for name, row in conditions.items():
            gains = (row["psnr"] - row["psnr_spline"], row["ssim"] - row["ssim_spline"])
            lines.append(
                f"| {group} | {name} | {row['psnr']:.2f} | {gains[0]:+.2f} | {row['ssim']:.3f} | "
                f"{gains[1]:+.3f} | {row['dice']:.3f} | {row['components']:.0f} |"
            )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--conditions", default="z", help=f"all, or of: {', '.join(CONDITIONS)}")
    parser.add_argument("--output", type=Path, help="FILE.json; the table goes to FILE.md")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segsrgan import Predictor

    predictor = Predictor(args.weights)
    conditions = CONDITIONS if args.conditions == "all" else args.conditions.split(",")
    rows = []
    for group, name, *volumes in cases(args.data):
        for condition in conditions:
            scores = score(predictor, *volumes, args.patch, args.step, condition)
            scores = {key: float(value) for key, value in scores.items()}
            rows.append({"set": group, "name": name, "condition": condition, **scores})
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()), flush=1)
    groups = dict.fromkeys(row["set"] for row in rows)
    means = {g: means_of([row for row in rows if row["set"] == g], "condition") for g in groups}
    print(table(means))
    if args.output:
        args.output.write_text(json.dumps({"mean": means, "cases": rows}, indent=2) + "\n")
        args.output.with_suffix(".md").write_text(table(means) + "\n")


if __name__ == "__main__":
    main()
