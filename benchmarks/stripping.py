# SPDX-License-Identifier: MIT
"""Dice of the brain that `segsrgan strip` finds with that of volumes left out of its training.

Heads painted on left-out label maps, in random contrast: adults, the same of an infant's size, and
fetal brains in painted surroundings; as they are, with slices 4 times thicker along each axis, with
3 % noise, and of a field of view that ends in the head. Truth: all tissues of the brain and the
fluid around it. Of brains that stand alone (left-out fetal templates, infants, nilearn's T1
template) the Dice of the whole object with what is kept of it. And of the adults' heads, sliced
along z, the cortex and the image in the brain with --strip no and auto, and of the true brain
alone. --data is the folder that the benchmark weights reads.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from benchmarks.common import markdown
from benchmarks.weights import ADULT_CORTEX, FETAL_CORTEX, HELD_OUT, RATIO, cases, infants
from segsrgan import Predictor, Volume, read_volume
from segsrgan.inference.predictor import brain_finder
from segsrgan.inference.stripping import find_brain
from segsrgan.memory import PeakMemory
from segsrgan.training.degradation import add_noise
from segsrgan.training.painting import NUMBERINGS, paint, prepare_labels, surround
from segsrgan.volumes import degrade, dice, psnr
from segsrgan.volumes.comparison import UPRIGHT, reordered

INFANT = 0.65  # of an adult head's size
CONDITIONS = ("as it is", "x", "y", "z", "noise 3 %", "cut")


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="brain", help="name or file (default: brain)")
    parser.add_argument("--contrasts", type=int, default=2, help="of each map (default: 2)")


def run(args, save):
    finder, rows, report = brain_finder(args.weights), [], {}
    for group, name, volume, truth in heads(args.data, args.contrasts):
        for condition in CONDITIONS:
            rows.append(_row(finder, group, name, condition, *acquired(volume, truth, condition)))
    for group, name, volume, _, brain in [*cases(args.data), *infants(args.data, left_out=False)]:
        if "painted" not in group:
            for condition in ("as it is", "z", "noise 3 %"):
                seen = acquired(volume, brain, condition)
                rows.append(_row(finder, f"{group}, alone", name, condition, *seen))
    report = {"mean": means(rows), "cases": rows, "segmented": []}
    save(report)
    for row in segmented(args.data):
        report["segmented"].append(row)
        save(report)
    return report


def segmented(folder):
    """Yields the scores of an adult's head with each choice of `strip`, and of its brain alone."""
    cortex = {}
    for path in (folder / "adult_labels").glob("*.nii.gz"):
        if any(word in path.name for word in HELD_OUT):
            array = reordered(read_volume(path, labels=True), UPRIGHT).array
            cortex[path.name[:-7]] = np.isin(array, ADULT_CORTEX)
    for group, name, head, brain in heads(folder, 1):
        if group != "adult, painted":
            continue
        scan = acquired(head, brain, "z")[0]
        inside = degrade(head.with_array(brain.astype(np.float32)), scan.spacing).array >= 0.5
        alone = scan.with_array(np.where(inside, scan.array, 0))
        for shown, choice in ((scan, "no"), (scan, "auto"), (alone, "auto")):
            result = Predictor(strip=choice).predict(shown, new_resolution=head.spacing)
            result = result.on_grid(head.grid)
            row = {"name": name, "shown": "brain" if shown is alone else "head", "strip": choice}
            row["psnr"] = float(psnr(head.array, result.sr.array, brain))
            truth, found = cortex[name.split()[0]], result.cortex_mask.array > 0
            row["dice"] = float(dice(truth, found))
            row["dice_in_brain"] = float(dice(truth, found & brain))
            print(*row.values(), file=sys.stderr, flush=True)
            yield row


def heads(folder, contrasts):
    """Yields (group, name, head, brain): a `Volume` and a bool array on its grid."""
    paths = [*(folder / "adult_labels").glob("*.nii.gz")]
    paths += (folder / "fetal_templates").glob("*_labels.nii.gz")
    for path in sorted(p for p in paths if any(word in p.name for word in HELD_OUT)):
        is_fetal, name = path.parent.name == "fetal_templates", path.name[:-7]
        volume = reordered(read_volume(path), UPRIGHT)
        if is_fetal:
            volume = Volume(np.pad(volume.array, 30), volume.spacing, direction=volume.direction)
            label_map = prepare_labels(volume.array, FETAL_CORTEX, NUMBERINGS["fetal"])
        else:
            label_map = prepare_labels(volume.array, ADULT_CORTEX)
        for seed in range(contrasts):
            rng, labels = np.random.default_rng(seed), label_map.labels
            if is_fetal:
                labels = surround(labels, label_map.brain, len(label_map.tissue), rng)
            image = paint(labels, label_map, rng, strip=False, typical=0.5)[0]
            truth = label_map.brain[label_map.labels]
            spacing = volume.spacing
            group = "fetus, painted" if is_fetal else "adult, painted"
            yield group, f"{name} {seed}", _like(image, spacing, volume), truth
            if not is_fetal:
                small = tuple(INFANT * size for size in spacing)
                yield "infant's size, painted", f"{name} {seed}", _like(image, small, volume), truth


def _like(image, spacing, volume):
    return Volume(image, spacing, direction=volume.direction)


def acquired(volume, truth, condition):
    """`(scan, volume, truth)` of a head; what the scan does not show is left out of the others."""
    if condition == "cut":
        # From a little below the middle of the brain's lowest part to above its middle.
        places = np.flatnonzero(truth.any((0, 1)))
        low = (3 * places[0] + places[-1]) // 4
        cut = np.s_[:, :, low : places[-1] + 1]
        volume = _like(volume.array[cut], volume.spacing, volume)
        return volume, volume, truth[cut]
    if condition.startswith("noise"):
        noisy = add_noise(volume.array, 0.03, np.random.default_rng(0))
        return volume.with_array(noisy), volume, truth
    if condition == "as it is":
        return volume, volume, truth
    spacing = np.array(volume.spacing)
    spacing["xyz".index(condition)] *= RATIO
    return degrade(volume, tuple(spacing)), volume, truth


def _row(finder, group, name, condition, scan, volume, truth):
    """The scores of what is found, a dict."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        brain = find_brain(scan, finder)
        mask = brain.on(volume.grid)
    seconds = time.perf_counter() - start
    score = dice(truth, mask & truth) if "alone" in group else dice(truth, mask)
    holes = int((ndimage.binary_fill_holes(mask) & ~mask).sum())
    parts = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
    row = {"set": group, "name": name, "condition": condition, "dice": float(score)}
    row |= {
        "holes": holes,
        "components": parts,
        "is_head": brain.is_inside_head,
        "unsure": brain.unsure,
    }
    row |= {"seconds": seconds, "peak_GB": memory.bytes / 1e9}
    print(*row.values(), file=sys.stderr, flush=True)
    return row


def means(rows):
    """The mean of each set and condition, and its smallest Dice, a list of dicts."""
    table, result = pd.DataFrame(rows), []
    for (group, condition), part in table.groupby(["set", "condition"], sort=False):
        row = {"set": group, "condition": condition, "least": float(part.dice.min())}
        for key in ("dice", "holes", "components", "is_head", "unsure", "seconds", "peak_GB"):
            row[key] = float(part[key].mean())
        result.append(row)
    return result


def tables(report):
    heads = ["set", "condition", "Dice", "least", "voxels in holes", "parts", "seconds"]
    lines = [
        [row["set"], row["condition"], f"{row['dice']:.3f}", f"{row['least']:.3f}"]
        + [f"{row['holes']:.1f}", f"{row['components']:.1f}", f"{row['seconds']:.1f}"]
        for row in report["mean"]
    ]
    table, parts = pd.DataFrame(report["segmented"]), []
    for (shown, strip), part in table.groupby(["shown", "strip"], sort=False):
        scores = part[["psnr", "dice", "dice_in_brain"]].mean()
        parts.append([f"{shown}, {strip}", *(f"{s:.3f}" if s < 1 else f"{s:.2f}" for s in scores)])
    heads_of = [
        "shown, --strip",
        "PSNR in the brain, dB",
        "Dice of the cortex",
        "in the true brain",
    ]
    return f"{markdown(heads, lines)}\n\n{markdown(heads_of, parts)}"
