# SPDX-License-Identifier: MIT
"""Several aligned views of one object made into one (Gu et al. 2023, section 2.4).

Each view is sure of itself on its acquired slices and less so between them. Equation 3 as printed
divides by `P_i / sum P`, which cancels the confidences P; like the paper's code, this multiplies.
"""

import numpy as np

from segsrgan.errors import UserError
from supermask.settings import FUSIONS

_TIE = 1e-6
_LEAST = np.float32(1e-20)
_INVERTED = -0.3  # correlation from which two images show the same in opposite contrast


def confidence(sampling, thickness, spacing, width=1.0):
    """How sure a view is of each voxel: 1 on an acquired slice, a Gaussian of the distance to it.

    The Gaussian's sigma is that of the paper's code: half of n voxels, where n is half the slice
    distance in voxels, plus 1 (2.5 mm and 4.5 mm for slices of 8 mm and 16 mm at 1 mm).

    Args:
        sampling: the view's `Sampling` of the grid.
        thickness: distance of its slices, mm.
        spacing: of the grid, mm.
        width: factor of sigma.

    Returns:
        float32 (x, y, z) in [0, 1]; 0 outside the field of view and nowhere else.

    Raises:
        UserError: if the width is not positive.
    """
    if not width > 0:
        raise UserError(f"width must be positive, received {width:g}; try 1")
    sigma = width * (thickness / 2 + spacing) / 2
    result = np.exp(-0.5 * (sampling.distance / np.float32(sigma)) ** 2, dtype=np.float32)
    # However narrow it is, what is seen counts for more than what is not.
    return np.where(sampling.inside, np.maximum(result, _LEAST), np.float32(0))


def fuse(masks, confidences, fusion="gaussian", least=0.0):
    """One mask of several.

    Args:
        masks: per view (x, y, z), probabilities in [0, 1].
        confidences: per view (x, y, z) of `confidence`; a view counts where its is above 0.
        fusion: "gaussian": the mean weighted by the confidences; "vote": the share of the views
            that see the object (a majority where it exceeds one half; the surer views decide a
            tie); "nearest": the surest view's.
        least: total confidence below which a voxel is outside (0.4 in the paper's code, where it
            opens gaps between the slices of a single view).

    Returns:
        float32 (x, y, z) in [0, 1], the object's probability; 0 where no view counts.

    Raises:
        UserError: if the fusion is unknown, or the numbers or shapes of arrays differ.
    """
    _check_fusion(fusion)
    shapes = [np.shape(array) for array in (*masks, *confidences)]
    if len(masks) != len(confidences) or not masks or len(set(shapes)) > 1:
        raise UserError(
            f"expected as many confidences as masks, all of one shape, received {shapes}"
        )
    total = np.sum(confidences, axis=0)
    if fusion == "nearest":
        result = _of_the_surest(masks, confidences)
    elif fusion == "vote":
        result = _vote(masks, confidences)
    else:
        result = weighted_mean(masks, confidences)
    result[(total <= 0) | (total < least)] = 0
    return result


def weighted_mean(values, confidences):
    """The mean (x, y, z) of values weighted by confidences, float32; 0 where these are all 0."""
    total = np.zeros(values[0].shape, np.float32)
    weights = np.zeros_like(total)
    for value, weight in zip(values, confidences, strict=True):
        total += weight * value
        weights += weight
    return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)


def fuse_images(images, confidences, region, fusion="gaussian"):
    """One image of several, in the intensities of the first.

    The others are first given its mean and standard deviation in the region that both see, since
    scans differ in gain and offset, and its sign, where bright and dark are exchanged.

    Args:
        images: per view (x, y, z), the reference's first.
        confidences: per view (x, y, z).
        region: bool (x, y, z), where intensities are compared, such as the object's surroundings.
        fusion: "gaussian": the mean weighted by the confidences; "vote": the median of the views
            that see; "nearest": the surest view's.

    Returns:
        float32 (x, y, z), 0 where no view counts.

    Raises:
        UserError: if the fusion is unknown.
    """
    _check_fusion(fusion)
    matched = [images[0]]
    for image, weight in zip(images[1:], confidences[1:], strict=True):
        both = region & (weight > 0) & (confidences[0] > 0)
        matched.append(_matched(image, images[0], both))
    if fusion == "gaussian":
        return weighted_mean(matched, confidences)
    result = (
        _of_the_surest(matched, confidences)
        if fusion == "nearest"
        else _median(matched, confidences)
    )
    return np.where(np.sum(confidences, axis=0) > 0, result, np.float32(0))


def _median(images, confidences):
    """The median (x, y, z) of the images whose confidence is above 0, undefined without any."""
    counts = [weight > 0 for weight in confidences]
    known = [np.where(c, image, np.inf) for image, c in zip(images, counts, strict=True)]
    known = np.sort(known, axis=0)
    number = np.maximum(1, np.sum(counts, axis=0, keepdims=True))
    ends = [np.take_along_axis(known, k, axis=0)[0] for k in ((number - 1) // 2, number // 2)]
    return ((ends[0] + ends[1]) / 2).astype(np.float32)


def _check_fusion(fusion):
    if fusion not in FUSIONS:
        raise UserError(f"fusion must be one of {', '.join(FUSIONS)}, received {fusion!r}")


def _matched(image, reference, region):
    if np.count_nonzero(region) < 2:
        return image
    deviation, wanted = float(image[region].std()), float(reference[region].std())
    gain = wanted / deviation if deviation > 0 and wanted > 0 else 1.0
    if deviation * wanted > 0 and np.corrcoef(image[region], reference[region])[0, 1] < _INVERTED:
        gain = -gain
    offset = float(reference[region].mean()) - gain * float(image[region].mean())
    return (image * np.float32(gain) + np.float32(offset)).astype(np.float32)


def _of_the_surest(masks, confidences):
    result, best = masks[0].astype(np.float32), confidences[0]
    for mask, weight in zip(masks[1:], confidences[1:], strict=True):
        surer = weight > best
        result = np.where(surer, mask, result)
        best = np.maximum(best, weight)
    return result


def _vote(masks, confidences):
    counts = [weight > 0 for weight in confidences]
    votes = sum(
        (count & (mask >= 0.5)).astype(np.float32)
        for mask, count in zip(masks, counts, strict=True)
    )
    voters = np.sum(counts, axis=0, dtype=np.float32)
    share = np.divide(votes, voters, out=np.zeros_like(votes), where=voters > 0)
    tie = np.abs(share - 0.5) < _TIE
    sure = weighted_mean([(mask >= 0.5).astype(np.float32) for mask in masks], confidences)
    # Just beside one half, on the side of the surer views.
    return np.where(tie, 0.5 + np.where(sure >= 0.5, 0, -0.01), share).astype(np.float32)
