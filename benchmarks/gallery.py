# SPDX-License-Identifier: MIT
"""Pictures of real scans: three planes of each as it is, by splines, and in the result.

An adult's T2 from DICOM, a clinical FLAIR and an adult's T1 of 1 mm that is sliced 4 times thicker,
all with their heads, and one stack of a fetus in motion, cut to the brain by its mask. Red is the
outline of the cortex, of heads with --strip no and auto. --data is a folder with dicom/, clinical/,
whole_head/ and fetal_stacks/.
"""

import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import markdown
from segsrgan import Predictor, Volume, read_volume
from segsrgan.inference import pictures
from segsrgan.volumes import degrade

RED = (230, 30, 30)
GAP = 6  # pixels between planes
# name -> path in the folder of data, and voxel size of the result, mm
SCANS = {
    "dicom_t2": ("dicom/mixed_folder", 0.8),
    "clinical": ("clinical/adult_flair_0.75x0.75x5.5.nii.gz", 1.0),
    "whole_head": ("whole_head/adult_t1.nii.gz", 1.0),
    "fetal_stack": ("fetal_stacks/sub-01_run-3_T2w.nii.gz", 0.8),
}


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--only", nargs="+", choices=SCANS, default=list(SCANS))
    parser.add_argument("--folder", type=Path, default=Path("docs/images"), help="of the pictures")


def run(args, save):
    predictor, rows = Predictor(args.weights), []
    for name in args.only:
        path, size = SCANS[name]
        scan = shown(name, args.data / path)
        results = {}
        for strip in ("auto",) if name == "fetal_stack" else ("no", "auto"):
            one = copy(predictor)
            one.settings = replace(predictor.settings, strip=strip)
            results[strip] = one.predict(scan, new_resolution=(size,) * 3)
            level, reasons = results[strip].verdict
            rows.append([name, strip, level, "; ".join(reasons)])
            print(*rows[-1], file=sys.stderr, flush=True)
        picture(scan, results).save(args.folder / f"{name}.png")
        save({"cases": rows})
    return {"cases": rows}


def shown(name, path):
    """The scan of which the picture is, a `Volume`."""
    scan = read_volume(path, series="AX FSE" if path.is_dir() else None)
    if name == "whole_head":
        return degrade(scan, (1.0, 1.0, 4.0))
    if name != "fetal_stack":
        return scan
    mask = read_volume(path.with_name(path.name.replace(".nii", "_desc-brain_mask.nii"))).array > 0
    first = np.maximum(np.argwhere(mask).min(0) - 4, 0)
    box = tuple(slice(a, b) for a, b in zip(first, np.argwhere(mask).max(0) + 5, strict=True))
    origin = scan.grid.index_to_physical(first)
    return Volume((scan.array * mask)[box], scan.spacing, origin, scan.direction)


def picture(scan, results):
    """A row for the voxels, splines, the result, and its outline for each of the `results`."""
    from PIL import Image

    scan, images = pictures.upright(scan), {k: pictures.upright(r.sr) for k, r in results.items()}
    window, image = pictures.window(scan), next(iter(images.values()))
    grids = pictures.plane_grids(image, *window)
    shown = [(scan, 0), (scan, 3), *((each, 1) for each in (image, *images.values()))]
    masks = [None] * 3 + [pictures.upright(result.cortex_mask) for result in results.values()]
    rows = []
    for (volume, order), mask in zip(shown, masks, strict=True):
        planes = pictures.planes(volume, grids, order)
        labels = [[]] * 3 if mask is None else [[p] for p in pictures.planes(mask, grids, 0)]
        parts = [
            pictures.outlined(pictures.grey(plane, *window), label, [RED] * len(label))
            for plane, label in zip(planes, labels, strict=True)
        ]
        rows.append(np.concatenate(_padded(parts, max(map(len, parts))), axis=1))
    drawn = Image.fromarray(np.concatenate(rows))
    drawn.thumbnail((720, 1300))
    return drawn.quantize(256, dither=Image.Dither.NONE)


def _padded(parts, height):
    """Pictures with a gap beside them, and black below them up to a height."""
    return [np.pad(p, [(0, height + GAP - len(p)), (0, GAP), (0, 0)]) for p in parts]


def tables(report):
    return markdown(["scan", "--strip", "verdict", "reasons"], report["cases"])
