# SPDX-License-Identifier: MIT
"""The SuperMask paper's Tables 1, 2 and 4, qualitatively, on examinations with a known answer.

Examinations are simulated of masks with synthesised intensities, of a collection of images with
masks (Medical Segmentation Decathlon, BraTS), or of label maps of heads, on which brains with the
contrast of a common sequence are painted. Every seed leaves out other volumes to test on. For
each it trains an AlignNet by the true motions of the cases of all slice distances, a segmentor of
high-resolution images (Unet-HR), and for every distance on the same cases: the segmentor by itself
(with AlignNet: one stage), both together (two stages), and the segmentor alone on as many more
images (Unet-LR and the classical baselines). What is trained already in --runs is used again,
whatever the other flags say: one folder for each choice of them. The defaults are for two cores;
the paper's size is --grid_size 256 --spacing 1 --kernel 32 --alignnet_kernels 16,32,64.

"img" and "msk" are registered by images or by masks, by our registration, which has a pyramid and
several starts, unlike the paper's; "nst" takes the surest view of each voxel, "vote" the majority.
"Masks as drawn" are the test case's: what the fusion gains where the segmentor makes no errors.
"""

import logging
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.common import markdown, mean_and_deviation
from benchmarks.weights import painted_brain
from segsrgan.errors import UserError
from segsrgan.evaluation.metrics import METRICS, PAPER_NAMES, LabelPair
from segsrgan.tables import image_files, stem
from segsrgan.volumes import Volume, dice
from supermask.geometry import sample
from supermask.networks import Networks, load_networks, save_networks, segment, without_islands
from supermask.prediction import predict_views
from supermask.settings import PredictionSettings, Simulation
from supermask.simulation import find_pairs, read_channel, simulate
from supermask.training import TrainingSettings, fit, paint
from supermask.views import View, read_mask

logger = logging.getLogger(__name__)

EPOCH, PASSES = 50, 2  # updates; of AlignNet
ANGLE, SHIFT, NOISE = 45.0, 30.0, 0.02  # degrees and mm at most; fraction of the views' range
# Learning rates of AlignNet by itself, each with its fraction of the updates.
RATES = ((4e-4, 0.6), (1e-4, 0.2), (3e-5, 0.2))
BASELINE, HIGH = "Unet-LR", "Unet-HR"
# name -> (training, None being the masks as drawn; views; settings, None being the segmentor alone)
ALL, TRUTH = (0, 1, 2), "aligned by the truth"
REFINED = {"alignment": "alignnet", "refine": True}
BY_HEADERS = {"alignment": "none"}
CLASSICAL = {"alignment": "classical", "order": "segment"}
METHODS = {
    BASELINE: ("segmentor", (0,), None),
    "Unet-img-cc-nst": ("segmentor", ALL, {**CLASSICAL, "on": "image", "fusion": "nearest"}),
    "Unet-img-cc-vote": ("segmentor", ALL, {**CLASSICAL, "on": "image", "fusion": "vote"}),
    "Unet-msk-cc-nst": ("segmentor", ALL, {**CLASSICAL, "on": "mask", "fusion": "nearest"}),
    "Unet-msk-cc-vote": ("segmentor", ALL, {**CLASSICAL, "on": "mask", "fusion": "vote"}),
    "SuperMask, 1 view": ("both", (0,), REFINED),
    "SuperMask, 2 views": ("both", (0, 2), REFINED),
    "SuperMask": ("both", ALL, REFINED),
    HIGH: ("high", (0,), None),
}
ABLATIONS = {
    "not refined": ("both", ALL, {"alignment": "alignnet", "refine": False}),
    "one stage": ("apart", ALL, REFINED),
    "one stage, as long": ("long", ALL, REFINED),
    "voting": ("both", ALL, {**REFINED, "fusion": "vote"}),
    "nearest": ("both", ALL, {**REFINED, "fusion": "nearest"}),
    "classical alignment": ("both", ALL, {"alignment": "classical"}),
    TRUTH: ("both", ALL, BY_HEADERS),
    "masks as drawn, 1 view": (None, (0,), BY_HEADERS),
    f"masks as drawn, {TRUTH}": (None, ALL, BY_HEADERS),
}
EVERY = METHODS | ABLATIONS
SCORES = ("dsc", "us", "os", "rms", "mba", "mba_3d")


def add_arguments(parser):
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--masks", type=Path, help="folder of masks; their images are painted")
    source.add_argument("--collection", type=Path, help="folder of the Decathlon or of BraTS")
    source.add_argument("--maps", type=Path, help="folder of FreeSurfer's label maps of heads")
    add("--object", type=int, nargs="+", default=[4, 43], help="its values (default: ventricles)")
    add("--runs", type=Path, required=True, help="folder of the trainings")
    add("--slices", type=float, nargs="+", default=[8.0, 16.0], help="distances, mm")
    add("--seeds", type=int, nargs="+", default=[0], help="each trains everything anew")
    add("--train", type=int, default=15, help="volumes to train on (default: 15)")
    add("--test", type=int, default=5, help="volumes to test on (default: 5)")
    add("--repeats", type=int, default=16, help="examinations of a training volume (default: 16)")
    add("--grid_size", type=int, default=48, help="of the networks' grid, voxels (default: 48)")
    add("--spacing", type=float, default=3.0, help="of that grid and the truth, mm (default: 3)")
    add("--kernel", type=int, default=8, help="of the segmentor (default: 8)")
    add("--alignnet_kernels", default="16,32", help="of AlignNet (default: 16,32)")
    add("--alignnet_updates", type=int, default=4000, help="(default: 4000)")
    add("--segmentor_updates", type=int, default=600, help="(default: 600)")
    add("--stage2_updates", type=int, default=150, help="(default: 150)")
    add("--methods", nargs="+", choices=EVERY, default=list(EVERY), help="(default: all)")


def run(args, save):
    report = {"settings": {k: v for k, v in vars(args).items() if not isinstance(v, Path)}}
    report["settings"]["data"] = (args.masks or args.collection or args.maps).name
    report["rows"] = []
    for seed in args.seeds:
        parts = {distance: gather(args, distance, seed) for distance in args.slices}
        cases = {distance: [case for _, case in known] for distance, (known, _) in parts.items()}
        networks = trainings(args, seed, cases)
        for distance, (_, tested) in parts.items():
            for name, case in tested:
                for method in args.methods:
                    row = {"slices": distance, "seed": seed, "case": name, "method": method}
                    report["rows"].append(row | scored(case, method, networks[distance]))
                print(f"{distance:g} mm, seed {seed}, {name}", file=sys.stderr, flush=True)
            save(report)
    return report


def gather(args, distance, seed):
    """The cases of a seed, `(train, test)`, lists of (volume's name, `Case`).

    Every seed leaves out other volumes, as long as there are others: a cross-validation.
    """
    if args.collection:
        pairs = find_pairs(args.collection)
    else:
        pairs = [(None, mask) for mask in image_files(args.masks or args.maps)]
    wanted = args.train + args.test
    if len(pairs) < wanted:
        sys.exit(f"expected {args.train} (--train) and {args.test} (--test), found {len(pairs)}")
    first = (wanted - (seed + 1) * args.test) % wanted
    volumes = list(enumerate(pairs[:wanted]))
    volumes = volumes[first:] + volumes[:first]
    # The test case of a volume is the same one for every seed.
    tasks = [(volume, [0, index, 0, True]) for index, volume in volumes[: args.test]]
    for index, volume in sorted(volumes[args.test :]):
        tasks += [(volume, [seed, index, number, False]) for number in range(args.repeats)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        cases = list(pool.map(lambda task: _case(args, distance, *task), tasks))
    return cases[args.test :], cases[: args.test]


def _case(args, distance, volume, key):
    image_path, mask_path = volume
    rng = np.random.default_rng(key)
    if args.maps:
        image, labels, _ = painted_brain(mask_path, rng, typical=1.0)
        mask = image.with_array(np.isin(labels, args.object).astype(np.uint8))
    else:
        mask = read_mask(mask_path)
        image = (
            read_channel(image_path) if image_path else paint(mask, rng, args.spacing, anatomy=0)
        )
    motion = {"angle": ANGLE, "shift": SHIFT / args.spacing}
    simulation = Simulation((distance,), spacing=args.spacing, noise=NOISE, **motion)
    return stem(mask_path), simulate(image, mask, rng, simulation)


def trainings(args, seed, parts):
    """The networks that the chosen methods need, `{slice distance: {name: Networks}}`.

    "apart" after stage 1, "both" after stage 2, "segmentor" trained alone on as many more images
    as stage 2 sees, "long" that one and AlignNet, "high" as that one, on high-resolution images.
    """
    needed = {EVERY[name][0] for name in args.methods} - {None}
    common, alignnet, found = _common_settings(args, seed), None, {}
    if needed & {"apart", "both", "long"}:
        folder, known = args.runs / f"alignnet_{seed}", sum(parts.values(), [])
        alignnet = trained_alignnet(folder, known, common, args.alignnet_updates)
    updates = args.segmentor_updates, args.stage2_updates
    for distance, cases in parts.items():
        folder, networks = args.runs / f"{distance:g}mm_{seed}", found.setdefault(distance, {})
        if needed - {"high"}:
            segmentor, longer = trained_segmentors(folder, cases, common, *updates)
            networks |= {"apart": Networks(segmentor, alignnet), "segmentor": Networks(longer)}
            networks["long"] = Networks(longer, alignnet)
        if "both" in needed:
            apart, stage2 = folder / "apart.h5", epochs(args.stage2_updates)
            save_networks(apart, segmentor, alignnet)
            stages = {"weights": str(apart), "stage1_epochs": 0, "stage2_epochs": stage2}
            networks["both"] = trained(folder / "both.h5", cases, common, **stages)
        if "high" in needed:  # the same one for all distances
            sharp = [SimpleNamespace(views=(_sharp(case),), transforms=None) for case in cases]
            high = trained_segmentors(args.runs / f"high_{seed}", sharp, common, *updates)[1]
            networks["high"] = Networks(high)
    return found


def trained(path, cases, settings, **changes):
    """The `Networks` of a training, which lie in a file and its folder beside it once trained."""
    if not path.exists():
        settings = replace(settings, steps=EPOCH, resume=True, tensorboard=False, **changes)
        found = fit(cases, settings, path.with_suffix(""))
        save_networks(path, found.segmentor, found.alignnet)
    return load_networks(path)


def epochs(updates):
    return max(1, round(updates / EPOCH))


def trained_alignnet(folder, cases, settings, updates):
    """An AlignNet by itself, on cases of all slice distances.

    It needs tens of thousands of pairs before it finds rotations, hence the large batches.
    """
    alone = {"train": "alignnet", "supervised_alignment": "transforms", "lambda_sim": 0.0}
    alone |= {"precision": "float32", "batch_size": 16, "orientations": 6, "stage2_epochs": 0}
    weights = None
    for number, (rate, fraction) in enumerate(RATES, start=1):
        path, count = folder / f"alignnet_{number}.h5", epochs(fraction * updates)
        changes = {"lr1": rate, "stage1_epochs": count, "seed": settings.seed + number}
        found = trained(path, cases, settings, **alone, **changes, weights=weights)
        weights = str(path)
    return found.alignnet


def trained_segmentors(folder, cases, settings, updates, more):
    """A segmentor by itself, and what becomes of it in `more` updates as large as stage 2's."""
    alone, first = {"train": "segmentor", "stage2_epochs": 0}, folder / "segmentor.h5"
    short = trained(first, cases, settings, **alone, stage1_epochs=epochs(updates))
    alone |= {"lr1": settings.lr2, "batch_size": 2 * settings.batch_size, "weights": str(first)}
    longer = trained(folder / "longer.h5", cases, settings, **alone, stage1_epochs=epochs(more))
    return short.segmentor, longer.segmentor


def _common_settings(args, seed):
    names = "grid_size spacing kernel alignnet_kernels".split()
    settings = {name: getattr(args, name) for name in names}
    settings |= {"rotation": ANGLE, "shift": SHIFT / args.spacing, "contrast_max": 0.2}
    settings |= {"hidden": 64, "largest_angle": 60.0, "window": 7, "precision": "mixed_bfloat16"}
    settings |= {"supervised_alignment": "transforms", "stage1_epochs": 1, "snapshot": 10**6}
    return TrainingSettings(**settings, seed=seed)


def _sharp(case):
    """The high-resolution image and truth of a case, as a view."""
    return View(case.image, case.truth.with_array(case.truth.array.astype(np.float32)))


def scored(case, name, networks):
    """The paper's scores of a method on a case, a dict.

    `between` is the Dice between the masks of three aligned views and the truth (Table 2), or None.
    """
    training, views, settings = EVERY[name]
    networks, truth, between = networks.get(training), case.truth, None
    found = np.zeros(truth.array.shape, bool)
    if settings is None:
        view = _sharp(case) if name == HIGH else case.views[0]
        found = Volume.from_grid(segment(networks.segmentor, view, truth.grid), truth.grid)
        # As a prediction, which ends around the object.
        found = without_islands(View(view.volume, found)).mask.array >= 0.5
    elif (result := _predicted(case, name, networks)) is not None:
        found = sample(result.probability, truth.grid) >= 0.5
        between = _between(result, truth) if len(views) == 3 else None
    pair = LabelPair(found, truth.array, truth.spacing)
    scores = {k: float(METRICS[name].measure(pair)) for k, name in PAPER_NAMES.items()}
    finite = {k: v if math.isfinite(v) else None for k, v in scores.items()}
    return finite | {"between": between}


def _predicted(case, name, networks):
    """The fused result of a method; None where it fails, as when masks to be aligned are empty."""
    training, indices, settings = EVERY[name]
    views = [case.views[k] for k in indices]
    if training is not None:
        views = [View(view.volume, name=view.name) for view in views]
    if TRUTH in name:
        views = [_back(view, case.transforms[k]) for k, view in enumerate(views)]
    # By name: a header that was turned back may say that another view is axial.
    place = {"spacing": case.truth.spacing[0], "reference": case.views[0].name}
    settings = PredictionSettings(**settings, **place, passes=PASSES)
    if networks is not None and settings.alignment != "alignnet":
        networks = Networks(networks.segmentor)
    try:
        return predict_views(views, settings, networks)
    except UserError as error:
        logger.warning("%s: %s", name, error)
        return None


def _back(view, transform):
    """A view whose header says where the patient really was: aligned with the reference."""
    back, (origin, direction) = transform.inverse(), (view.grid.origin, view.grid.direction)
    place = {"origin": tuple(back.apply(origin)), "direction": back.rotation @ direction}
    mask = None if view.mask is None else replace(view.mask, **place)
    return View(replace(view.volume, **place), mask, name=view.name)


def _between(result, truth):
    masks = {view.name: view.mask.array for view in result.views}
    pairs = {f"{a} & {b}": dice(masks[a], masks[b]) for a, b in combinations(masks, 2)}
    high = sample(truth, result.mask.grid) >= 0.5
    return pairs | {f"{name} & HR": dice(masks[name], high) for name in list(masks)[1:]}


def tables(report):
    """Tables 1, 2 and 4: means and deviations over cases and seeds, gains case by case."""
    parts = []
    for distance in sorted({row["slices"] for row in report["rows"]}):
        here = [row for row in report["rows"] if row["slices"] == distance]
        cases = len({(row["seed"], row["case"]) for row in here})
        parts += [f"## Slices of {distance:g} mm, {cases} cases", "### Masks (Table 1)"]
        parts += [_score_table(here, METHODS), "### Ablations (Table 4)"]
        parts += [_score_table(here, ["SuperMask", *ABLATIONS])]
        pairs = {}
        for row in here:
            for name, value in (row["between"] or {}).items():
                pairs.setdefault(row["method"], {}).setdefault(name, []).append(value)
        if pairs:
            lines = [[name, *map(_cell, items.values())] for name, items in pairs.items()]
            heads = ["method", *next(iter(pairs.values()))]
            parts += ["### Dice between aligned views (Table 2)", markdown(heads, lines)]
    return "\n\n".join(parts)


def _score_table(rows, methods):
    base = {(row["seed"], row["case"]): row["dsc"] for row in rows if row["method"] == BASELINE}
    lines = []
    for name in methods:
        found = [(base.get((r["seed"], r["case"])), r) for r in rows if r["method"] == name]
        if found:
            gains = [row["dsc"] - other for other, row in found if other is not None]
            cells = [_cell([row[score] for _, row in found]) for score in SCORES]
            lines.append([name, *cells, _cell(gains, "+")])
    heads = [score.upper().replace("MBA", "mBA") for score in SCORES]
    return markdown(["method", *heads, f"DSC over {BASELINE}"], lines)


def _cell(values, sign=""):
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    lacking = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return "{:{s}.3f} ± {:.3f}".format(*mean_and_deviation(known), s=sign) + lacking
