# SPDX-License-Identifier: MIT
"""The metrics by name: a new one is a new function with `@_metric`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segsrgan.volumes import (
    boundary_agreement,
    connected_components,
    dice,
    false_share,
    missed_share,
    psnr,
    share_rms,
    ssim,
    surface_distances,
)


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
        return surface_distances(self.prediction, self.reference, self.spacing)

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

    def beside(self):
        """The columns that a baseline adds beside this one, two `Metric`; none of a label's."""
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
    """Put a function of a pair into `METRICS`; the first line of its docstring is the text."""

    def register(measure):
        text = measure.__doc__.splitlines()[0].rstrip(".")
        METRICS[name] = Metric(name, kind, unit, better, digits, text, measure)
        return measure

    return register


@_metric("dice", "label", better="higher", digits=4)
def _dice(pair):
    """Dice overlap."""
    return dice(pair.prediction, pair.reference)


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
    return connected_components(pair.prediction)


@_metric("reference_components", "label", digits=0)
def _reference_components(pair):
    """Connected components of the reference."""
    return connected_components(pair.reference)


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
    """Share of the prediction that is not in the reference."""
    return false_share(pair.prediction, pair.reference)


@_metric("missed_share", "label", better="lower", digits=4)
def _missed_share(pair):
    """Share of the reference that the prediction misses."""
    return missed_share(pair.prediction, pair.reference)


@_metric("share_rms", "label", better="lower", digits=4)
def _share_rms(pair):
    """Root of the mean square of false_share and missed_share."""
    return share_rms(pair.prediction, pair.reference)


@_metric("boundary_agreement", "label", better="higher", digits=4)
def _boundary_agreement(pair):
    """Agreement near the reference's boundary, slice by slice along the third axis."""
    return boundary_agreement(pair.prediction, pair.reference)


@_metric("boundary_agreement_3d", "label", better="higher", digits=4)
def _boundary_agreement_3d(pair):
    """Agreement near the reference's boundary, within balls."""
    return boundary_agreement(pair.prediction, pair.reference, flat=False)


@_metric("psnr", "image", "dB", "higher")
def _psnr(pair):
    """Peak signal-to-noise ratio; the peak is the reference's maximum in the region."""
    return psnr(pair.reference, pair.image, pair.region)


@_metric("ssim", "image", better="higher", digits=4)
def _ssim(pair):
    """Structural similarity, mean over the windows of 7^3 voxels around the region's voxels."""
    return ssim(pair.reference, pair.image, pair.region)
