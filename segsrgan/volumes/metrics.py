# SPDX-License-Identifier: MIT
"""How near an image or a segmentation comes to its reference.

In masks and segmentations, arrays (x, y, z), every voxel other than 0 belongs to the object.
Arrays that are compared have one shape; anything else is a `ValueError`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from segsrgan.volumes.volume import check_spacing


def psnr(reference, image, mask=None):
    """Peak signal-to-noise ratio in dB (SegSRGAN paper, eq. 15); infinite for equal images.

    10 log10(peak^2 / mean squared error), the peak being the largest value of the reference
    (inside the mask), not its range. All arrays are (x, y, z), real; with a mask only voxels where
    it is not 0 count. Raises `ValueError` if the shapes differ, the mask is empty or the peak is
    not positive.
    """
    reference, image, mask = _same_shape(reference, image, mask)
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
        image: (x, y, z), real.
        mask: (x, y, z); only voxels other than 0 count. None: all.
        window: voxels, odd, no larger than any axis.

    Raises:
        ValueError: if the shapes differ, the mask is empty, the reference constant or the window
            too large.
    """
    from skimage.metrics import structural_similarity  # slow to import

    reference, image, mask = _same_shape(reference, image, mask)
    if window % 2 == 0 or not 3 <= window <= min(reference.shape):
        raise ValueError(
            f"window must be odd and between 3 and the smallest axis of {reference.shape}, "
            f"received {window}"
        )
    inside = reference if mask is None else reference[mask]
    data_range = float(inside.max()) - float(inside.min())
    if not data_range > 0:
        raise ValueError(f"the reference must have contrast, received only {inside.flat[0]:g}")
    # Far outside the mask nothing counts: compute on its bounding box and a window around.
    box = ... if mask is None else _box(mask, margin=window)
    pair = (array[box].astype(np.float64) for array in (reference, image))
    mean, local = structural_similarity(*pair, win_size=window, data_range=data_range, full=True)
    return float(mean if mask is None else local[mask[box]].mean())


def dice(a, b, mask=None):
    """Dice overlap 2 |A and B| / (|A| + |B|) of two segmentations (x, y, z), 0 to 1.

    1 where both are empty: they agree. With a mask (x, y, z) only voxels inside it count. Raises
    `ValueError` if the shapes differ or the mask is empty.
    """
    a, b = _binary(a, b, mask=mask)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


class OverlapErrors(NamedTuple):
    """What a segmentation misses and has in excess (SuperMask paper, section 3.3).

    Attributes:
        missed: 1 - |A and B| / |B|, the fraction of the truth B that the prediction A misses (the
            paper's OS); nan if the truth is empty.
        false: 1 - |A and B| / |A|, the fraction of the prediction that is false (US); nan if the
            prediction is empty.
    """

    missed: float
    false: float

    @property
    def rms(self):
        """Root of the mean square of both."""
        return math.sqrt((self.missed**2 + self.false**2) / 2)


def overlap_errors(prediction, truth):
    """The `OverlapErrors`, 0 to 1, of a segmentation and its truth, both (x, y, z).

    Raises `ValueError` if the shapes differ or are not 3-D.
    """
    a, b = _binary(prediction, truth)
    both = np.count_nonzero(a & b)
    sizes = np.count_nonzero(b), np.count_nonzero(a)
    return OverlapErrors(*(1 - both / size if size else math.nan for size in sizes))


def boundary_agreement(prediction, truth, flat=True):
    """Fraction of voxels that agree near the truth's boundary, the mean over five radii; 0 to 1.

    mBA in the SuperMask paper (Gu et al. 2023, section 3.3). The neighbourhood is the truth's
    morphological gradient: its dilation less its erosion. The radii are `3 + int((R - 3) / 5 * i)`
    voxels, at least 1, for i = 0 to 4, where R is the sum of the sizes over 50; made for isotropic
    grids. `flat` goes slice by slice along the last axis, with OpenCV's elliptic kernel, as in the
    paper's code; else it is a ball in three dimensions.

    Both segmentations are (x, y, z). nan if the truth has no boundary. Raises `ValueError` if the
    shapes differ.
    """
    a, b = _binary(prediction, truth)
    if b.all() or not b.any():
        return math.nan
    agree, fractions = a == b, []
    if not flat:  # voxels to the nearest of the other value
        distances = sum(ndimage.distance_transform_edt(mask) for mask in (b, ~b))
    for radius in _boundary_radii(b.shape):
        near = _dilated(b, radius) & _dilated(~b, radius) if flat else distances <= radius
        fractions.append(agree[near].mean() if near.any() else math.nan)
    return float(np.mean(fractions))


def _boundary_radii(shape):
    step = (sum(shape) / 50 - 3) / 5
    return [max(1, 3 + int(step * i)) for i in range(5)]


class SurfaceDistances(NamedTuple):
    """Distances between two surfaces, in mm; both arrays are empty if either surface is.

    Attributes:
        forward: float64 (n,), from each surface voxel of the first to the nearest of the second.
        backward: float64 (m,), from each of the second to the nearest of the first.
    """

    forward: np.ndarray
    backward: np.ndarray

    def hausdorff(self, percentile=95):
        """The larger of the two directed percentiles, in mm; 100 is the Hausdorff distance.

        Two are taken and not the one of both pooled, so that a large surface does not outvote
        a small one (Maier-Hein et al., Metrics reloaded, Nature Methods 2024; also MONAI's
        definition, while MedPy pools). Percentiles are interpolated linearly between distances;
        nan without distances. Raises `ValueError` outside 0 to 100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile must be between 0 and 100, received {percentile!r}")
        if not self.forward.size:
            return math.nan
        return float(max(np.percentile(distances, percentile) for distances in self))

    def mean(self):
        """The average symmetric surface distance, the mean over all voxels of both, in mm.

        nan without distances (Heimann et al., IEEE Transactions on Medical Imaging 2009).
        """
        return float(np.mean(np.concatenate(self))) if self.forward.size else math.nan


def surface_distances(a, b, spacing):
    """Distances between the surfaces of two segmentations (x, y, z), exact for any spacing.

    Measured between the centres of `surface_voxels`, in a box cropped around both, of which each
    voxel takes 12 bytes. The spacing is one number or three, mm. Returns `SurfaceDistances` in
    mm, empty if a segmentation is. Raises `ValueError` if the shapes differ or the spacing is not
    positive and finite.

    Examples:
        >>> a, b = np.zeros((2, 9, 9, 9), bool)
        >>> a[2, 4, 4] = b[5, 4, 4] = True
        >>> surface_distances(a, b, (0.5, 0.5, 3.0)).hausdorff()
        1.5
    """
    (a, b), spacing = _binary(a, b), np.array(check_spacing(spacing))
    if not (a.any() and b.any()):
        return SurfaceDistances(np.empty(0), np.empty(0))
    box = _box(a | b)
    a, b = surface_voxels(a[box]), surface_voxels(b[box])
    return SurfaceDistances(_directed(a, b, spacing), _directed(b, a, spacing))


def surface_voxels(binary):
    """The surface of a segmentation (x, y, z): bool, itself less its erosion by six neighbours.

    Neighbours share a face; what lies beyond the array counts as outside. Raises `ValueError` if
    there are not three axes.
    """
    (binary,) = _binary(binary)
    return binary & ~ndimage.binary_erosion(binary)


def connected_components(binary):
    """Number of connected components of a segmentation (x, y, z), 26 neighbours."""
    (binary,) = _binary(binary)
    return int(ndimage.label(binary, np.ones((3, 3, 3)))[1])


def _same_shape(*arrays):
    """Arrays of one 3-D shape; the last is a mask, which becomes bool, or None."""
    *arrays, mask = (None if array is None else np.asarray(array) for array in arrays)
    shapes = [array.shape for array in (*arrays, mask) if array is not None]
    if len(shapes[0]) != 3 or len(set(shapes)) > 1:
        raise ValueError(f"arrays and mask must have one shape (x, y, z), received {shapes}")
    if mask is not None:
        mask = mask != 0
        if not mask.any():
            raise ValueError("the mask must hold at least one voxel, received an empty one")
    return *arrays, mask


def _binary(*arrays, mask=None):
    """Boolean arrays of one 3-D shape, False outside the mask."""
    *arrays, mask = _same_shape(*arrays, mask)
    return [(array != 0) if mask is None else (array != 0) & mask for array in arrays]


def _box(mask, margin=0):
    """Slices around the True voxels of a mask, `margin` voxels wider where the array is."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    return tuple(slice(max(0, part.start - margin), part.stop + margin) for part in box)


def _dilated(mask, radius):
    """Dilation of each slice by OpenCV's MORPH_ELLIPSE kernel of 2 radius + 1 pixels."""
    result = np.zeros_like(mask)
    rows = len(mask)
    for dy in range(-radius, radius + 1):
        reach = int(np.rint(math.sqrt(radius**2 - dy**2)))
        wide = ndimage.maximum_filter1d(mask, 2 * reach + 1, axis=1, mode="constant")
        low, high = max(0, dy), min(rows, rows + dy)
        result[low:high] |= wide[low - dy : high - dy]
    return result


def _directed(source, target, spacing):
    """Distance in mm from each voxel of one surface to the nearest of the other."""
    # Where the nearest voxel lies, not how far: as exact, and a third of the memory.
    nearest = ndimage.distance_transform_edt(
        ~target, sampling=spacing, return_distances=False, return_indices=True
    )
    points = np.nonzero(source)
    steps = [found[points] - start for found, start in zip(nearest, points, strict=True)]
    return np.linalg.norm(np.stack(steps, axis=-1) * spacing, axis=-1)
