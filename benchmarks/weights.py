# SPDX-License-Identifier: MIT
"""Scores weights on volumes that their training never saw, beside cubic spline interpolation.

Left-out fetal templates (real T2 contrast), nilearn's T1 template, and left-out adult label maps
painted with random contrast, with --infants real infants, whose cortex nobody drew; slices 4 times
thicker, without noise, along the third axis. With --conditions all also along the others, 2, 3 and
6 times thicker, with the intensities turned over, squared and square-rooted, with 1 and 3 % noise,
with a box for the profile, and with slices half as thick as their distance, of which the predictor
does not know ("gaps") or does ("gaps known"), or told a thickness 25 % off. --settings compares
settings of the predictor, such as "consistency=off" "flips=8", on the same images in turns. PSNR
(peak: the reference's maximum) and SSIM (7^3 windows) inside the brain; Dice and connected
components of the thresholded cortex. Reference of the cortex: the labels, for the T1 template the
grey-matter map above 0.5, which also holds cerebellum and deep grey matter. --data is a folder with
fetal_templates/ (*_T2w.nii.gz and *_labels.nii.gz, cortex = 5), adult_labels/ (FreeSurfer's
numbers) and infants/ (*_T1w.nii.gz, *_T2w.nii.gz).
"""

import sys
import time
from copy import copy
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import markdown
from segsrgan import Predictor, Volume, read_volume
from segsrgan.training.degradation import add_noise
from segsrgan.training.painting import paint, prepare_labels
from segsrgan.volumes import connected_components, degrade, dice, psnr, resample_to, ssim

# Left out of every training on this data.
HELD_OUT = ("GA25_operated", "GA28", "GA32", "seg_18", "seg_19", "seg_20", "month06")
FETAL_CORTEX, ADULT_CORTEX = (5,), (3, 42)
RATIO = 4
RAS = np.diag([-1.0, -1.0, 1.0])  # of nilearn's arrays
# name -> arguments of `acquire`; the predictor is `told` a thickness, over the slices' distance
CONDITIONS = {
    "z": {},
    "x": {"axis": 0},
    "y": {"axis": 1},
    "2 times": {"ratio": 2},
    "3 times": {"ratio": 3},
    "6 times": {"ratio": 6},
    "inverted": {"change": lambda image: 1.05 - image},
    "squared": {"change": np.square},
    "square root": {"change": np.sqrt},
    "noise 1 %": {"noise": 0.01},
    "noise 3 %": {"noise": 0.03},
    "box": {"profile": "box"},
    "gaps": {"thickness": 0.5},
    "gaps known": {"thickness": 0.5, "told": 0.5},
    "told too wide": {"told": 1.25},
    "told too narrow": {"told": 0.75},
}


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--conditions", default="z", help="all, or some by comma (default: z)")
    parser.add_argument("--infants", action="store_true", help="real infants, too")
    parser.add_argument(
        "--settings", nargs="+", default=[""], help="of the predictor, name=value by comma each"
    )


def run(args, save):
    predictor, rows, report = Predictor(args.weights), [], {}
    variants = {text: _settings(text) for text in args.settings}
    conditions = CONDITIONS if args.conditions == "all" else args.conditions.split(",")
    for group, name, *volumes in [*cases(args.data), *(infants(args.data) if args.infants else [])]:
        for condition, (variant, settings) in product(conditions, variants.items()):
            scores = score(predictor, *volumes, args.patch, args.step, condition, settings)
            scores = {key: float(value) for key, value in scores.items()}
            case = {"set": group, "name": name, "condition": condition}
            rows.append(case | {"settings": variant} | scores)
            print(*rows[-1].values(), file=sys.stderr, flush=True)
            report = {"mean": means(rows), "cases": rows}
            save(report)
    return report


def _settings(text):
    """The settings in a text such as "flips=8,consistency=off", a dict."""
    pairs = dict(item.split("=") for item in text.split(",") if item)
    return {name: int(value) if value.isdigit() else value for name, value in pairs.items()}


def infants(folder, left_out=True):
    """Yields real infants as `cases` does, without a cortex; those of trainings, too, if asked."""
    for path in sorted((folder / "infants").glob("*w.nii.gz")):
        if left_out and not any(name in path.name for name in HELD_OUT):
            continue
        volume = read_volume(path)
        brain = volume.array > 0
        box = tuple(slice(p.min(), p.max() + 1) for p in brain.nonzero())
        part = Volume(volume.array[box], volume.spacing, direction=volume.direction)
        yield "infants", path.name[:-7], part, None, brain[box]


def fetal_cases(folder):
    """Yields (name, truth Volume, cortex, brain) of the left-out templates, see `cases`."""
    for path in sorted((folder / "fetal_templates").glob("*_T2w.nii.gz")):
        if any(name in path.name for name in HELD_OUT):
            truth = read_volume(path)
            labels = read_volume(path.with_name(path.name.replace("_T2w", "_labels"))).array
            yield path.name[:-11], truth, np.isin(labels, FETAL_CORTEX), truth.array > 0


def adult_template(box=...):
    """(truth Volume, cortex, brain) of nilearn's T1 template, see `cases`."""
    from nilearn import datasets

    images = (datasets.load_mni152_template, datasets.load_mni152_gm_template)
    t1, grey = (load(resolution=1).get_fdata(dtype="float32")[box] for load in images)
    return Volume(t1, (1.0, 1.0, 1.0), direction=RAS), grey > 0.5, t1 > 0


def cases(folder):
    """Yields (set, name, truth Volume, cortex, brain): bool arrays on the truth's grid."""
    for case in fetal_cases(folder):
        yield "fetal T2", *case
    yield "adult T1", "MNI152", *adult_template()
    for path in sorted((folder / "adult_labels").glob("*.nii.gz")):
        if not any(name in path.name for name in HELD_OUT):
            continue
        truth, labels, brain = painted_brain(path, np.random.default_rng(20))
        yield "adult, painted", path.name[:-7], truth, np.isin(labels, ADULT_CORTEX), brain


def painted_brain(path, rng, typical=0.0):
    """(image Volume, label map's values, brain): a brain alone, painted on FreeSurfer's numbers.

    Cut to the brain and a little around it; for `typical` see `paint`.
    """
    volume = read_volume(path)
    label_map = prepare_labels(volume.array, ADULT_CORTEX)
    brain = label_map.brain[label_map.labels]
    low, high = np.argwhere(brain).min(0) - 4, np.argwhere(brain).max(0) + 5
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    image = paint(label_map.labels[box], label_map, rng, typical=typical)[0]
    painted = Volume(image, volume.spacing, direction=volume.direction)
    return painted, volume.array[box], brain[box]


def acquire(
    truth,
    brain,
    axis=2,
    change=None,
    noise=0.0,
    thickness=1.0,
    profile="gaussian",
    ratio=RATIO,
    seed=0,
):
    """`(truth, low)`: a volume with changed intensities, and its thick slices.

    The change is a function of intensities in [0, 1], the noise a fraction of the largest, the
    thickness the profile's, see `degrade`, over the slices' distance.
    """
    array = np.clip(truth.array / truth.array.max(), 0, None)
    # Turned over, the background would be the brightest: it stays dark.
    if change is not None:
        array = np.where(brain | (array > 0), change(array), 0)
    truth = truth.with_array(array.astype(np.float32))
    spacing = np.array(truth.spacing)
    spacing[axis] *= ratio
    low = degrade(truth, tuple(spacing), tuple(thickness * spacing), profile)
    return truth, low.with_array(add_noise(low.array, noise, np.random.default_rng(seed)))


def measure(truth, image, segmentation, cortex, brain):
    """The scores of a result, arrays that may be longer than the truth, a dict."""
    window = tuple(slice(0, n) for n in truth.array.shape)
    image, found = image[window], segmentation[window] > 0
    scores = {"psnr": psnr(truth.array, image, brain), "ssim": ssim(truth.array, image, brain)}
    if cortex is None:
        return scores | {"dice": np.nan, "components": connected_components(found)}
    return scores | {"dice": dice(found, cortex), "components": connected_components(found)}


def predicted(predictor, low, truth, cortex, brain, patch=128, step=64):
    """The scores of what a predictor makes of an acquisition, a dict."""
    start = time.perf_counter()
    result = predictor.predict(low, patch, step, truth.spacing)
    seconds = {"seconds": time.perf_counter() - start}
    return measure(truth, result.sr.array, result.cortex_mask.array, cortex, brain) | seconds


def score(predictor, truth, cortex, brain, patch=128, step=64, condition="z", settings=None):
    """The scores of one case under a condition, those of the spline beside them, a dict."""
    condition, settings = dict(CONDITIONS[condition]), dict(settings or {})
    told = condition.pop("told", None)
    truth, low = acquire(truth, brain, **condition)
    spline = resample_to(low, truth.grid).array
    if told is not None:
        settings["thickness"] = told * max(low.spacing)
    predictor = copy(predictor)
    predictor.settings = replace(predictor.settings, **settings)
    return {
        "psnr_spline": psnr(truth.array, spline, brain),
        "ssim_spline": ssim(truth.array, spline, brain),
        **predicted(predictor, low, truth, cortex, brain, patch, step),
    }


def means(rows):
    """{set: {condition and settings: mean scores}}."""
    table = pd.DataFrame(rows)
    table["condition"] += (" " + table["settings"]).str.rstrip()
    means = table.groupby(["set", "condition"], sort=False).mean(numeric_only=True)
    sets = means.groupby(level=0, sort=False)
    return {name: found.droplevel(0).T.to_dict() for name, found in sets}


def tables(report):
    lines = []
    for group, conditions in report["mean"].items():
        for name, row in conditions.items():
            cells = [f"{row['psnr']:.2f}", f"{row['psnr'] - row['psnr_spline']:+.2f}"]
            cells += [f"{row['ssim']:.3f}", f"{row['ssim'] - row['ssim_spline']:+.3f}"]
            dice = f"{row['dice']:.3f}" if row["dice"] == row["dice"] else "-"
            lines.append([group, name, *cells, dice, f"{row['components']:.0f}"])
    heads = ["set", "condition", "PSNR, dB", "gain", "SSIM", "gain", "Dice", "components"]
    return markdown(heads, lines)
