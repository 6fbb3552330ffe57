# SPDX-License-Identifier: MIT
"""Scores weights on volumes that their training never saw, beside cubic spline interpolation.

    python benchmarks/score_weights.py --data FOLDER [--weights NAME] [--output FILE.json]

Left-out fetal templates (real T2 contrast), nilearn's T1 template, and left-out adult label maps
painted with random contrast; slices 4 times thicker along the third axis, without noise. PSNR
(peak: the reference's maximum) and SSIM (7^3 windows) inside the brain; Dice and connected
components of the thresholded cortex. Reference of the cortex: the labels, for the T1 template the
grey-matter map above 0.5, which also holds cerebellum and deep grey matter.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from train_weights import ADULT_CORTEX, FETAL_CORTEX, HELD_OUT

RATIO = 4


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


def score(predictor, truth, cortex, brain, patch, step):
    """The scores of one case, a dict."""
    from segsrgan.volumes import connected_components, degrade, dice, psnr, resample_to, ssim

    spacing = np.array(truth.spacing) * (1, 1, RATIO)
    low = degrade(truth, tuple(spacing))
    spline = resample_to(low, truth.grid).array
    result = predictor.predict(low, patch, step, truth.spacing)
    window = tuple(slice(0, n) for n in truth.array.shape)
    sr, found = result.sr.array[window], result.cortex_mask.array[window] > 0
    return {
        "psnr_spline": psnr(truth.array, spline, brain),
        "psnr": psnr(truth.array, sr, brain),
        "ssim_spline": ssim(truth.array, spline, brain),
        "ssim": ssim(truth.array, sr, brain),
        "dice": dice(found, cortex),
        "components": connected_components(found),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segsrgan import Predictor

    predictor = Predictor(args.weights)
    rows = []
    for group, name, *volumes in cases(args.data):
        scores = score(predictor, *volumes, args.patch, args.step)
        rows.append({"set": group, "name": name, **{k: float(v) for k, v in scores.items()}})
        print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()), flush=True)
    means = {
        group: {
            key: float(np.mean([row[key] for row in rows if row["set"] == group]))
            for key in rows[0]
            if key not in ("set", "name")
        }
        for group in dict.fromkeys(row["set"] for row in rows)
    }
    print(json.dumps(means, indent=2))
    if args.output:
        args.output.write_text(json.dumps({"mean": means, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
