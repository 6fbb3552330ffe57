# SPDX-License-Identifier: MIT
"""Aligned views made into one (Gu et al. 2023, sec. 2.4), and how well they agree.

Each view is sure of itself on its acquired slices and less so between them. Equation 3 as printed
divides by `P_i / sum P`, which cancels the confidences P; like the paper's code, this multiplies.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

from segsrgan.volumes import dice
from supermask.registration import correlation

LEAST_DICE = 0.7
LEAST_CORRELATION = 0.3
_SURROUNDINGS = 3  # voxels around the masks in which images are compared
_LEAST_VOXELS = 100
_TIE = 1e-6
_LEAST = np.float32(1e-20)
_REACH = 3  # sigmas of a slice profile beyond the image, at which it wraps around
_COMMON = 2  # sigmas of the widest profile, by which both images are blurred besides
_LEAST_WEIGHT = np.float32(1e-3)  # of what is seen, in a blurred voxel
_INVERTED = -0.3  # correlation from which two images show the same in opposite contrast


def confidence(sampling, thickness, spacing, width=1.0):
    """How sure a view is of each voxel: 1 on an acquired slice, a Gaussian of the distance to it.

    The Gaussian's sigma is `width` times that of the paper's code: half of n voxels, where n is
    half the slice distance in voxels, plus 1 (2.5 mm and 4.5 mm for slices of 8 mm and 16 mm at
    1 mm). The result, float32 (x, y, z), is 0 outside the field of view and nowhere else.
    """
    sigma = width * (thickness / 2 + spacing) / 2
    result = np.exp(-0.5 * (sampling.distance / np.float32(sigma)) ** 2, dtype=np.float32)
    # However narrow it is, what is seen counts for more than what is not.
    return np.where(sampling.inside, np.maximum(result, _LEAST), np.float32(0))


def fuse(masks, confidences, fusion="gaussian", least=0.0):
    """The object's probability of several masks, float32 (x, y, z) in [0, 1], 0 where none counts.

    Each view has a mask (x, y, z) in [0, 1] and counts where its confidence is above 0. "gaussian"
    is the mean weighted by the confidences; "vote" the fraction of the views that see the object (a
    majority above one half; the surer views decide a tie); "nearest" the surest view's. A voxel of
    less confidence than `least` in all is outside (0.4 in the paper's code, which opens gaps
    between the slices of a single view).
    """
    total = np.sum(confidences, axis=0)
    combine = {"gaussian": _weighted_mean, "vote": _vote, "nearest": _surest}[fusion]
    result = combine(masks, confidences)
    result[(total <= 0) | (total < least)] = 0
    return result


def match_intensities(images, confidences, region, profiles=None):
    """The gain and offset of each image that bring it to the first's intensities.

    Scans differ in gain and offset. Two views are compared after each has been blurred by the
    other's slice profile, too: thicker slices have less contrast. A common wide blur makes up for
    profiles that are not known exactly; images that then do not resemble each other are compared as
    they are. The second is given the first's mean and standard deviation in the region that both
    see, and its sign, where bright and dark are exchanged.

    Args:
        images: float32 (x, y, z), one for each view.
        confidences: of each view, float32 (x, y, z); 0 where it does not see.
        region: bool (x, y, z), such as the object and its surroundings.
        profiles: covariance (3, 3) of each view's slice profile, voxels^2; None: all are alike.

    Returns:
        (gain, offset) of each image.
    """
    maps = [(1.0, 0.0)]
    for k in range(1, len(images)):
        both = (confidences[k] > 0) & (confidences[0] > 0)
        compared = region & both
        image, reference = images[k], images[0]
        if profiles is not None:
            widest = max(np.linalg.norm(profiles[i], 2) for i in (0, k))
            common = _COMMON**2 * widest * np.eye(3)
            image = _blurred(image, both, profiles[0] + common)
            reference = _blurred(reference, both, profiles[k] + common)
            if abs(correlation(image[compared], reference[compared])) < LEAST_CORRELATION:
                image, reference = images[k], images[0]
        maps.append(_match(image, reference, compared))
    return maps


def _blurred(image, seen, covariance):
    """An image blurred by a Gaussian of a covariance (3, 3), voxels^2, without what is not seen."""
    if not covariance.any():
        return image
    reach = np.ceil(_REACH * np.sqrt(np.diag(covariance))).astype(int)
    shape = [fft.next_fast_len(int(n), real=True) for n in image.shape + reach]
    steps = [fft.fftfreq(shape[0]), fft.fftfreq(shape[1]), fft.rfftfreq(shape[2])]
    steps = np.meshgrid(*(step.astype(np.float32) for step in steps), indexing="ij", sparse=True)
    pairs = itertools.product(range(3), repeat=2)
    squares = sum(float(covariance[i, j]) * steps[i] * steps[j] for i, j in pairs)
    response = np.exp(-2 * np.float32(np.pi) ** 2 * squares)

    def smooth(array):
        values = fft.irfftn(response * fft.rfftn(array, shape), shape)
        return values[tuple(slice(n) for n in image.shape)]

    weights = smooth(seen.astype(np.float32))
    return smooth(np.where(seen, image, np.float32(0))) / np.maximum(weights, _LEAST_WEIGHT)


def mapped(array, gain, offset):
    """An array's intensities after a gain and an offset, float32."""
    if (gain, offset) == (1.0, 0.0):
        return array
    return (array * np.float32(gain) + np.float32(offset)).astype(np.float32)


def fuse_images(images, confidences, fusion="gaussian"):
    """One float32 image (x, y, z) of several of alike intensities, 0 where none counts.

    A "vote" is the median of the views that see.
    """
    combine = {"gaussian": _weighted_mean, "vote": _median, "nearest": _surest}[fusion]
    result = combine(images, confidences)
    return np.where(np.sum(confidences, axis=0) > 0, result, np.float32(0))


def _weighted_mean(values, confidences):
    total = np.zeros(values[0].shape, np.float32)
    weights = np.zeros_like(total)
    for value, weight in zip(values, confidences, strict=True):
        total += weight * value
        weights += weight
    return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)


def _surest(values, confidences):
    surest = np.argmax(confidences, axis=0)[np.newaxis]
    return np.take_along_axis(np.asarray(values, np.float32), surest, axis=0)[0]


def _vote(masks, confidences):
    votes = [(mask >= 0.5).astype(np.float32) for mask in masks]
    fraction = _weighted_mean(votes, [(weight > 0).astype(np.float32) for weight in confidences])
    tie = np.abs(fraction - 0.5) < _TIE
    # Just beside one half, on the side of the surer views.
    decided = np.where(_weighted_mean(votes, confidences) >= 0.5, 0.5, 0.49)
    return np.where(tie, decided, fraction).astype(np.float32)


def _median(images, confidences):
    """The median (x, y, z) of the images whose confidence is above 0."""
    seen = np.asarray(confidences) > 0
    ordered = np.sort(np.where(seen, images, np.float32(np.inf)), axis=0)
    count = seen.sum(axis=0, keepdims=True)
    middle = (np.take_along_axis(ordered, np.maximum(n, 0) // 2, 0) for n in (count - 1, count))
    return np.where(count > 0, sum(middle) / 2, np.float32(0))[0]


def _match(image, reference, region):
    """The gain and offset that give an image a reference's mean, deviation and sign in a region."""
    if np.count_nonzero(region) < 2:
        return 1.0, 0.0
    seen, wanted = image[region].astype(np.float64), reference[region].astype(np.float64)
    deviation, target = float(seen.std()), float(wanted.std())
    gain = target / deviation if deviation > 0 and target > 0 else 1.0
    if deviation * target > 0 and np.corrcoef(seen, wanted)[0, 1] < _INVERTED:
        gain = -gain
    return gain, float(wanted.mean()) - gain * float(seen.mean())


class Agreement(NamedTuple):
    """How well two aligned views agree, which shows whether a result can be trusted.

    Both numbers are nan if they nowhere see the object together.
    """

    first: str
    second: str
    dice: float  # of their masks where both see
    correlation: float  # Pearson's, of their images around the masks; < 0: contrast inverted
    overlap: float  # fraction of the first's field of view, in the grid, that the second sees, too

    @property
    def is_doubtful(self):
        """Whether the masks hardly overlap: nothing that other contrasts would explain."""
        return not self.dice >= LEAST_DICE

    def warnings(self):
        """What is wrong with it, a list of str."""
        names = f"{self.first} and {self.second}"
        if math.isnan(self.dice):
            return [f"{names} nowhere see the same part of the object once they are aligned"]
        result = []
        if self.dice < LEAST_DICE:
            result.append(
                f"{names} agree badly once they are aligned (Dice of their masks {self.dice:.2f}, "
                f"expected {LEAST_DICE:g} or more): are they of one patient and one object? Look "
                "at the aligned masks; another --alignment may help"
            )
        if abs(self.correlation) < LEAST_CORRELATION:
            result.append(
                f"{names}: their images hardly resemble each other once they are aligned "
                f"(correlation {self.correlation:.2f}, expected {LEAST_CORRELATION:g} or more); "
                "unless their contrasts differ, the alignment has failed"
            )
        return result


def agreements(names, masks, images, insides):
    """The `Agreement`s of every two views; `insides`, bool as the masks, are where each sees."""
    result = []
    for i, j in itertools.combinations(range(len(names)), 2):
        both = insides[i] & insides[j]
        a, b = masks[i] & both, masks[j] & both
        common, resemblance = math.nan, math.nan
        # Masks that lie where only one view sees have nothing to agree upon.
        if a.any() or b.any():
            common = dice(a, b)
            near = ndimage.binary_dilation(a | b, iterations=_SURROUNDINGS) & both
            if np.count_nonzero(near) >= _LEAST_VOXELS:
                resemblance = correlation(images[i][near], images[j][near])
        overlap = np.count_nonzero(both) / max(1, np.count_nonzero(insides[i]))
        result.append(Agreement(names[i], names[j], common, resemblance, overlap))
    return result
