# SPDX-License-Identifier: MIT
"""One patient: the views aligned, segmented and fused into one high-resolution mask."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.inference.resources import GIB, available_memory
from segsrgan.volumes import Volume
from supermask.agreement import Agreement, agreements
from supermask.alignment import align, check_alignment
from supermask.errors import SupermaskError
from supermask.fusion import confidence, fuse, fuse_images
from supermask.geometry import (
    canonical_direction,
    corners,
    isotropic_grid,
    sample,
    sampling,
    voxels_of,
)
from supermask.registration import Classical
from supermask.rigid import Rigid
from supermask.segmentation import segment, with_mask
from supermask.settings import Settings
from supermask.views import check_together, choose_reference, with_unique_names

_BYTES = 40  # of a voxel of the result and a view, about
_STEPS = 3
_SURROUNDINGS = 3  # voxels around the mask in which intensities are matched


@dataclass(frozen=True, eq=False)
class AlignedView:
    """A view in the pose of the reference, on the result's grid.

    Attributes:
        name: of the view.
        path: of its stack.
        transform: a `Rigid` from the reference to the view; a resampler to the reference takes it
            as it is.
        mask: uint8 `Volume`, its own mask.
    """

    name: str
    path: str
    transform: Rigid
    mask: Volume


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of the views of a patient; all volumes lie on one isotropic grid.

    Attributes:
        mask: uint8, 1 where the probability reaches the threshold.
        probability: float32 in [0, 1].
        image: float32, the views' intensities fused, in those of the reference.
        views: an `AlignedView` of each view, the reference first.
        agreements: an `Agreement` of every two of them.
        warnings: what is lost or doubtful, a str each.
    """

    mask: Volume
    probability: Volume
    image: Volume
    views: tuple[AlignedView, ...]
    agreements: tuple[Agreement, ...]
    warnings: tuple[str, ...]

    @property
    def reference(self):
        """The name of the view whose pose the result has."""
        return self.views[0].name


def predict(views, settings=None, networks=None, progress=None):
    """Makes one high-resolution mask of one, two or three stacks of a patient.

    Args:
        views: a list of `View`. A mask that one has is used; the segmentor makes the others.
        settings: a `Settings`.
        networks: `Networks` of `load_networks`; None where all views have masks.
        progress: called as `progress(what is done now, steps done, steps in all)`.

    Returns:
        A `Prediction`.

    Raises:
        SupermaskError: if there is no view, none has a mask and nothing can make one, two do not
            meet in patient space, or the result would not fit in memory.

    Example:
        >>> views = [read_view(f"{k}.nii.gz", f"{k}_mask.nii.gz") for k in ("axial", "coronal")]
        >>> result = predict(views, Settings(alignment="classical"))
        >>> result.mask.spacing, result.views[1].transform.angle()
    """
    settings = settings or Settings()
    segmentor, alignnet = (getattr(networks, n, None) for n in ("segmentor", "alignnet"))
    progress = progress or (lambda *_: None)
    views, warnings = _usable(list(views), segmentor)
    first = choose_reference(views, settings.reference)
    views.insert(0, views.pop(first))
    progress("segmenting", 0, _STEPS)
    drawn = [view.mask is not None for view in views]
    views = [
        view if own else with_mask(view, segmentor, settings.patch)
        for view, own in zip(views, drawn, strict=True)
    ]
    progress("aligning", 1, _STEPS)
    alignment = settings.alignment or ("alignnet" if alignnet is not None else "classical")
    options = (alignment, alignnet, settings.passes, settings.refine, Classical(settings.on))
    check_alignment(alignment, alignnet)
    transforms = [Rigid(), *(align(views[0], view, *options) for view in views[1:])]
    progress("fusing", 2, _STEPS)
    grid = _result_grid(views, transforms, settings, segmentor)
    masks = [
        segment(segmentor, view, grid, transform, settings.patch)
        if settings.order == "align" and not own
        else view.mask_on(grid, transform)
        for view, transform, own in zip(views, transforms, drawn, strict=True)
    ]
    result = _fused(views, transforms, masks, grid, settings, warnings)
    progress("fusing", _STEPS, _STEPS)
    return result


def _usable(views, segmentor):
    """The views that can contribute, with names of their own, and what is lost."""
    if not views:
        raise SupermaskError("expected one to three views, received none")
    kept, warnings = [], []
    for view in views:
        if view.has_object or (view.mask is None and segmentor is not None):
            kept.append(view)
        else:
            what = "has no mask" if view.mask is None else "its mask is empty"
            warnings.append(f"{view.path}: {what}; it is left out, and its detail with it")
    if not kept:
        what = (
            "have masks" if all(view.mask is None for view in views) else "have masks with voxels"
        )
        raise SupermaskError(
            f"{', '.join(view.path for view in views)}: none {what}; give masks of the object, or "
            "weights with a segmentor"
        )
    warnings += check_together(kept)
    if len(kept) == 1 and kept[0].axis is not None:
        warnings.append(f"{kept[0].path}: is the only view; between its slices nothing is known")
    return with_unique_names(kept), warnings


def _result_grid(views, transforms, settings, segmentor):
    """Around the object in the pose of the reference, which is the first view."""
    spacing = settings.spacing or (segmentor.spec.spacing if segmentor else _finest(views))
    direction = canonical_direction(views[0].grid.direction)
    points = [
        transform.inverse().apply(voxels_of(view.mask))
        for view, transform in zip(views, transforms, strict=True)
        if view.has_object
    ] or [corners(views[0].grid)]
    margin = max(view.thickness for view in views) / 2 + _SURROUNDINGS * spacing
    grid = isotropic_grid(np.concatenate(points), direction, spacing, settings.size, margin)
    needed, free = np.prod(grid.shape, dtype=float) * len(views) * _BYTES, available_memory()
    if free is not None and needed > free:
        raise SupermaskError(
            f"a result of {'x'.join(map(str, grid.shape))} voxels of {spacing:g} mm needs about "
            f"{needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; take a larger "
            "spacing, or a size"
        )
    return grid


def _finest(views):
    """The smallest in-plane spacing: the larger of each view's two."""
    return min(
        max(size for axis, size in enumerate(view.grid.spacing) if axis != view.axis)
        for view in views
    )


def _fused(views, transforms, masks, grid, settings, warnings):
    pairs = list(zip(views, transforms, strict=True))
    samplings = [sampling(view.grid, grid, transform) for view, transform in pairs]
    confidences = [
        confidence(found, view.thickness, grid.spacing[0], settings.width)
        for found, view in zip(samplings, views, strict=True)
    ]
    names = [view.name for view in views]
    seen = [bool((mask >= settings.threshold).any()) for mask in masks]
    for view, found, weight in zip(views, seen, confidences, strict=True):
        if any(seen) and not found:
            weight[...] = 0
            warnings.append(f"{view.path}: the object is nowhere seen in it; its mask is left out")
    if not any(seen):
        warnings.append("the object is seen in no view: the mask is empty")
    probability = fuse(masks, confidences, settings.fusion, settings.least)
    mask = probability >= settings.threshold
    # Only here, and not from `confidences`: images count even where no object is seen.
    images = [sample(view.volume, grid, transform, order=3) for view, transform in pairs]
    sure = [
        confidence(found, view.thickness, grid.spacing[0], settings.width)
        for found, view in zip(samplings, views, strict=True)
    ]
    near = ndimage.binary_dilation(mask, iterations=_SURROUNDINGS) if mask.any() else ~mask
    image = fuse_images(images, sure, near)
    found = agreements(names, masks, images, [item.inside for item in samplings])
    for item in found:
        warnings += item.warnings()
    aligned = [
        AlignedView(
            view.name,
            view.path,
            transform,
            Volume.from_grid((own >= settings.threshold).astype(np.uint8), grid),
        )
        for (view, transform), own in zip(pairs, masks, strict=True)
    ]
    return Prediction(
        Volume.from_grid(mask.astype(np.uint8), grid),
        Volume.from_grid(probability, grid),
        Volume.from_grid(image, grid),
        tuple(aligned),
        tuple(found),
        tuple(warnings),
    )
