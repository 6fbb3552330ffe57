# SPDX-License-Identifier: MIT
"""One patient: the views aligned, segmented and fused into one high-resolution mask."""

from dataclasses import replace

import numpy as np

from segsrgan.errors import UserError
from segsrgan.memory import GIB, available_memory
from supermask.alignment import align, check_alignment
from supermask.geometry import canonical_direction, corners, isotropic_grid, voxels_of
from supermask.prediction import assemble
from supermask.registration import Classical
from supermask.rigid import Rigid
from supermask.segmentation import segment, with_mask, without_islands
from supermask.settings import Settings
from supermask.sharpening import sharpen
from supermask.views import check_together, choose_reference, in_plane, with_unique_names

_BYTES = 40  # of a voxel of the result and a view, about
_STEPS = 4
_SEEN = 0.5  # probability from which a voxel shows the object, or the threshold if that is lower
_MARGIN = 3  # voxels of the result around the object


def predict_views(views, settings=None, networks=None, sharpener=None, progress=None):
    """Makes one high-resolution mask of one, two or three stacks of a patient.

    Args:
        views: a list of `View`. A mask that one has is used; the segmentor makes the others.
        settings: a `Settings`.
        networks: `Networks` of `load_networks`; None where all views have masks.
        sharpener: of `load_sharpener`; None: the stacks are not super-resolved.
        progress: called as `progress(what is done now, steps done, steps in all)`.

    Returns:
        A `Prediction`.

    Raises:
        UserError: if there is no view, none has a mask and nothing can make one, two do not
            meet in patient space or are of different patients, or the result would not fit in
            memory.
    """
    settings = settings or Settings()
    segmentor, alignnet = (getattr(networks, n, None) for n in ("segmentor", "alignnet"))
    alignment = settings.alignment or ("alignnet" if alignnet is not None else "classical")
    check_alignment(alignment, alignnet)
    settings = replace(settings, alignment=alignment)
    progress = progress or (lambda *_: None)
    least = min(_SEEN, settings.threshold)
    views, lost, warnings = _usable(list(views), segmentor, least)
    first = choose_reference(views, settings.reference)
    views.insert(0, views.pop(first))
    if sharpener is not None:
        progress("super-resolving", 0, _STEPS)
        views = [sharpen(view, sharpener, settings.patch) for view in views]
    progress("segmenting", 1, _STEPS)
    drawn = [view.mask is not None for view in views]
    complete = [
        view if own else with_mask(view, segmentor, settings.patch)
        for view, own in zip(views, drawn, strict=True)
    ]
    # These say where the object is; its mask is made of the complete ones.
    views = [
        view if own else without_islands(view) for view, own in zip(complete, drawn, strict=True)
    ]
    progress("aligning", 2, _STEPS)
    refining = alignment == "alignnet" and settings.refine is not False
    options = (alignment, alignnet, settings.passes, refining, Classical(settings.on))
    transforms = [Rigid(), *(align(views[0], view, *options) for view in views[1:])]
    progress("fusing", 3, _STEPS)
    grid, cut = _result_grid(views, transforms, settings, None if all(drawn) else segmentor)
    masks = [
        segment(segmentor, view, grid, transform, settings.patch)
        if settings.order == "align" and not own
        else whole.mask_on(grid, transform)
        for view, whole, transform, own in zip(views, complete, transforms, drawn, strict=True)
    ]
    result = assemble(views, transforms, masks, grid, settings, lost, [*warnings, *cut])
    progress("fusing", _STEPS, _STEPS)
    return result


def _usable(views, segmentor, least):
    """The views that can contribute, with names of their own; what is lost; what is doubtful.

    Those whose mask is nowhere `least` show no object.
    """
    if not views:
        raise UserError("expected one to three views, received none")
    kept, lost = [], []
    for view in views:
        seen = segmentor is not None if view.mask is None else (view.mask.array >= least).any()
        if seen:
            kept.append(view)
        else:
            what = "has no mask" if view.mask is None else "its mask is empty"
            lost.append(f"{view.path}: {what}; it is left out, and its detail with it")
    if not kept:
        what = (
            "have masks" if all(view.mask is None for view in views) else "have masks with voxels"
        )
        raise UserError(
            f"{', '.join(view.path for view in views)}: none {what}; give masks of the object, or "
            "weights with a segmentor"
        )
    warnings = check_together(kept)
    if len(kept) == 1 and kept[0].axis is not None:
        warnings.append(f"{kept[0].path}: is the only view; between its slices nothing is known")
    return with_unique_names(kept), lost, warnings


def _result_grid(views, transforms, settings, segmentor):
    """The grid around the object in the pose of the first view, and warnings, a list of str."""
    spacing = settings.spacing or (
        segmentor.spec.spacing if segmentor else min(in_plane(view.grid) for view in views)
    )
    direction = canonical_direction(views[0].grid.direction)
    least = min(_SEEN, settings.threshold)
    points = [
        transform.inverse().apply(voxels_of(view.mask, least))
        for view, transform in zip(views, transforms, strict=True)
        if (view.mask.array >= least).any()
    ] or [corners(views[0].grid)]
    margin = max(view.thickness for view in views) / 2 + _MARGIN * spacing
    points = np.concatenate(points)
    grid = isotropic_grid(points, direction, spacing, settings.size, margin)
    needed, free = np.prod(grid.shape, dtype=float) * len(views) * _BYTES, available_memory()
    if free is not None and needed > free:
        raise UserError(
            f"a result of {'x'.join(map(str, grid.shape))} voxels of {spacing:g} mm needs about "
            f"{needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free; take a larger "
            "spacing, or a size"
        )
    share = _beyond(grid, points)
    if share == 0:
        return grid, []
    return grid, [
        f"{100 * share:.3g} % of the object lie beyond the result of {settings.size} voxels of "
        f"{spacing:g} mm and are cut off; take a larger size"
    ]


def _beyond(grid, points):
    """The share of points outside a grid's field of view."""
    index = grid.physical_to_index(points)
    outside = (index < -0.5) | (index > np.array(grid.shape) - 0.5)
    return float(outside.any(axis=-1).mean())
