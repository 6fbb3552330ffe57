# SPDX-License-Identifier: MIT
"""From one grid to another: interpolation, and simulation of thick slices.

Interpolation by splines and the blur of a slice profile are linear and separable. So one small
matrix per axis, (new size, old size), holds either, and applying it is a matrix product.
"""

import math
from dataclasses import replace

import numpy as np
from scipy import ndimage, special

from segsrgan.config import INTERPOLATION_TYPES, INTERPS
from segsrgan.volumes.volume import Volume, check_spacing

PROFILES = ("gaussian", "box")
_MARGIN = 24  # samples; a spline's response has decayed to 1e-8 by then
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
# Of the interpolation that knows the slice profile, measured on real T1 and T2 images at 2 to 6
# times thicker slices; the result changes by less than 0.1 dB around them.
_CORRELATION_LENGTH = 0.5  # of the anatomy, slices
_NOISE_VARIANCE = 1e-3  # relative to the anatomy's


def resample_to(
    volume, grid, interp="scipy", interpolation_type="Spline", spline_order=3, thickness=None
):
    """Interpolate a volume at the voxel centres of a grid with parallel axes.

    Beyond the field of view the value at its edge is repeated.

    Args:
        volume: the source.
        grid: the target; its axes are those of the source, possibly flipped or permuted.
        interp: "scipy" (spline of `spline_order`), "sitk" (`interpolation_type`) or "profile": as
            "scipy", but along the source's thick axis the likeliest image whose slices, blurred
            as `degrade` does, are those given (a Gaussian process; Rasmussen and Williams 2006,
            Eq. 2.23).
        interpolation_type: with "sitk", a name of `segsrgan.config.INTERPOLATION_TYPES`.
        spline_order: with "scipy" and "profile", 0 (nearest neighbour) to 5.
        thickness: with "profile", of the slices in mm; None: the distance of their centres.

    Returns:
        A volume on `grid`: float32, but the source's dtype with nearest neighbour.

    Raises:
        ValueError: for unknown names or orders, a thickness that is not positive, or axes that are
            not parallel.
    """
    _check_choice("interp", interp, INTERPS)
    if interp == "sitk":
        return _resample_itk(volume, grid, interpolation_type)
    _check_order(spline_order)
    if thickness is not None and not 0 < thickness < math.inf:
        raise ValueError(f"thickness must be a positive number of mm, received {thickness}")
    source = volume.grid
    thick = source.thick_axis if interp == "profile" else None
    axes, signs = _parallel_axes(source, grid)
    start = source.physical_to_index(grid.origin)
    array = volume.array.transpose(axes)
    matrices = []
    for axis, sign, size, spacing in zip(axes, signs, grid.shape, grid.spacing, strict=True):
        points = start[axis] + np.arange(size) * (sign * spacing / source.spacing[axis])
        if axis == thick and spacing < source.spacing[axis] and spline_order:
            width = 1.0 if thickness is None else thickness / source.spacing[axis]
            matrices.append(_profile_inverse(source.shape[axis], points, width))
        else:
            matrices.append(_spline_matrix(source.shape[axis], points, spline_order))
    dtype = array.dtype if spline_order == 0 else np.float32
    return Volume.from_grid(apply_matrices(matrices, array).astype(dtype, copy=False), grid)


def resample(
    volume, spacing, interp="scipy", interpolation_type="Spline", spline_order=3, thickness=None
):
    """Interpolate a volume to another spacing over the same field of view.

    A physical point keeps its coordinates: the first corner stays, so the origin moves by half
    the difference of the voxel sizes (`Grid.corner_aligned`).

    Args:
        volume: the source.
        spacing: of the result, mm, one number or three.
        interp: "scipy", "sitk" or "profile"; `resample_to` says what they are.
        interpolation_type: with "sitk", a name of `segsrgan.config.INTERPOLATION_TYPES`.
        spline_order: with "scipy" and "profile", 0 (nearest neighbour) to 5.
        thickness: with "profile", of the slices in mm; None: the distance of their centres.

    Returns:
        A float32 volume; nearest neighbour keeps the source's dtype.

    Raises:
        ValueError: if the spacing is not positive and finite or makes more than 2^31 voxels, or
            for unknown names or orders, or a thickness that is not positive.

    Examples:
        >>> fine = resample(read_volume("t2.nii.gz"), (0.5, 0.5, 0.5))
    """
    grid = volume.grid.corner_aligned(spacing)
    return resample_to(volume, grid, interp, interpolation_type, spline_order, thickness)


def legacy_resample(volume, spacing, spline_order=3):
    """Interpolate as the released original did, its misplacement included.

    The numbers are those of `scipy.ndimage.zoom(array, old / new, order=spline_order)`, which
    aligns the outermost voxel centres, while origin and direction are kept and the spacing is
    said to be the one asked for: one number or three in mm. Returns a float32 volume. Raises
    `ValueError` if the spacing is not positive and finite or makes more than 2^31 voxels, or the
    order is not 0 to 5.
    """
    _check_order(spline_order)
    spacing = check_spacing(spacing)
    volume.grid.corner_aligned(spacing)  # refuses an absurd resolution
    matrices = [np.eye(size) for size in volume.array.shape]
    for axis, (old, new) in enumerate(zip(volume.spacing, spacing, strict=True)):
        if old != new:
            matrices[axis] = ndimage.zoom(matrices[axis], (old / new, 1), order=spline_order)
    return replace(volume, array=apply_matrices(matrices, volume.array), spacing=spacing)


def degrade(volume, spacing, thickness=None, profile="gaussian"):
    """Simulate a scan of lower resolution: blur by the slice profile, then decimate.

    The profile is a Gaussian whose full width at half maximum is the slice thickness, sigma =
    thickness / (2 sqrt(2 ln 2)) in mm (SegSRGAN paper, section 3.1), or a box of that width. Only
    axes whose spacing grows are touched; the others keep theirs. The result is a float32 volume
    over the same field of view.

    Args:
        volume: the high-resolution source.
        spacing: of the result, mm, one number or three.
        thickness: of the slices, mm, one number or three; None: the spacing.
        profile: "gaussian" or "box".

    Raises:
        ValueError: if spacing or thickness is not positive and finite, or for an unknown profile.
    """
    _check_choice("profile", profile, PROFILES)
    spacing = check_spacing(spacing)
    thickness = spacing if thickness is None else check_spacing(thickness, "thickness")
    source = volume.grid
    grows = [new > old * (1 + 1e-6) for old, new in zip(source.spacing, spacing, strict=True)]
    target = source.corner_aligned(np.where(grows, spacing, source.spacing))
    matrices = [np.eye(size) for size in source.shape]
    for axis in np.flatnonzero(grows):
        matrices[axis] = profile_matrix(source, target, axis, thickness[axis], profile)
    return Volume.from_grid(apply_matrices(matrices, volume.array), target)


def average_onto(volume, grid, labels=False):
    """A volume on a grid that may be turned: what the volume is, on average, in each voxel.

    Where the grid is coarser the volume is blurred by its voxels first; between voxels it is
    interpolated linearly, of `labels` the nearest is taken. Further than a voxel beyond the field
    of view all is 0. Returns a float32 volume, labels in their dtype. Raises `ValueError` if no
    voxel of the grid lies in the field of view.
    """
    source = volume.grid
    cosines = source.direction.T @ grid.direction
    matrix = cosines * grid.spacing / np.array(source.spacing)[:, None]
    offset = source.physical_to_index(grid.origin)
    if not (_meets(source, grid) or _meets(grid, source)):
        raise ValueError(
            "the grid lies elsewhere than the image: no voxel of it is in the image's field of "
            "view; take one of the same patient and space"
        )
    array = volume.array if labels else volume.array.astype(np.float32)
    if not labels:
        # Of a voxel as it lies along the source's axes, mm.
        edges = np.sqrt(np.square(cosines * grid.spacing).sum(axis=1))
        matrices = [np.eye(size) for size in source.shape]
        for axis in np.flatnonzero(edges > np.array(source.spacing) * (1 + 1e-6)):
            matrices[axis] = profile_matrix(source, source, axis, edges[axis], "box")
        array = apply_matrices(matrices, array)
    padded = np.pad(array, 1, "edge")
    order, shape = 0 if labels else 1, grid.shape
    moved = ndimage.affine_transform(padded, matrix, offset + 1, shape, order=order, cval=0)
    return Volume.from_grid(moved, grid)


def _meets(field, grid):
    """Whether one of some voxels of a grid lies in the field of view of another."""
    some = [np.unique(np.linspace(0, n - 1, 32).round()) for n in grid.shape]
    points = grid.index_to_physical(np.stack(np.meshgrid(*some, indexing="ij"), -1))
    indices = field.physical_to_index(points)
    return bool(((indices >= -0.5) & (indices <= np.array(field.shape) - 0.5)).all(-1).any())


def _spline_matrix(size, points, order):
    """Matrix (len(points), size) that interpolates `size` samples at continuous indices.

    The signal is mirrored at the outer faces of the outermost voxels, and constant beyond.
    """
    points = np.clip(points, -0.5, size - 0.5)
    if len(points) == size and np.allclose(points, np.arange(size), rtol=0, atol=1e-6):
        return np.eye(size)
    if order == 0:
        points = np.clip(np.rint(points), 0, size - 1)
    # The mirroring is done here: that of SciPy's spline filter is inexact for a few samples.
    mirrored = np.pad(np.eye(size), ((_MARGIN, _MARGIN), (0, 0)), "symmetric").T
    points = [points + _MARGIN]
    return np.stack([ndimage.map_coordinates(row, points, order=order) for row in mirrored], axis=1)


def _profile_inverse(size, points, width):
    """Matrix (len(points), size): the expectation at continuous indices, given blurred samples.

    The signal is a Gaussian process of squared exponential covariance and unknown mean, each
    sample its mean, with noise, under a Gaussian slice profile whose full width at half maximum is
    `width` times the samples' distance.
    """
    points = np.clip(points, -0.5, size - 0.5)
    slices, profile = np.arange(size), (width / _FWHM_PER_SIGMA) ** 2

    def covariance(a, b, blur):
        variance = _CORRELATION_LENGTH**2 + blur
        height = _CORRELATION_LENGTH / math.sqrt(variance)
        unknown_mean = 100.0
        return unknown_mean + height * np.exp((a[:, None] - b) ** 2 / (-2 * variance))

    between = covariance(slices, slices, 2 * profile) + _NOISE_VARIANCE * np.eye(size)
    return np.linalg.solve(between, covariance(slices, points, profile)).T


def profile_matrix(source, target, axis, thickness, profile="gaussian"):
    """The matrix (target's size, source's size) that blurs and decimates along an axis.

    `source` and `target` are grids over one field of view; for thickness in mm and profile see
    `degrade`. Every row sums to one.
    """
    step = source.spacing[axis]
    fine = (np.arange(source.shape[axis]) + 0.5) * step
    coarse = (np.arange(target.shape[axis]) + 0.5) * target.spacing[axis]
    # The last voxel of the target may have its centre beyond the source.
    distance = fine - np.clip(coarse, fine[0], fine[-1])[:, None]
    if profile == "box":
        half = max(thickness, step) / 2
        overlap = np.minimum(distance + step / 2, half) - np.maximum(distance - step / 2, -half)
        weights = np.maximum(overlap, 0)
        return weights / weights.sum(axis=1, keepdims=True)
    # The source is taken as linear between its voxels, which widens the profile by this much.
    sigma = math.sqrt(max((thickness / _FWHM_PER_SIGMA) ** 2 - step**2 / 6, (1e-9 * step) ** 2))

    def twice_integrated(x):
        z = x / sigma
        return sigma * (z * special.ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))

    left, middle, right = (twice_integrated(distance + k * step) for k in (-1, 0, 1))
    weights = np.maximum(left - 2 * middle + right, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def apply_matrices(matrices, array):
    """Multiply each axis of `array` by its (new, old) matrix; float32, C order."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    # Axes that shrink most go first, so that the later products are small.
    for axis in sorted(range(3), key=lambda k: matrices[k].shape[0] / matrices[k].shape[1]):
        rows, columns = matrices[axis].shape
        if rows == columns and np.array_equal(matrices[axis], np.eye(rows)):
            continue
        matrix = matrices[axis].astype(np.float32)
        shape = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
        if axis == 2:
            array = (array.reshape(-1, columns) @ matrix.T).reshape(shape)
        else:
            after = math.prod(array.shape[axis + 1 :])
            array = np.matmul(matrix, array.reshape(-1, columns, after)).reshape(shape)
    return array


def _parallel_axes(source, target):
    """For each target axis, the source axis it runs along and its sign."""
    cosines = source.direction.T @ target.direction
    axes = np.abs(cosines).argmax(axis=0)
    along = cosines[axes, range(3)]
    if not np.allclose(np.abs(along), 1, rtol=0, atol=1e-6):
        raise ValueError(
            "the grid's axes must be parallel to the volume's; between them lie cosines "
            f"{np.round(cosines, 4).tolist()}; try interp='sitk', or a grid with its direction"
        )
    return axes, np.sign(along)


def _resample_itk(volume, grid, interpolation_type):
    import SimpleITK as sitk

    from segsrgan.volumes.itk import from_itk, quiet, to_itk

    _check_choice("interpolation_type", interpolation_type, INTERPOLATION_TYPES)
    dtype = volume.array.dtype if interpolation_type == "NearestNeighbor" else np.float32
    image = to_itk(volume.with_array(volume.array.astype(np.float32, copy=False)))
    with quiet():
        result = sitk.Resample(
            image,
            size=grid.shape,
            interpolator=getattr(sitk, INTERPOLATION_TYPES[interpolation_type]),
            outputOrigin=grid.origin,
            outputSpacing=grid.spacing,
            outputDirection=grid.direction.ravel().tolist(),
            # Half a voxel at each border lies beyond the outermost centres; 0 would be black.
            useNearestNeighborExtrapolator=True,
        )
    return Volume.from_grid(from_itk(result).array.astype(dtype, copy=False), grid)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, received {value!r}")


def _check_order(order):
    if order not in range(6):
        raise ValueError(f"spline_order must be 0 to 5, received {order!r}; try 3")
