# SPDX-License-Identifier: MIT
"""How near an image or a segmentation comes to its reference."""

import math

import numpy as np
from scipy import ndimage


def dice(a, b, mask=None):
    """Dice overlap 2 |A and B| / (|A| + |B|) of two binary arrays of one shape.

    Args:
        a: (x, y, z); every voxel other than 0 belongs to it.
        b: likewise.
        mask: likewise; only voxels inside count. None: all.

    Returns:
        0 (disjoint) to 1 (equal); 1.0 where both are empty: they agree.

    Raises:
        ValueError: if the shapes differ.
    """
    a, b, mask = _prepare(a, b, mask)
    a, b = a != 0, b != 0
    if mask is not None:
        a, b = a & mask, b & mask
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def psnr(reference, image, mask=None):
    """Peak signal-to-noise ratio in dB (SegSRGAN paper, eq. 15).

    10 log10(peak^2 / mean squared error), the peak being the largest value of the reference
    (inside the mask), not its range.

    Args:
        reference: (x, y, z), real.
        image: likewise.
        mask: (x, y, z); only voxels other than 0 count. None: all.

    Returns:
        dB; infinite for equal images.

    Raises:
        ValueError: if the shapes differ, the mask is empty or the peak not positive.
    """
    reference, image, mask = _prepare(reference, image, mask)
    if mask is not None:
        reference, image = reference[mask], image[mask]
    peak = float(reference.max())
    if not peak > 0:
        raise ValueError(f"the reference's largest value must be positive, received {peak:g}")
    error = float(np.mean(np.square(np.subtract(reference, image, dtype=np.float64))))
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(reference, image, mask=None, window=7):
    """Mean structural similarity over windows of `window`^3 voxels (SegSRGAN paper, sec. 4.2).

    scikit-image's `structural_similarity` with a uniform window and its default constants; the
    data range is the reference's maximum less its minimum (inside the mask). Without a mask the
    mean leaves out the border where windows are cut; with one it is over all voxels inside.

    Args:
        reference: (x, y, z), real.
        image: likewise.
        mask: (x, y, z); only voxels other than 0 count. None: all.
        window: voxels, odd, no larger than any axis.

    Returns:
        At most 1, for equal images.

    Raises:
        ValueError: if the shapes differ, the mask is empty, the reference constant or the window
            too large.
    """
    from skimage.metrics import structural_similarity  # slow to import

    reference, image, mask = _prepare(reference, image, mask)
    if window % 2 == 0 or not 3 <= window <= min(reference.shape):
        raise ValueError(
            f"window must be odd and between 3 and the smallest axis of {reference.shape}, "
            f"received {window}"
        )
    inside = reference if mask is None else reference[mask]
    data_range = float(inside.max()) - float(inside.min())
    if not data_range > 0:
        raise ValueError(f"the reference must have contrast, received only {inside.flat[0]:g}")
    # Far outside the mask nothing counts: compute on its bounding box and half a window around.
    box = ... if mask is None else _box(mask, window)
    mean, local = structural_similarity(
        reference[box].astype(np.float64),
        image[box].astype(np.float64),
        win_size=window,
        data_range=data_range,
        full=True,
    )
    return float(mean if mask is None else local[mask[box]].mean())


def connected_components(binary, mask=None, connectivity=3):
    """Number of connected components of a binary array.

    Args:
        binary: (x, y, z); every voxel other than 0 belongs to it.
        mask: likewise; only voxels inside count. None: all.
        connectivity: 1 (6 neighbours share a face), 2 (18, an edge) or 3 (26, a corner).

    Raises:
        ValueError: if the shapes differ or the connectivity is unknown.
    """
    if connectivity not in (1, 2, 3):
        raise ValueError(f"connectivity must be 1, 2 or 3, received {connectivity!r}")
    binary, _, mask = _prepare(binary, binary, mask)
    binary = binary != 0 if mask is None else (binary != 0) & mask
    return int(ndimage.label(binary, ndimage.generate_binary_structure(3, connectivity))[1])


def _prepare(first, second, mask):
    """Arrays of one shape, and a boolean mask that is not empty, or None."""
    first, second = np.asarray(first), np.asarray(second)
    mask = None if mask is None else np.asarray(mask) != 0
    shapes = [array.shape for array in (first, second, mask) if array is not None]
    if first.ndim != 3 or len(set(shapes)) > 1:
        raise ValueError(f"arrays and mask must have one shape (x, y, z), received {shapes}")
    if mask is not None and not mask.any():
        raise ValueError("the mask must hold at least one voxel, received an empty one")
    return first, second, mask


def _box(mask, window):
    """Slices around the mask with half a window to spare and at least a window long."""
    slices = []
    for size, axis in zip(mask.shape, range(3), strict=True):
        others = tuple(k for k in range(3) if k != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        slices.append(slice(max(0, inside[0] - window), min(size, inside[-1] + window + 1)))
    return tuple(slices)
