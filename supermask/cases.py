# SPDX-License-Identifier: MIT
"""Simulated examinations as files, and the table that lists them."""

import csv
import io
import itertools
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from segsrgan.errors import UserError, one_line
from segsrgan.files import stamp, write_text
from segsrgan.volumes import Volume, write_volume
from supermask.datasets import read_channel, read_mask
from supermask.patient import safe_name
from supermask.results import in_words
from supermask.rigid import write_transform
from supermask.simulation import simulate
from supermask.store import check_place, read_report, store
from supermask.views import View

logger = logging.getLogger(__name__)

REPORT, TABLE = "case.json", "cases.csv"
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True)
class CasePlan:
    """An examination to be made.

    Attributes:
        mask: path.
        image: path or None.
        folder: where it goes.
        seed: of its random numbers, a tuple of int.
        base: "Train" or "Test".
        channel: of the image, if it has several.
    """

    mask: Path
    image: Path | None
    folder: Path
    seed: tuple[int, ...]
    base: str = "Train"
    channel: int = 0


def plan_cases(masks, images, output, repeat=1, test=0.0, seed=0, channel=0):
    """The examinations of volumes.

    Args:
        masks: paths.
        images: as many paths, or None.
        output: folder of the cases.
        repeat: examinations of each volume.
        test: share of the volumes, the last ones, whose cases are for testing.
        seed: of all random numbers.
        channel: of images that have several.

    Returns:
        A list of `CasePlan`.

    Raises:
        UserError: if the numbers of paths differ, or a number is out of range.
    """
    if images and len(images) != len(masks):
        raise UserError(
            f"expected as many images as masks, received {len(images)} and {len(masks)}"
        )
    if repeat < 1 or not 0 <= test < 1 or seed < 0:
        raise UserError(
            "repeat must be at least 1, test from 0 to below 1, seed 0 or more, received "
            f"{repeat}, {test:g} and {seed}"
        )
    first_test = len(masks) - round(test * len(masks))
    plans, taken = [], set()
    for index, mask in enumerate(masks):
        stem = _stem(Path(images[index] if images else mask).name)
        if stem.lower() in taken:
            stem = next(
                name
                for name in (f"{stem}_{k}" for k in itertools.count(index + 1))
                if name.lower() not in taken
            )
        taken.add(stem.lower())
        for number in range(repeat):
            name = stem if repeat == 1 else f"{stem}_{number + 1:02d}"
            plans.append(
                CasePlan(
                    Path(mask),
                    Path(images[index]) if images else None,
                    Path(output) / safe_name(name),
                    (seed, index, number),
                    "Test" if index >= first_test else "Train",
                    channel,
                )
            )
    return plans


def make_case(plan, simulation, labels=None, overwrite=False):
    """Makes an examination and writes it; a finished one is kept.

    Args:
        plan: a `CasePlan`.
        simulation: a `Simulation`.
        labels: values of the mask that make the object; None: every value but 0.
        overwrite: whether a finished one is made again.

    Returns:
        Whether there is a whole one now; if not, the cause has been logged.
    """
    report = read_report(plan.folder, REPORT)
    if report is not None and not overwrite:
        return _is_the_same(plan, simulation, labels, report)
    try:
        check_place(plan.folder, REPORT, overwrite)
        mask, image = read_mask(plan.mask, labels), None
        if plan.image is not None:
            image = read_channel(plan.image, plan.channel)
            View(image, mask, path=str(plan.image))  # checks that they belong together
        rng = np.random.default_rng(plan.seed)
        case = simulate(image, mask, rng, simulation)
        _write(case, plan, simulation, labels, overwrite)
    except (ValueError, OSError, MemoryError) as error:
        logger.error("%s: %s", plan.mask, one_line(error))
        return False
    return True


def _is_the_same(plan, simulation, labels, report):
    """Whether a finished examination is the one that is wanted; logs if not."""
    wanted = json.loads(json.dumps(_settings(plan, simulation, labels)))
    wanted |= wanted.pop("simulation")
    made = {**report, **report.get("simulation", {})}
    others = [f"{name} {made.get(name)}" for name in wanted if made.get(name) != wanted[name]]
    if others:
        logger.error(
            "%s: is finished, but with %s; --overwrite makes it anew, or name another output "
            "folder",
            plan.folder,
            ", ".join(others),
        )
        return False
    logger.info("%s: is finished", plan.folder)
    return True


def check_table(output):
    """Raises `UserError` if the table's name is taken by a file that is not ours."""
    path = Path(output) / TABLE
    if path.exists() and not _is_ours(path):
        raise UserError(f"{path}: is no table of simulated cases; name another output folder")


def _is_ours(path):
    with path.open(encoding="utf-8", errors="replace") as file:
        names = file.readline().rstrip().split(",")
    return names[0] == "patient" and names[-2:] == ["truth", "base"]


def write_table(output):
    """Writes the table of the cases in a folder, which `read_patients` reads; returns its path.

    Args:
        output: folder of the cases; those of earlier calls are listed, too.
    """
    found = [(path.parent.name, report) for path, report in _finished(output)]
    planes = list(dict.fromkeys(p for _, report in found for p in report["simulation"]["planes"]))
    text = io.StringIO()
    columns = ["patient", *planes, *(f"{p}_mask" for p in planes), "truth", "base"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for name, report in found:
        own = report["simulation"]["planes"]
        files = [*own, *(f"{plane}_mask" for plane in own), "truth"]
        paths = {file: f"{name}/{file}.nii.gz" for file in files}
        writer.writerow({"patient": name, **paths, "base": report["base"]})
    path = Path(output) / TABLE
    write_text(path, text.getvalue())
    return path


def _finished(output):
    """The paths and contents of the reports of whole cases in a folder."""
    paths = sorted(Path(output).glob(f"*/{REPORT}"))
    reports = [(path, read_report(path.parent, REPORT)) for path in paths]
    return [(path, report) for path, report in reports if report is not None]


def _write(case, plan, simulation, labels, overwrite):
    def write(place):
        volumes = {view.name: view.volume for view in case.views}
        volumes |= {f"{view.name}_mask": _labels(view.mask) for view in case.views}
        volumes |= {"truth": case.truth, "truth_image": case.image}
        for name, volume in volumes.items():
            write_volume(volume, place / f"{name}.nii.gz")
        names = [f"{name}.nii.gz" for name in volumes]
        for view, transform in list(zip(case.views, case.transforms, strict=True))[1:]:
            names.append(f"true_{view.name}_to_{case.views[0].name}.tfm")
            write_transform(transform, place / names[-1])
        return names

    content = {
        **_settings(plan, simulation, labels),
        "motion": {
            view.name: in_words(transform)
            for view, transform in zip(case.views, case.transforms, strict=True)
        },
    }
    store(plan.folder, REPORT, write, content, overwrite)


def _settings(plan, simulation, labels):
    """How an examination is made, JSON values of the report."""
    return {
        "mask": str(plan.mask),
        "image": None if plan.image is None else str(plan.image),
        "stamps": [None if path is None else stamp(path) for path in (plan.mask, plan.image)],
        "labels": None if labels is None else list(labels),
        "channel": plan.channel,
        "seed": list(plan.seed),
        "base": plan.base,
        "simulation": asdict(simulation),
    }


def _labels(volume):
    return Volume.from_grid(volume.array.astype(np.uint8), volume.grid)


def _stem(name):
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
