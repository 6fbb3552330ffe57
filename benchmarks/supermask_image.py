# SPDX-License-Identifier: MIT
"""PSNR and SSIM of the image that supermask-predict makes of two and three views.

Left-out fetal templates (real T2 contrast) and two real infants are moved at random, by up to 15
degrees and 5 mm, and acquired in three planes in slices 4 times thicker than the voxels, by a
Gaussian profile and by a box; every view has another gain and offset and noise of its own. They are
aligned as by default without networks (--alignment classical), with their brains as masks; then
two and three of them are fused with and without --consistency. Measured is the brain (peak: the
truth's maximum). --data is a folder with fetal_templates/ (*_T2w.nii.gz, *_labels.nii.gz) and
infants/ (*_T1w.nii.gz, *_T2w.nii.gz).
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import markdown
from benchmarks.weights import acquire, fetal_cases, infants
from segsrgan.volumes import Volume, psnr, ssim
from segsrgan.volumes.resampling import PROFILES
from supermask.geometry import Rigid, middle_of, sample
from supermask.prediction import predict_views
from supermask.settings import PredictionSettings
from supermask.views import View

INFANTS = ("month00_T2w", "month12_T1w")
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
CONTRASTS = ((1.0, 0.0), (0.7, 0.1), (1.4, -0.05))  # gain and offset of each view
ANGLE, SHIFT = 15.0, 5.0  # degrees, mm
ROOM = 8  # voxels around the brain, into which it moves


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.01], help="of the largest (default: 0.01)"
    )


def run(args, save):
    rows, report = [], {}
    for name, truth, brain in cases(args.data):
        for profile in PROFILES:
            for noise in args.noise:
                views = examination(truth, brain, profile, noise)
                found = predict_views(views, PredictionSettings(alignment="classical"))
                poses = {view.name: view.transform for view in found.views}
                # Their headers say where the alignment has found the patient.
                views = [turned_back(view, poses[view.name].inverse()) for view in views]
                for count in (2, 3):
                    row = {"name": name, "profile": profile, "noise": noise, "views": count}
                    rows.append(row | scores(truth, brain, views[:count]))
                    print(*rows[-1].values(), file=sys.stderr, flush=True)
                report = {"cases": rows}
                save(report)
    return report


def cases(folder):
    """Yields (name, truth Volume, brain bool)."""
    for name, truth, _, brain in fetal_cases(folder):
        yield name, *_cut(truth, brain)
    for _, name, truth, _, brain in infants(folder, left_out=False):
        if name in INFANTS:
            yield name, *_cut(truth, brain)


def _cut(truth, brain):
    box = tuple(slice(p.min(), p.max() + 1) for p in brain.nonzero())
    image, brain = (np.pad(array[box], ROOM) for array in (truth.array, brain))
    return Volume((image / image.max()).astype(np.float32), truth.spacing), brain


def examination(truth, brain, profile, noise):
    """The `View`s of a volume in three planes, moved from the second on."""
    rng, views, middle = np.random.default_rng(0), [], middle_of(truth.grid)
    outline = truth.with_array(brain.astype(np.float32))
    for (plane, axis), (gain, offset) in zip(PLANES.items(), CONTRASTS, strict=True):
        angles, shift = np.deg2rad(rng.uniform(-ANGLE, ANGLE, 3)), rng.uniform(-SHIFT, SHIFT, 3)
        pose = Rigid(angles, shift, middle) if views else Rigid()
        moved = truth.with_array(sample(truth, truth.grid, pose.inverse(), order=3))
        options = {"axis": axis, "noise": noise, "profile": profile, "seed": axis}
        _, scan = acquire(moved, brain, **options)
        scan = scan.with_array((gain * scan.array + offset).astype(np.float32))
        mask = sample(outline, scan.grid, pose.inverse()) >= 0.5
        views.append(View(scan, scan.with_array(mask.astype(np.float32)), plane))
    return views


def turned_back(view, back):
    """A view whose header has been moved by a `Rigid`."""
    grid = view.grid
    place = {"origin": back.apply(grid.origin), "direction": back.rotation @ grid.direction}
    return View(replace(view.volume, **place), replace(view.mask, **place), view.name)


def scores(truth, brain, views):
    """PSNR and SSIM with and without consistency, and how the views then agree, a dict."""
    found = {}
    for choice in ("off", "on"):
        settings = {"alignment": "none", "spacing": truth.spacing[0], "reference": views[0].name}
        result = predict_views(views, PredictionSettings(**settings, consistency=choice))
        grid = result.image.grid
        reference = sample(truth, grid, order=3)
        inside = sample(truth.with_array(brain.astype(np.float32)), grid) >= 0.5
        found[f"psnr_{choice}"] = float(psnr(reference, result.image.array, inside))
        found[f"ssim_{choice}"] = float(ssim(reference, result.image.array, inside))
    return found | {"residuals": [item._asdict() for item in result.residuals]}


def tables(report):
    table = pd.DataFrame(report["cases"])
    table["set"] = np.where(table["name"].str.startswith("GA"), "fetal T2", table["name"])
    lines = []
    for key, rows in table.groupby(["set", "profile", "noise", "views"], sort=False):
        group, profile, noise, views = key
        mean, gains = rows.mean(numeric_only=True), rows["psnr_on"] - rows["psnr_off"]
        psnrs = [f"{mean['psnr_off']:.2f}", f"{mean['psnr_on']:.2f}", f"{gains.min():+.2f}"]
        ssims = [f"{mean['ssim_off']:.3f}", f"{mean['ssim_on']:.3f}"]
        lines.append([group, profile, f"{100 * noise:g} %", views, *psnrs, *ssims])
    heads = ["set", "profile", "noise", "views", "PSNR fused, dB", "consistent", "least gain"]
    return markdown([*heads, "SSIM fused", "consistent"], lines)
