# SPDX-License-Identifier: MIT
"""What becomes of aligned views: one mask, one image, and how well they agree."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segsrgan.volumes import Volume
from supermask.agreement import Agreement, agreements
from supermask.fusion import confidence, fuse, fuse_images
from supermask.geometry import sample, sampling
from supermask.rigid import Rigid

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
        mask: uint8, 1 where the probability reaches the threshold; of votes, one half.
        probability: float32 in [0, 1]; of votes, the share of the views.
        image: float32, the views' intensities fused, in those of the reference.
        views: an `AlignedView` of each view, the reference first.
        agreements: an `Agreement` of every two of them.
        lost: stacks that could not be used, and why, a str each.
        warnings: what is doubtful, a str each.
        alignment: how they were aligned, one of `supermask.settings.ALIGNMENTS`.
    """

    mask: Volume
    probability: Volume
    image: Volume
    views: tuple[AlignedView, ...]
    agreements: tuple[Agreement, ...]
    lost: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    alignment: str | None = None

    @property
    def reference(self):
        """The name of the view whose pose the result has."""
        return self.views[0].name


def assemble(views, transforms, masks, grid, settings, lost=(), warnings=()):
    """The `Prediction` of aligned views.

    Args:
        views: a list of `View`, the reference first.
        transforms: a `Rigid` from the reference to each.
        masks: per view (x, y, z), the object's probability on the grid.
        grid: an isotropic `Grid` in the pose of the reference.
        settings: a `Settings`: `alignment` for the result, `fusion`, `width`, `least`, `threshold`.
        lost: str each, for the result.
        warnings: likewise.
    """
    pairs = list(zip(views, transforms, strict=True))
    samplings = [sampling(view.grid, grid, transform) for view, transform in pairs]
    confidences = [
        confidence(found, view.thickness, grid.spacing[0], settings.width)
        for found, view in zip(samplings, views, strict=True)
    ]
    warnings, weights = list(warnings), list(confidences)
    own = [mask >= settings.threshold for mask in masks]
    seen = [bool(part.any()) for part in own]
    if not any(seen):
        warnings.append("the object is seen in no view: the mask is empty")
    for k, view in enumerate(views):
        if any(seen) and not seen[k]:
            weights[k] = np.zeros_like(weights[k])
            warnings.append(f"{view.path}: the object is nowhere seen in it; its mask is left out")
    votes = settings.fusion == "vote"
    probability = fuse(own if votes else masks, weights, settings.fusion, settings.least)
    # What a view votes for, the threshold has said; how many it takes is another matter.
    mask = probability >= (0.5 if votes else settings.threshold)
    if any(seen) and not mask.any():
        warnings.append(
            "views see the object, but nowhere enough of them: the mask is empty; look at theirs"
        )
    near = ndimage.binary_dilation(mask, iterations=_SURROUNDINGS) if mask.any() else ~mask
    images = [sample(view.volume, grid, transform, order=3) for view, transform in pairs]
    image = fuse_images(images, confidences, near, settings.fusion)
    names = [view.name for view in views]
    found = agreements(names, own, images, [item.inside for item in samplings])
    for item in found:
        warnings += item.warnings()

    def placed(array):
        return Volume.from_grid(array, grid)

    aligned = [
        AlignedView(view.name, view.path, transform, placed(part.astype(np.uint8)))
        for (view, transform), part in zip(pairs, own, strict=True)
    ]
    return Prediction(
        placed(mask.astype(np.uint8)),
        placed(probability),
        placed(image),
        tuple(aligned),
        tuple(found),
        tuple(lost),
        tuple(warnings),
        settings.alignment,
    )
