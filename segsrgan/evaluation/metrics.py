# SPDX-License-Identifier: MIT
"""What is measured: the metrics by name, and the settings that choose among them.

A new metric is a new function with `@_metric`; the command, its help and the tables follow.
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
    """A segmentation and its reference on one grid.

    Attributes:
        prediction: (x, y, z) bool.
        reference: (x, y, z) bool.
        spacing: mm.
    """

    prediction: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, float, float]

    @cached_property
    def surfaces(self):
        """The `SurfaceDistances` from prediction to reference and back, computed once."""
        return volumes.surface_distances(self.prediction, self.reference, self.spacing)

    @cached_property
    def overlap_errors(self):
        """The fractions that the prediction misses and has in excess, computed once."""
        return volumes.overlap_errors(self.prediction, self.reference)

    def millilitres(self, binary):
        """The volume of a bool array (x, y, z) in ml."""
        return np.count_nonzero(binary) * math.prod(self.spacing) / 1000


@dataclass(frozen=True, eq=False)
class ImagePair:
    """An image and its reference on one grid.

    Attributes:
        image: (x, y, z) real.
        reference: (x, y, z) real.
        region: (x, y, z) bool, not empty; only voxels inside are compared.
    """

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
        text: what it is.
        measure: a `LabelPair` or an `ImagePair` -> float; None if it follows from others.
    """

    name: str
    kind: str
    unit: str
    better: str
    digits: int
    text: str
    measure: Callable | None = None

    def baseline_columns(self):
        """The columns that a baseline adds, two `Metric` without `measure`; none for labels."""
        if self.kind == "label":
            return []
        spline, gain = f"{self.name}_spline", f"{self.name}_gain"
        return [
            replace(self, name=spline, text=f"{self.name} of the baseline", measure=None),
            replace(self, name=gain, text=f"{self.name} less {spline}", measure=None),
        ]


METRICS = {}
# The names of the SuperMask paper (Gu et al. 2023).
ALIASES = {
    "dsc": "dice",
    "us": "false_share",
    "os": "missed_share",
    "rms": "share_rms",
    "mba": "boundary_agreement",
    "mba_3d": "boundary_agreement_3d",
}


def _metric(name, kind, unit="", better="", digits=2):
    """Puts a function of a pair into `METRICS`; the first line of its docstring is the text."""

    def register(measure):
        text = measure.__doc__.splitlines()[0].rstrip(".")
        METRICS[name] = Metric(name, kind, unit, better, digits, text, measure)
        return measure

    return register


@_metric("dice", "label", better="higher", digits=4)
def _dice(pair):
    """Dice overlap."""
    return volumes.dice(pair.prediction, pair.reference)


@_metric("hd95", "label", "mm", "lower")
def _hd95(pair):
    """Hausdorff distance of 95 %, the larger of the two directed percentiles."""
    return pair.surfaces.hausdorff(95)


@_metric("assd", "label", "mm", "lower", digits=3)
def _assd(pair):
    """Average symmetric surface distance."""
    return pair.surfaces.mean()


@_metric("components", "label", digits=0)
def _components(pair):
    """Connected components of the prediction, 26 neighbours."""
    return volumes.connected_components(pair.prediction)


@_metric("reference_components", "label", digits=0)
def _reference_components(pair):
    """Connected components of the reference."""
    return volumes.connected_components(pair.reference)


@_metric("volume", "label", "ml")
def _volume(pair):
    """Volume of the prediction."""
    return pair.millilitres(pair.prediction)


@_metric("reference_volume", "label", "ml")
def _reference_volume(pair):
    """Volume of the reference."""
    return pair.millilitres(pair.reference)


@_metric("volume_difference", "label", "%", "zero")
def _volume_difference(pair):
    """Volume of the prediction less that of the reference, in % of the latter."""
    reference = np.count_nonzero(pair.reference)
    difference = np.count_nonzero(pair.prediction) - reference
    return 100 * difference / reference if reference else math.nan


@_metric("false_share", "label", better="lower", digits=4)
def _false_share(pair):
    """Fraction of the prediction that is not in the reference."""
    return pair.overlap_errors.false


@_metric("missed_share", "label", better="lower", digits=4)
def _missed_share(pair):
    """Fraction of the reference that the prediction misses."""
    return pair.overlap_errors.missed


@_metric("share_rms", "label", better="lower", digits=4)
def _share_rms(pair):
    """Root of the mean square of false_share and missed_share."""
    return pair.overlap_errors.rms


@_metric("boundary_agreement", "label", better="higher", digits=4)
def _boundary_agreement(pair):
    """Agreement near the reference's boundary, slice by slice along the third axis."""
    return volumes.boundary_agreement(pair.prediction, pair.reference)


@_metric("boundary_agreement_3d", "label", better="higher", digits=4)
def _boundary_agreement_3d(pair):
    """Agreement near the reference's boundary, within balls."""
    return volumes.boundary_agreement(pair.prediction, pair.reference, flat=False)


@_metric("psnr", "image", "dB", "higher")
def _psnr(pair):
    """Peak signal-to-noise ratio; the peak is the reference's maximum in the region."""
    return volumes.psnr(pair.reference, pair.image, pair.region)


@_metric("ssim", "image", better="higher", digits=4)
def _ssim(pair):
    """Structural similarity, mean over the windows of 7^3 voxels around the region's voxels."""
    return volumes.ssim(pair.reference, pair.image, pair.region)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How cases are measured.

    Attributes:
        metrics: names of `METRICS` or `ALIASES`, which become those of `METRICS`, in the order of
            the columns; None: all that the files allow.
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
        choices=(*METRICS, *ALIASES),
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
        names = self.metrics and tuple(ALIASES.get(name, name) for name in self.metrics)
        if names and len(set(names)) < len(names):
            raise UserError(f"metrics must differ, received {', '.join(names)}; name each once")
        object.__setattr__(self, "metrics", names)

    def columns(self, cases):
        """What is measured of at least one of the cases, in the order of the table.

        Args:
            cases: a list of `Case`.

        Returns:
            A list of `Metric`; those of images are followed by the baseline's, if there is one.

        Raises:
            UserError: if a metric was asked for that no case has the files for.
        """
        kinds = {kind for case in cases for kind in case.kinds}
        baseline = any(case.baseline for case in cases)
        columns = []
        for metric in (METRICS[name] for name in self.metrics or METRICS):
            if metric.kind in kinds:
                columns += [metric, *metric.baseline_columns()] if baseline else [metric]
            elif self.metrics:
                raise UserError(
                    f"{metric.name} compares {metric.kind}s, but no case has both {metric.kind} "
                    f"and reference_{metric.kind}; leave it out of the metrics"
                )
        return columns
