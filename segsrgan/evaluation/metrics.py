# SPDX-License-Identifier: MIT
"""What is measured: the metrics by name, and the settings that choose among them.

A new metric is a row of `_ROWS` and a text in `_TEXTS`; the command, its help and the tables
follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segsrgan import volumes  # loads SciPy only when something is measured
from segsrgan.config import check, setting
from segsrgan.errors import UserError


@dataclass(frozen=True, eq=False)
class LabelPair:
    """A segmentation and its reference on one grid, (x, y, z) bool; the spacing in mm."""

    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, float, float]

    @property
    def both(self):
        """`(prediction, reference)`."""
        return self.prediction, self.reference

    @cached_property
    def surfaces(self):
        """The `SurfaceDistances` from prediction to reference and back, computed once."""
        return volumes.surface_distances(*self.both, self.spacing)

    @cached_property
    def errors(self):
        """The `OverlapErrors`, computed once."""
        return volumes.overlap_errors(*self.both)

    def volume(self, binary):
        """The volume of a bool array (x, y, z) in ml."""
        return np.count_nonzero(binary) * math.prod(self.spacing) / 1000

    def boundary_agreement(self, flat):
        """Agreement near the reference's boundary, in slices or within balls."""
        return volumes.boundary_agreement(*self.both, flat)


@dataclass(frozen=True, eq=False)
class ImagePair:
    """An image and its reference (x, y, z), compared where the bool `region` is True."""

    image: np.ndarray
    reference: np.ndarray
    region: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A number that is measured of each case.

    Attributes:
        name: of the column.
        kind: "label" or "image".
        unit: "mm", "ml", "dB", "%", or "".
        better: "higher", "lower", "zero", or "" where it is no score.
        digits: decimals in the table.
        measure: a `LabelPair` or an `ImagePair` -> float; None if it follows from others.
        text: what it is.
    """

    name: str
    kind: str
    unit: str
    better: str
    digits: int
    measure: Callable | None
    text: str


def _dice(pair):
    # Where neither has the class there is nothing to agree on.
    return volumes.dice(*pair.both) if np.any(pair.both) else math.nan


def _volume_difference(pair):
    predicted, reference = map(np.count_nonzero, pair.both)
    return 100 * (predicted - reference) / reference if reference else math.nan


_TEXTS = {
    "dice": "Dice overlap",
    "hd95": "Hausdorff distance of 95 %, the larger of the two directed percentiles",
    "assd": "Average symmetric surface distance",
    "components": "Connected components of the prediction, 26 neighbours",
    "reference_components": "Connected components of the reference",
    "volume": "Volume of the prediction",
    "reference_volume": "Volume of the reference",
    "volume_difference": "Volume of the prediction less that of the reference, in % of the latter",
    "false_share": "Fraction of the prediction that is not in the reference",
    "missed_share": "Fraction of the reference that the prediction misses",
    "share_rms": "Root of the mean square of false_share and missed_share",
    "boundary_agreement": "Agreement near the reference's boundary, slice by slice along the third "
    "axis",
    "boundary_agreement_3d": "Agreement near the reference's boundary, within balls",
    "psnr": "Peak signal-to-noise ratio; the peak is the reference's maximum in the region",
    "ssim": "Structural similarity, mean over the windows of 7^3 voxels around the region's voxels",
}
_ROWS = (
    ("dice", "label", "", "higher", 4, _dice),
    ("hd95", "label", "mm", "lower", 2, lambda p: p.surfaces.hausdorff(95)),
    ("assd", "label", "mm", "lower", 3, lambda p: p.surfaces.mean()),
    ("components", "label", "", "", 0, lambda p: volumes.connected_components(p.prediction)),
    (
        "reference_components",
        "label",
        "",
        "",
        0,
        lambda p: volumes.connected_components(p.reference),
    ),
    ("volume", "label", "ml", "", 2, lambda p: p.volume(p.prediction)),
    ("reference_volume", "label", "ml", "", 2, lambda p: p.volume(p.reference)),
    ("volume_difference", "label", "%", "zero", 2, _volume_difference),
    ("false_share", "label", "", "lower", 4, lambda p: p.errors.false),
    ("missed_share", "label", "", "lower", 4, lambda p: p.errors.missed),
    ("share_rms", "label", "", "lower", 4, lambda p: p.errors.rms),
    ("boundary_agreement", "label", "", "higher", 4, lambda p: p.boundary_agreement(flat=True)),
    ("boundary_agreement_3d", "label", "", "higher", 4, lambda p: p.boundary_agreement(flat=False)),
    ("psnr", "image", "dB", "higher", 2, lambda p: volumes.psnr(p.reference, p.image, p.region)),
    ("ssim", "image", "", "higher", 4, lambda p: volumes.ssim(p.reference, p.image, p.region)),
)
METRICS = {row[0]: Metric(*row, _TEXTS[row[0]]) for row in _ROWS}
# The names of the SuperMask paper (Gu et al. 2023).
PAPER_NAMES = {
    "dsc": "dice",
    "us": "false_share",
    "os": "missed_share",
    "rms": "share_rms",
    "mba": "boundary_agreement",
    "mba_3d": "boundary_agreement_3d",
}


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How cases are measured.

    Attributes:
        metrics: names of `METRICS` or those of the SuperMask paper, which become the former, in
            the order of the columns; None: all that the files allow.
        labels: values of the reference label that make the class; None: every value but 0.
        predicted_labels: values of the predicted label that make the class; None: every one but 0.
        threshold: probability from which a voxel belongs to the class, in (0, 1].
        resample: whether a prediction or mask of another grid is resampled onto the reference's,
            and not refused.

    Raises:
        UserError: if a metric is unknown or given twice, or a value out of range.
    """

    metrics: tuple[str, ...] | None = setting(
        None,
        f"by comma, some of {', '.join(METRICS)} (default: all possible)",
        choices=(*METRICS, *PAPER_NAMES),
        metavar="NAMES",
    )
    labels: tuple[int, ...] | None = setting(
        None,
        "values of the reference label that make the class, by comma: 3,42 (default: all but 0)",
        metavar="VALUES",
    )
    predicted_labels: tuple[int, ...] | None = setting(
        None,
        "values of the predicted label that make the class, by comma (default: all but 0)",
        metavar="VALUES",
    )
    threshold: float = setting(
        0.5, "probability from which a voxel belongs to the class", "(0, 1]", metavar="P"
    )
    resample: bool = setting(
        False,
        "put predictions and masks of another grid onto the reference's (labels by nearest "
        "neighbour, images and probabilities linearly)",
    )

    def __post_init__(self):
        check(self)
        names = self.metrics and tuple(PAPER_NAMES.get(name, name) for name in self.metrics)
        if names and len(set(names)) < len(names):
            raise UserError(f"metrics must differ, received {', '.join(names)}; name each once")
        object.__setattr__(self, "metrics", names)

    def columns(self, cases):
        """What is measured of at least one of the cases, a list of `Metric` in the table's order.

        Metrics of images are followed by the baseline's, if a case has one. Raises `UserError` if
        a metric was asked for that no case has the files for.
        """
        kinds = {kind for case in cases for kind in case.kinds}
        baseline = any(case.baseline for case in cases)
        columns = []
        for metric in (METRICS[name] for name in self.metrics or METRICS):
            if metric.kind in kinds:
                columns.append(metric)
                if baseline and metric.kind == "image":
                    spline, gain = f"{metric.name}_spline", f"{metric.name}_gain"
                    texts = f"{metric.name} of the baseline", f"{metric.name} less {spline}"
                    for name, text in zip((spline, gain), texts, strict=True):
                        columns.append(replace(metric, name=name, text=text, measure=None))
            elif self.metrics:
                raise UserError(
                    f"{metric.name} compares {metric.kind}s, but no case has both {metric.kind} "
                    f"and reference_{metric.kind}; leave it out of the metrics"
                )
        return columns
