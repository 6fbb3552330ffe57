# SPDX-License-Identifier: MIT
"""Which images the verdict finds bad: good ones, and bad ones made on purpose.

Good are stripped brains, sliced 3, 4 or 6 times thicker along one axis: fetal templates, infants,
nilearn's T1 template, images painted on adult label maps, and adults with a tumour; every third
also with 1 % noise. Bad are some of these with 5 and 10 % noise, with each slice moved by 2 to 5 mm
and turned by up to 5 degrees, with a voxel size 3 times too large or too small, along all axes or
along one, and told a thickness half the true one; heads that are not stripped, painted and real;
and what is no brain: an abdomen, random texture, phantoms, atria of the heart. A fetus in motion,
of which only the brain is shown, stands for itself. The thresholds were chosen on one part of the
images; of the others the adults and the painted heads are new, the fetuses and infants are the
same, sliced otherwise. Each image is computed whole, at the voxel size of its truth or, where it is
large, a coarser one. --data is a folder as for the benchmark `weights`, with adult_labels_2/,
brats2015/, whole_head/, dicom/, clinical/, fetal_stacks/ and heart_masks/, too.
"""

import json
import sys
from collections import Counter
from copy import copy
from dataclasses import replace
from itertools import chain, product
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.common import markdown
from benchmarks.weights import ADULT_CORTEX, FETAL_CORTEX, acquire, adult_template
from segsrgan import Predictor, Volume, read_volume
from segsrgan.inference.verdict import CHECKS, FAIL, LOOK, PASS, judge
from segsrgan.training.painting import NUMBERINGS, paint, prepare_labels, surround
from segsrgan.volumes import degrade

MARGIN = 6  # voxels around a brain
MOVED, TURNED = (2, 5), 5  # mm and degrees
SIZE = (120, 130, 40)  # of what is made without an anatomy


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="judge the measures that --output holds anew, and measure only what is missing there",
    )


def run(args, save):
    known, rows = {}, []
    if args.again and args.output and args.output.exists():
        old = json.loads(args.output.read_text(encoding="utf-8"))["cases"]
        known = {(row["kind"], row["name"]): row["measures"] for row in old}
    predictor = Predictor(args.weights, strip="no")
    for kind, name, chosen, image, spacing, settings in cases(args.data):
        measures = known.get((kind, name)) or measured(predictor, image, spacing, settings)
        level, reasons = judge(measures)
        row = {"kind": kind, "name": name, "chosen": chosen, "verdict": level}
        rows.append(row | {"reasons": list(reasons), "measures": measures})
        print(kind, name, level, *reasons, file=sys.stderr, sep="; ", flush=True)
        save({"cases": rows})
    return {"cases": rows}


def measured(predictor, image, spacing, settings):
    """The measures of the result of an image, computed whole."""
    predictor = copy(predictor)
    predictor.settings = replace(predictor.settings, **settings)
    measures = predictor.predict(image, None, None, spacing).measures
    return {name: float(f"{value:.4g}") for name, value in measures.items()}


def cases(folder):
    """Yields kind, name, whether thresholds were chosen on it, image, voxel size, settings."""
    for chosen in (True, False):
        for case in chain(good_and_spoilt(folder, chosen), heads(folder, chosen)):
            kind, name, *image = case
            yield kind, name if chosen else f"{name} again", chosen, *image
        for case in no_brains(folder, chosen):
            kind, name, *image = case
            yield kind, name, chosen, *image, {}


def brains(folder, chosen):
    """Yields group, name and isotropic `Volume` of stripped brains."""
    part = 0 if chosen else 1
    for path in sorted((folder / "fetal_templates").glob("*_T2w.nii.gz"))[part :: 2 - chosen]:
        volume = read_volume(path)
        yield "fetus", path.name[:-11], boxed(volume, volume.array > 0)
    for path in sorted((folder / "infants").glob("*w.nii.gz"))[part :: 2 - chosen]:
        volume = read_volume(path)
        volume = boxed(volume, volume.array > 0)
        yield "infant", path.name[:-7], degrade(volume, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    if chosen:
        volume, *_ = adult_template()
        yield "adult T1", "MNI152", boxed(volume, volume.array > 0)
    maps = sorted((folder / "adult_labels").glob("seg_*.nii.gz"))[part::4]
    others = sorted((folder / "adult_labels_2").glob("*.nii.gz"))[1::2]
    for path in maps + ([] if chosen else others):
        yield "adult, painted", path.name[:-7], painted(path)
    for path in sorted((folder / "brats2015").glob("*/*_flair.nii.gz"))[part::2]:
        volume, mask = read_volume(path), path.name.replace("_flair", "_brainmask")
        mask = read_volume(path.with_name(mask)).array > 0
        array = volume.array - np.percentile(volume.array[mask], 0.1)
        array = np.where(mask, array, 0).clip(0)
        yield "adult, tumour", path.name[:-13], boxed(volume.with_array(array), mask)


def good_and_spoilt(folder, chosen):
    """Yields kind, name, image, voxel size of the result and settings."""
    counts = {}
    for group, name, truth in brains(folder, chosen):
        n = counts[group] = counts.get(group, -1) + 1
        one, turn = truth.spacing, n
        if not chosen:  # the same fetuses and infants are sliced otherwise
            turn = 2 * n + 2 if group in ("fetus", "infant") else n + 1
        axis = (2, 0, 1)[(turn // 3 if group == "fetus" else turn) % 3]
        for ratio in (3, 4, 6) if group == "adult T1" else [(4, 3, 6)[turn % 3]]:
            axis = axis if group != "adult T1" else {3: 0, 4: 2, 6: 1}[ratio]
            yield group, f"{name} {ratio}x", sliced(truth, ratio, axis), one, {}
        if n % 3 == 1:
            image = sliced(truth, noise=0.01, seed=int(not chosen))
            yield f"{group}, noise 1 %", name, image, one, {}
        for kind, image, spacing, settings in spoilt(group, name, truth, n, chosen):
            yield kind, f"{group} {name}", image, spacing, settings


def spoilt(group, name, truth, n, chosen):
    """Yields kind, image, voxel size of the result and settings of some bad images of a brain."""
    if group == "adult, tumour":
        return
    one, low, painted = truth.spacing, sliced(truth), group == "adult, painted"
    if n % 5 == 2:
        yield "thickness halved", low, one, {"thickness": 0.5 * max(low.spacing)}
    if n % ((6 if painted else 3) if chosen else (8 if painted else 4)) == 0:
        for noise in (0.05, 0.1):
            yield f"noise {noise:.0%}", sliced(truth, noise=noise, seed=int(not chosen)), one, {}
        rng = np.random.default_rng(sum(map(ord, group + name)) + (not chosen))
        yield "motion", moved(low, rng), one, {}
    if n % (4 if chosen else 7) == 0 and not painted:
        three, wide = tuple(3 * size for size in one), (1.5 * one[0], one[1], one[2])
        yield "spacing x3", spaced(low, (3, 3, 3)), three, {}
        yield "spacing /3", spaced(low, (1 / 3, 1 / 3, 1 / 3)), (0.5, 0.5, 0.5), {}
        yield "one axis x3", spaced(low, (3, 1, 1)), wide, {}
        yield "one axis /3", spaced(low, (1, 1, 1 / 3)), one, {}


def heads(folder, chosen):
    """Yields kind, name, image, voxel size of the result and settings of heads not stripped."""
    adults = sorted((folder / "adult_labels").glob("seg_*.nii.gz"))[1 if chosen else 2 :: 5]
    fetuses = sorted((folder / "fetal_templates").glob("*_labels.nii.gz"))[2 if chosen else 4 :: 5]
    for path, size in [*((path, 1.5) for path in adults), *((path, 1.0) for path in fetuses)]:
        head = painted(path, strip=False)
        name = path.name[:-14] if path in fetuses else path.name[:-7]
        yield "head, painted", name, thickened(head), (size,) * 3, {}
    if not chosen:
        return
    head = read_volume(folder / "whole_head" / "adult_t1.nii.gz")
    head = boxed(head, head.array > 12)
    for axis in range(3):
        yield "head, real", f"adult T1 {axis}", thickened(head, axis), (1.5,) * 3, {}
    for name, series in (("sagittal_t1", None), ("mixed_folder", None), ("mixed_folder", "AX FSE")):
        volume = read_volume(folder / "dicom" / name, series)
        if volume.spacing[0] < 0.6:
            size = (2 * volume.spacing[0], 2 * volume.spacing[1], volume.spacing[2])
            volume = Volume(volume.array[::2, ::2], size)
        yield "head, real", f"{name} {series}", volume, (1.5,) * 3, {}
    volume = read_volume(folder / "clinical" / "adult_flair_0.75x0.75x5.5.nii.gz")
    yield "head, real", "FLAIR", volume, (1.5,) * 3, {}


def no_brains(folder, chosen):
    """Yields kind, name, image and voxel size of the result; of a fetus in motion, too."""
    for path in sorted((folder / "fetal_stacks").glob("*_T2w.nii.gz")) if chosen else ():
        volume, mask = read_volume(path), path.name.replace("_T2w", "_T2w_desc-brain_mask")
        yield "abdomen", path.name[:12], volume, (2.0,) * 3
        inside = read_volume(path.with_name(mask)).array > 0
        volume = volume.with_array(np.where(inside, volume.array, 0))
        yield "fetus in motion", path.name[:12], boxed(volume, inside, 3), (0.8,) * 3
    for seed in range(4) if chosen else range(4, 8):
        yield "texture", str(seed), texture(np.random.default_rng(seed)), (1.0,) * 3
        yield "phantom", str(seed), phantom(np.random.default_rng(seed)), (1.0,) * 3
    for path in sorted((folder / "heart_masks").glob("*.nii.gz"))[0 if chosen else 1 :: 5]:
        volume, rng = read_volume(path), np.random.default_rng(1)
        blood = 0.7 + 0.8 * ndimage.gaussian_filter(rng.normal(size=volume.array.shape), 2)
        array = ndimage.gaussian_filter(volume.array * blood, 0.7).astype(np.float32).clip(0)
        yield "heart", path.name[:-7], boxed(volume.with_array(array), volume.array > 0), (1.0,) * 3


def boxed(volume, inside, margin=MARGIN):
    """A volume cut to a mask and a margin in voxels."""
    low = np.maximum(np.argwhere(inside).min(0) - margin, 0)
    high = np.argwhere(inside).max(0) + margin + 1
    return Volume(volume.array[tuple(map(slice, low, high))], volume.spacing)


def spaced(volume, factors):
    """A volume whose header is wrong by these factors."""
    return Volume(volume.array, tuple(np.multiply(volume.spacing, factors)))


def sliced(truth, ratio=4, axis=2, noise=0.0, seed=0):
    """The thick slices of an isotropic brain."""
    return acquire(truth, truth.array > 0, axis, ratio=ratio, noise=noise, seed=seed)[1]


def thickened(volume, axis=2):
    """A volume with slices 4 times as thick."""
    spacing = [4 * size if k == axis else size for k, size in enumerate(volume.spacing)]
    return degrade(volume, tuple(spacing), tuple(spacing))


def painted(path, strip=True):
    """A brain, or a whole head, of random contrast on a label map."""
    volume, numbering = read_volume(path), NUMBERINGS["freesurfer"]
    cortex = (3,) if path.name.startswith("brain") else ADULT_CORTEX
    if path.name.startswith("GA"):
        cortex, numbering = FETAL_CORTEX, NUMBERINGS["fetal"]
    label_map = prepare_labels(volume.array, cortex, numbering)
    brain = label_map.brain[label_map.labels]
    low = np.maximum(np.argwhere(brain).min(0) - (MARGIN if strip else 30), 0)
    high = np.argwhere(brain).max(0) + (MARGIN if strip else 30) + 1
    labels = label_map.labels[tuple(map(slice, low, high))]
    rng = np.random.default_rng(sum(map(ord, path.name)))
    if not strip:
        labels = surround(np.pad(labels, 12), label_map.brain, len(label_map.tissue), rng)
    image = paint(labels, label_map, rng, strip=strip, typical=0.5)[0]
    return Volume(image * label_map.brain[labels] if strip else image, volume.spacing)


def moved(low, rng):
    """An image each of whose slices was acquired in another pose."""
    slices = []
    for plane in np.moveaxis(low.array, 2, 0):
        mm, angle = rng.uniform(*MOVED), rng.uniform(0, 2 * np.pi)
        pixels = mm * np.array([np.cos(angle), np.sin(angle)]) / low.spacing[:2]
        plane = ndimage.rotate(plane, rng.uniform(-TURNED, TURNED), reshape=False, order=1)
        slices.append(ndimage.shift(plane, pixels, order=1))
    return low.with_array(np.moveaxis(np.array(slices, np.float32), 0, 2))


def texture(rng):
    """An ellipsoid of random texture, as large as a child's brain."""
    fine, coarse = (
        ndimage.gaussian_filter(rng.normal(size=SIZE), sigma) for sigma in ((3, 3, 1), (8, 8, 2))
    )
    image = 0.5 + 0.15 * fine / fine.std() + 0.1 * coarse / coarse.std()
    array = np.clip(image, 0.06, 1) * (_radius(3) < 1)
    return Volume(array.astype(np.float32), (1.0, 1.0, 4.0))


def phantom(rng):
    """A bottle with balls in it."""
    places = np.indices(SIZE).transpose(1, 2, 3, 0)
    inside = _radius(2) < 1
    image = np.where(inside, np.float32(0.6), np.float32(0))
    for _ in range(25):
        centre, radius = rng.uniform(0.3, 0.7, 3) * SIZE, rng.uniform(4, 14)
        ball = (((places - centre) * (1.0, 1.0, 4.0)) ** 2).sum(-1) < radius**2
        image[ball & inside] = rng.uniform(0.1, 1)
    return Volume(image, (1.0, 1.0, 4.0))


def _radius(axes):
    """The distance from the middle of SIZE along the first axes, over 0.42 of it."""
    places = np.indices(SIZE).transpose(1, 2, 3, 0) - np.array(SIZE) / 2
    return np.linalg.norm((places / (np.array(SIZE) * 0.42))[..., :axes], axis=-1)


def tables(report):
    kinds, parts = {}, (True, False)
    for case in report["cases"]:
        kinds.setdefault(case["kind"], []).append(case)
    heads = ["images", "chosen on: pass", "look", "fail", "others: pass", "look", "fail", "why"]
    lines = []
    for kind, found in kinds.items():
        levels = [(case["chosen"], case["verdict"]) for case in found]
        numbers = [levels.count(pair) for pair in product(parts, (PASS, LOOK, FAIL))]
        why = Counter(
            check.measure
            for case in found
            for check in CHECKS
            if judge({check.measure: case["measures"].get(check.measure)}).reasons
        )
        lines.append([kind, *numbers, ", ".join(f"{k} {n}" for k, n in why.most_common(3))])
    return markdown(heads, lines)
