# SPDX-License-Identifier: MIT
"""The views of one patient aligned, segmented and fused into one high-resolution mask."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.memory import GIB, available_memory
from segsrgan.volumes import Volume
from supermask.consistency import BYTES, Residual, make_consistent
from supermask.fusion import (
    Agreement,
    agreements,
    confidence,
    fuse,
    fuse_images,
    mapped,
    match_intensities,
)
from supermask.geometry import Rigid, corners, isotropic_grid, sample, sampling, voxels_of
from supermask.registration import RegistrationSettings, register
from supermask.settings import PredictionSettings
from supermask.views import check_together, choose_reference, in_plane, with_unique_names

_BYTES = 40  # of a voxel of the result and a view, about
_STEPS = 4
_SEEN = 0.5  # probability from which a voxel shows the object, or the threshold if that is lower
_MARGIN = 3  # voxels of the result around the object
_SURROUNDINGS = 3  # voxels around the mask in which intensities are matched


@dataclass(frozen=True, eq=False)
class AlignedView:
    """A view in the pose of the reference, on the result's grid."""

    name: str
    path: str  # of its stack
    transform: Rigid  # from the reference to the view; a resampler takes it as it is
    mask: Volume  # uint8, the view's mask alone
    series: str | None = None  # of DICOM, None where there was nothing to choose


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of the views of a patient; all volumes lie on one isotropic grid."""

    mask: Volume  # uint8, 1 where the probability reaches the threshold; of votes, one half
    probability: Volume  # float32 in [0, 1]; of votes, the fraction of the views
    image: Volume  # float32, the views' intensities fused, in those of the reference
    views: tuple[AlignedView, ...]  # the reference first
    agreements: tuple[Agreement, ...]  # of every two of them
    residuals: tuple[Residual, ...] = ()  # of each view's slices, where the image agrees with them
    lost: tuple[str, ...] = ()  # stacks that could not be used, and why
    warnings: tuple[str, ...] = ()  # what is doubtful
    alignment: str | None = None  # how they were aligned, one of `supermask.settings.ALIGNMENTS`

    @property
    def is_doubtful(self):
        """Whether masks that were aligned hardly overlap."""
        return any(item.is_doubtful for item in self.agreements)

    @property
    def reference(self):
        """The name of the view whose pose the result has."""
        return self.views[0].name


def predict_views(views, settings=None, networks=None, sharpener=None, progress=None):
    """The `Prediction` of one, two or three `View`s, see `supermask.predict`.

    A mask that a view has is used; the segmentor of the `Networks` makes the others. The
    sharpener, a `segsrgan.Predictor` or None, super-resolves the stacks first.
    """
    settings = settings or PredictionSettings()
    segmentor, alignnet = (getattr(networks, n, None) for n in ("segmentor", "alignnet"))
    alignment = settings.alignment or ("alignnet" if alignnet is not None else "classical")
    check_alignment(alignment, alignnet)
    settings = replace(settings, alignment=alignment)
    progress = progress or (lambda *_: None)
    views, lost, warnings = _usable(list(views), settings, segmentor)
    if sharpener is not None:
        progress("super-resolving", 0, _STEPS)
        views = [_sharpened(view, sharpener, settings.patch) for view in views]
    progress("segmenting", 1, _STEPS)
    drawn, complete = [view.mask is not None for view in views], views
    if not all(drawn):
        from supermask.networks import segment, with_mask, without_islands  # loads Keras

        complete = [with_mask(view, segmentor, settings.patch) for view in views]
        # What shows where the object is; the result is made of all that the segmentor sees.
        views = [v if d else without_islands(v) for v, d in zip(complete, drawn, strict=True)]
    progress("aligning", 2, _STEPS)
    transforms = [Rigid(), *(_aligned(views[0], view, settings, alignnet) for view in views[1:])]
    progress("fusing", 3, _STEPS)
    grid, cut = _result_grid(views, transforms, settings, None if all(drawn) else segmentor)
    masks = [
        view.mask_on(grid, transform)
        if is_drawn or settings.order == "segment"
        else segment(segmentor, view, grid, transform, settings.patch)
        for view, transform, is_drawn in zip(complete, transforms, drawn, strict=True)
    ]
    result = _assembled(views, transforms, masks, grid, settings, lost, [*warnings, *cut])
    progress("fusing", _STEPS, _STEPS)
    return result


def check_alignment(alignment, alignnet):
    """Raises `UserError` if AlignNet is asked for and missing."""
    if alignment == "alignnet" and alignnet is None:
        raise UserError(
            "alignment alignnet needs weights with an AlignNet; name them, or take classical"
        )


def _aligned(reference, view, settings, alignnet=None):
    """The `Rigid` from the reference to a view."""
    start = None if settings.alignment == "classical" else Rigid()
    if settings.alignment == "alignnet":
        from supermask.networks import align_by_network  # loads Keras

        start = align_by_network(alignnet, reference, view, settings.passes)
    if settings.alignment == "none" or start and settings.refine is False:
        return start
    return register(reference, view, RegistrationSettings(on=settings.on), start).transform


def _sharpened(view, predictor, patch):
    """A view that SegSRGAN brings to its in-plane spacing; it remembers the scanner's slices."""
    if view.axis is None:
        return view
    spacing = in_plane(view.grid)
    sharp = predictor.predict(view.volume, patch=patch, new_resolution=spacing).sr
    return replace(view, volume=sharp, acquired=view.volume)


def _usable(views, settings, segmentor):
    """The views that can contribute, the reference first, with unique names; lost; warnings."""
    if not views:
        raise UserError("expected one to three views, received none")
    least = min(_SEEN, settings.threshold)  # a mask that is nowhere so probable shows no object
    kept, lost = [], []
    for view in views:
        if segmentor is not None if view.mask is None else (view.mask.array >= least).any():
            kept.append(view)
        else:
            what = "has no mask" if view.mask is None else "its mask is empty"
            lost.append(f"{view.path}: {what}; it is left out, and its detail with it")
    if not kept:
        with_voxels = "" if all(view.mask is None for view in views) else " with voxels"
        raise UserError(
            f"{', '.join(view.path for view in views)}: none have masks{with_voxels}; give masks "
            "of the object, or weights with a segmentor"
        )
    warnings = check_together(kept)
    if len(kept) == 1 and kept[0].axis is not None:
        warnings.append(f"{kept[0].path}: is the only view; between its slices nothing is known")
    kept = with_unique_names(kept)
    kept.insert(0, kept.pop(choose_reference(kept, settings.reference)))
    return kept, lost, warnings


def _result_grid(views, transforms, settings, segmentor):
    """The grid around the object in the pose of the first view, and warnings, a list of str."""
    spacing = settings.spacing or (
        segmentor.spec.spacing if segmentor else min(in_plane(view.grid) for view in views)
    )
    least = min(_SEEN, settings.threshold)
    points = [
        transform.inverse().apply(voxels_of(view.mask, least))
        for view, transform in zip(views, transforms, strict=True)
        if (view.mask.array >= least).any()
    ] or [corners(views[0].grid)]
    margin = max(view.thickness for view in views) / 2 + _MARGIN * spacing
    points = np.concatenate(points)
    grid = isotropic_grid(points, views[0].grid.direction, spacing, settings.size, margin)
    grid = replace(grid, space=views[0].grid.space)
    is_on = settings.consistency == "on"
    needed = np.prod(grid.shape, dtype=float) * len(views) * (_BYTES + BYTES * is_on)
    if needed > (free := available_memory()):
        remedy = "a larger spacing, or a size" + ", or consistency off" * is_on
        raise UserError(
            f"a result of {'x'.join(map(str, grid.shape))} voxels of {spacing:g} mm needs about "
            f"{needed / GIB:.3g} GiB of memory, {free / GIB:.3g} GiB are free; take {remedy}"
        )
    index = grid.physical_to_index(points)
    outside = ((index < -0.5) | (index > np.array(grid.shape) - 0.5)).any(axis=-1).mean()
    text = (
        f"{100 * outside:.3g} % of the object lie beyond the result of {settings.size} voxels of "
        f"{spacing:g} mm and are cut off; take a larger size"
    )
    return grid, [text] if outside else []


def _assembled(views, transforms, masks, grid, settings, lost, warnings):
    """The `Prediction` of aligned views, whose masks are probabilities (x, y, z) on the grid."""
    pairs = list(zip(views, transforms, strict=True))
    samplings = [sampling(view.grid, grid, transform) for view, transform in pairs]
    confidences = [
        confidence(found, view.thickness, grid.spacing[0], settings.width)
        for found, view in zip(samplings, views, strict=True)
    ]
    binary = [mask >= settings.threshold for mask in masks]
    probability, mask, doubts = _fused(views, masks, binary, confidences, settings)
    near = ndimage.binary_dilation(mask, iterations=_SURROUNDINGS) if mask.any() else ~mask
    images = [sample(view.clipped, grid, transform, order=3) for view, transform in pairs]
    profiles = [view.covariance(grid, transform) for view, transform in pairs]
    maps = match_intensities(images, confidences, near, profiles)
    matched = [mapped(part, *item) for part, item in zip(images, maps, strict=True)]
    image = Volume.from_grid(fuse_images(matched, confidences, settings.fusion), grid)
    residuals = []
    if settings.consistency == "on":
        region = _around(mask, views, grid) & (np.sum(confidences, axis=0) > 0)
        image, residuals = _consistent(image, views, transforms, maps, region)
    if any(item.kept for item in residuals):
        doubts.append(
            "the slices of the views contradict each other, as with unlike contrasts or a failed "
            "alignment: the image is as fused and does not agree with them"
        )
    names = [view.name for view in views]
    agreement = agreements(names, binary, images, [item.inside for item in samplings])
    doubts += [text for item in agreement for text in item.warnings()]
    aligned = [
        AlignedView(
            v.name, v.path, transform, Volume.from_grid(part.astype(np.uint8), grid), v.series
        )
        for (v, transform), part in zip(pairs, binary, strict=True)
    ]
    return Prediction(
        mask=Volume.from_grid(mask.astype(np.uint8), grid),
        probability=Volume.from_grid(probability, grid),
        image=image,
        views=tuple(aligned),
        agreements=tuple(agreement),
        residuals=tuple(residuals),
        lost=tuple(lost),
        warnings=(*warnings, *doubts),
        alignment=settings.alignment,
    )


def _around(mask, views, grid):
    """The object and what the profile of a slice beside it covers, bool (x, y, z).

    Further away the patient may have moved otherwise than the object, to which views are aligned.
    """
    if not mask.any():
        return np.ones_like(mask)
    distance = ndimage.distance_transform_edt(~mask, grid.spacing)
    return distance <= max(view.thickness for view in views)


def _consistent(image, views, transforms, maps, region):
    """An image in agreement with the views' slices in a region, and their `Residual`s."""
    slices = [view.slices for view in views]
    scans = [s.with_array(mapped(s.array, *item)) for s, item in zip(slices, maps, strict=True)]
    return make_consistent(image, scans, transforms, region, [view.profile for view in views])


def _fused(views, masks, binary, confidences, settings):
    """The fused probability and mask (x, y, z), and warnings, a list of str."""
    weights, warnings = list(confidences), []
    sees = [bool(part.any()) for part in binary]
    if not any(sees):
        warnings.append("the object is seen in no view: the mask is empty")
    for k, view in enumerate(views):
        if any(sees) and not sees[k]:
            weights[k] = np.zeros_like(weights[k])
            warnings.append(f"{view.path}: the object is nowhere seen in it; its mask is left out")
    votes = settings.fusion == "vote"
    probability = fuse(binary if votes else masks, weights, settings.fusion, settings.least)
    # The threshold has decided what a view votes for; how many votes it takes is another matter.
    mask = probability >= (0.5 if votes else settings.threshold)
    if any(sees) and not mask.any():
        warnings.append(
            "views see the object, but nowhere enough of them: the mask is empty; look at theirs"
        )
    return probability, mask, warnings
