# SPDX-License-Identifier: MIT
"""How well the maps of doubt point at errors, and how honest the probabilities are.

The left-out volumes of `python -m benchmarks weights`, slices 4 times thicker along the third axis,
`--maps`. Area under the ROC curve, in the brain: of the voxels with the largest 5 % of the image's
absolute errors, by `Invented` and `SR_disagreement`; of the voxels of the wrong class, by
`Cortex_disagreement` and by how near the probability is to 0.5. Expected calibration error (15 bins
of one width) of the cortex's probability in the brain, and after its logits were divided by the
temperature that fits the other sets best (Guo et al. 2017). --picture draws one case, with a
structure that was painted into the network's image.
"""

import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats

from benchmarks.common import markdown
from benchmarks.weights import acquire, cases, infants
from segsrgan import Predictor
from segsrgan.inference.consistency import make_consistent
from segsrgan.volumes import resample_to

WORST = 0.05  # of the image's errors
BINS, FINE = 15, 600  # of probability; of its logit, for temperatures
LOGITS = 12.0  # beyond which a float32 probability is 0 or 1
MEASURES = {
    "invented": "Invented",
    "sr_disagreement": "SR_disagreement",
    "cortex_disagreement": "Cortex_disagreement",
    "undecided": "nearness to 0.5",
}


def add_arguments(parser):
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--flips", type=int, nargs="+", default=[1])
    parser.add_argument("--infants", action="store_true", help="real infants, too: the image only")
    parser.add_argument("--picture", type=Path, help="PNG file of one case")


def run(args, save):
    predictor, rows, curves, report = Predictor(args.weights, maps=True), [], [], {}
    if args.picture:
        draw(predictor, next(iter(cases(args.data))), args.picture)
    volumes = [*cases(args.data), *(infants(args.data) if args.infants else [])]
    for group, name, truth, cortex, brain in volumes:
        truth, low = acquire(truth, brain)
        for flips in args.flips:
            row = {"set": group, "name": name, "flips": flips}
            one = copy(predictor)
            one.settings = replace(predictor.settings, flips=flips)
            result = one.predict(low, new_resolution=truth.spacing)
            row |= ranking(result, truth, cortex, brain)
            rows.append(row)
            if cortex is not None:
                curves.append({**row, "curve": curve(inside(result.cortex, brain), cortex[brain])})
            print(*row.values(), file=sys.stderr, flush=True)
            report = {"cases": rows, "calibration": calibration(curves)}
            save(report)
    return report


def inside(volume, brain):
    """The voxels of a result, which may be longer than the truth, in the brain."""
    return volume.array[tuple(slice(0, n) for n in brain.shape)][brain]


def ranking(result, truth, cortex, brain):
    """The areas under the curves of one case, a dict; without a cortex, of the image only."""
    error = np.abs(inside(result.sr, brain) - truth.array[brain])
    worst = error >= np.quantile(error, 1 - WORST)
    image = ("invented", "sr_disagreement")
    found = {name: area(inside(result.volumes[name], brain), worst) for name in image}
    if cortex is None:
        return found
    probability = inside(result.cortex, brain)
    wrong = (inside(result.cortex_mask, brain) > 0) != cortex[brain]
    found["cortex_disagreement"] = area(inside(result.cortex_disagreement, brain), wrong)
    return found | {"undecided": area(-np.abs(probability - 0.5), wrong)}


def area(values, is_bad):
    """Area under the ROC curve: how often a bad voxel has the larger of two values."""
    good, bad = np.count_nonzero(~is_bad), np.count_nonzero(is_bad)
    ranks = stats.rankdata(values)[is_bad].sum()
    return float((ranks - bad * (bad + 1) / 2) / (good * bad))


def curve(probability, cortex):
    """Voxels and cortex voxels by the logit of the probability, two lists of counts."""
    logits = np.clip(special.logit(probability.astype(float)), -LOGITS, LOGITS)
    edges = np.linspace(-LOGITS, LOGITS, FINE + 1)
    return [np.histogram(part, edges)[0].tolist() for part in (logits, logits[cortex])]


def calibration(curves):
    """One row per set and number of flips: temperature of the other sets, and errors, dicts."""
    rows = []
    for group, flips in dict.fromkeys((row["set"], row["flips"]) for row in curves):
        same = [row for row in curves if row["flips"] == flips]
        own, others = (
            np.sum([row["curve"] for row in same if (row["set"] == group) == is_own], axis=0)
            for is_own in (True, False)
        )
        if not np.any(others):
            continue
        temperature = best_temperature(others)
        errors = {"ece": calibration_error(own), "ece_after": calibration_error(own, temperature)}
        rows.append({"set": group, "flips": flips, "temperature": temperature, **errors})
        rows[-1]["reliability"] = reliability(own)
    return rows


def _probabilities(temperature):
    edges = np.linspace(-LOGITS, LOGITS, FINE + 1)
    return special.expit((edges[:-1] + edges[1:]) / 2 / temperature)


def best_temperature(counts):
    """The temperature with which the cross-entropy of a `curve`, an array (2, FINE), is least."""
    voxels, cortex = counts

    def loss(temperature):
        p = _probabilities(temperature)
        return -np.sum(cortex * np.log(p) + (voxels - cortex) * np.log1p(-p))

    return float(optimize.minimize_scalar(loss, bounds=(0.2, 5), method="bounded").x)


def reliability(counts, temperature=1.0):
    """Voxels, mean probability and fraction of cortex in each bin that has voxels, a list."""
    probabilities = _probabilities(temperature)
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    weights = (counts[0], counts[0] * probabilities, counts[1])
    voxels, expected, found = (np.bincount(bins, part, BINS) for part in weights)
    return [
        [int(n), float(p / n), float(c / n)]
        for n, p, c in zip(voxels, expected, found, strict=True)
        if n
    ]


def calibration_error(counts, temperature=1.0):
    """Mean distance of the probability from the fraction of cortex, over the voxels of bins."""
    table = np.array(reliability(counts, temperature))
    return float(np.average(np.abs(table[:, 1] - table[:, 2]), weights=table[:, 0]))


def draw(predictor, case, path):
    """A scan, the network's image with a painted ball, the result and the maps, in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, _, truth, _, brain = case
    truth, low = acquire(truth, brain)
    without = copy(predictor)
    without.settings = replace(predictor.settings, consistency="off", maps=False)
    image = without.predict(low, new_resolution=truth.spacing).sr
    result = predictor.predict(low, new_resolution=truth.spacing)
    centre = np.array(image.array.shape) * (0.5, 0.62, 0.5)
    distance = np.sqrt(sum((np.indices(image.array.shape).T - centre).T ** 2))
    ball = np.clip(4.5 - distance, 0, 1)  # voxels, with an edge of one
    painted = image.with_array(image.array * (1 - ball) + 0.9 * image.array.max() * ball)
    found = make_consistent(painted, low)
    noise = max(found.noise, 1e-3)
    contradiction = found.contradiction.with_array(np.abs(found.contradiction.array) / noise)
    invented = resample_to(contradiction, image.grid, spline_order=1)
    parts = {
        "scan": (resample_to(low, image.grid, spline_order=0), "gray"),
        "network's image, a ball painted in": (painted, "gray"),
        "result: contains the scan": (found.volume, "gray"),
        "Invented": (invented, "magma"),
        "SR_disagreement": (result.sr_disagreement, "magma"),
    }
    places = [np.flatnonzero(brain.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    x, y, z = (slice(max(0, p[0] - 4), p[-1] + 5) for p in places)
    figure, axes = pyplot.subplots(2, len(parts), figsize=(3 * len(parts), 5.6))
    for column, (title, (volume, colours)) in zip(axes.T, parts.items(), strict=True):
        planes = volume.array[int(centre[0]), y, z], volume.array[x, y, int(centre[2])]
        for axis, plane in zip(column, planes, strict=True):
            high = np.percentile(plane, 99.9) if colours == "gray" else plane.max()
            axis.imshow(plane.T, cmap=colours, origin="lower", vmin=0, vmax=high)
            axis.axis("off")
        column[0].set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def tables(report):
    means = {}
    for row in report["cases"]:
        means.setdefault((row["set"], row["flips"]), []).append(row)
    lines = []
    for key, rows in means.items():
        cells = [[row[name] for row in rows if name in row] for name in MEASURES]
        lines.append([*key, *(f"{np.mean(cell):.2f}" if cell else "" for cell in cells)])
    areas = markdown(["set", "flips", *MEASURES.values()], lines)
    names = ("set", "flips", "temperature", "ece", "ece_after")
    lines = [
        [row[name] if isinstance(row[name], (str, int)) else f"{row[name]:.3f}" for name in names]
        for row in report["calibration"]
    ]
    heads = ["set", "flips", "temperature of the others", "ECE", "with it"]
    return f"{areas}\n\n{markdown(heads, lines)}"
