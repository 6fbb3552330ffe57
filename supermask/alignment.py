# SPDX-License-Identifier: MIT
"""Bringing a view into the pose of the reference: by AlignNet, classically, or not at all."""

import numpy as np

from segsrgan.errors import UserError
from supermask.geometry import canonical_direction, corners, isotropic_grid, voxels_of
from supermask.registration import Classical, refine, register
from supermask.rigid import Rigid
from supermask.settings import ALIGNMENTS


def align(reference, view, alignment, alignnet=None, passes=1, refining=False, classical=None):
    """The rigid transform from the reference to a view.

    Args:
        reference: a `View`.
        view: a `View`.
        alignment: one of `ALIGNMENTS`; "none" trusts the headers.
        alignnet: a model of `build_alignnet`, for "alignnet".
        passes: of AlignNet, each on what the last has aligned.
        refining: whether the classical optimiser goes on from AlignNet's answer; the better is
            kept.
        classical: a `Classical`, its settings.

    Returns:
        A `Rigid`.

    Raises:
        UserError: if an argument is out of range, or there is nothing to register.
    """
    check_alignment(alignment, alignnet)
    if alignment == "none":
        return Rigid()
    classical = classical or Classical()
    if alignment == "classical":
        return register(reference, view, classical).transform
    transform = align_by_network(alignnet, reference, view, passes)
    return refine(reference, view, transform, classical).transform if refining else transform


def check_alignment(alignment, alignnet):
    """Raises `UserError` if the arguments of `align` are wrong or do not fit together."""
    if alignment not in ALIGNMENTS:
        raise UserError(f"alignment must be one of {', '.join(ALIGNMENTS)}, received {alignment!r}")
    if alignment == "alignnet" and alignnet is None:
        raise UserError(
            "alignment alignnet needs weights with an AlignNet; name them, or take classical"
        )


def align_by_network(alignnet, reference, view, passes=1):
    """The rigid transform from the reference to a view that AlignNet sees.

    Where both have masks, their middles are put on each other first. Every pass looks at the
    view's own voxels at the transform so far, so that nothing is interpolated twice.

    Args:
        alignnet: a model of `build_alignnet`.
        reference: a `View`.
        view: a `View`.
        passes: how often.
    """
    spec = alignnet.spec
    points = voxels_of(reference.mask) if reference.has_object else corners(reference.grid)
    direction = canonical_direction(reference.grid.direction)
    grid = isotropic_grid(points, direction, spec.spacing, spec.size)
    fixed = _batch(reference.image_on(grid, through=spec.through))
    transform = Rigid()
    if reference.has_object and view.has_object:
        transform = Rigid(translation=voxels_of(view.mask).mean(axis=0) - points.mean(axis=0))
    for _ in range(passes):
        moving = _batch(view.image_on(grid, transform, spec.through))
        parameters = np.asarray(alignnet.predict_on_batch([moving, fixed]))[0]
        # The network's motion comes first: it is one of points of the grid.
        transform = transform @ motion_of(parameters, grid, spec)
    return transform


def motion_of(parameters, grid, spec):
    """The motion of points of a grid that AlignNet's answer means, a `Rigid`.

    Args:
        parameters: (6,) radians and mm along the axes of the grid.
        grid: an isotropic `Grid` with right-handed axes.
        spec: the network's `AlignNetSpec`; `supermask.alignnet.motion_matrices` says what its
            `antisymmetric` means.
    """
    if not spec.antisymmetric:
        return Rigid.in_grid(parameters, grid)
    half = np.asarray(parameters, np.float64) / 2
    return Rigid.in_grid(half, grid) @ Rigid.in_grid(-half, grid).inverse()


def _batch(array):
    return array[np.newaxis, ..., np.newaxis]
