# SPDX-License-Identifier: MIT
"""Pictures of volumes for a page: planes as radiologists look at them, voxels for a viewer.

Volumes here are upright, see `upright`: x leads to the patient's left, y to the back, z to the top,
or as nearly as the scan allows. The patient's right is on the left of a picture.
"""

import gzip
import io
from base64 import b64encode

import numpy as np
from scipy import ndimage

from segsrgan.volumes.comparison import reordered
from segsrgan.volumes.intensities import grey, usual_range
from segsrgan.volumes.nifti import nifti_bytes
from segsrgan.volumes.resampling import degrade, resample_to
from segsrgan.volumes.volume import Grid

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # and the axis across each
_EDGE = 400  # pixels that the longest edge should have
_BRIGHT = 99.7  # percentile, white
_SAMPLE = 2**20  # voxels of which it is taken
_DARK = 0.1  # of the range from black to white; a picture is cut to what is brighter
_MARGIN = 6.0  # mm around it
_MOST_VOXELS = 12e6  # that a viewer gets


def upright(volume):
    """The volume with its axes in the order and direction nearest to the patient's (LPS)."""
    return reordered(volume, Grid((1, 1, 1)))


def window(scan):
    """The intensities of a scan that are drawn black and white."""
    low, _ = usual_range(scan.array)
    sample = scan.array.flat[:: scan.array.size // _SAMPLE | 1]
    above = sample[sample > low]
    return low, float(np.percentile(above, _BRIGHT)) if above.size else low + 1


def plane_grids(image, black, white, mask=None):
    """The `Grid` of each of the `PLANES` through an image, a list, cut to what is not dark.

    The planes meet in the middle of a `mask`, a volume, or else of what is not dark. Pixels are
    square, and as small as the finest voxels, or a fraction of them in a small image.
    """
    bright = image.array > black + _DARK * (white - black)
    if mask is None or not mask.array.any():
        mask = image.with_array(bright)
    places = [np.average(range(len(n)), weights=n) for n in _profiles(mask.array)]
    centre = mask.grid.index_to_physical(places)
    spans = [np.flatnonzero(n)[[0, -1]] for n in _profiles(bright)]
    first, last = np.transpose(spans)
    margin = np.ceil(np.divide(_MARGIN, image.spacing))
    first = np.maximum(first - margin, 0)
    shape = np.minimum(last + margin, np.array(bright.shape) - 1) - first + 1
    part = Grid(shape, image.spacing, image.grid.index_to_physical(first), image.direction)
    finest = min(part.spacing)
    size = finest / max(1, round(_EDGE * finest / max(np.multiply(part.shape, part.spacing))))
    index, grids = np.clip(np.rint(part.physical_to_index(centre)), 0, shape - 1), []
    for across in PLANES.values():
        is_across = np.arange(3) == across
        fine = part.corner_aligned(np.where(is_across, part.spacing, size))
        origin = fine.index_to_physical(np.where(is_across, index, 0))
        grids.append(Grid(np.where(is_across, 1, fine.shape), fine.spacing, origin, fine.direction))
    return grids


def _profiles(array):
    """How many voxels are not 0 in each plane across each axis, three arrays; all if none is."""
    array = array if array.any() else np.ones_like(array)
    return [np.count_nonzero(array, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]


def planes(volume, grids, spline_order=1):
    """A volume in each of the `plane_grids`, interpolated: a list of arrays (rows, columns)."""
    return flattened([resample_to(volume, grid, spline_order=spline_order).array for grid in grids])


def flattened(arrays):
    """Arrays (x, y, z) on each of the `plane_grids` as arrays (rows, columns), a list."""
    flat = [a.take(0, axis).T for a, axis in zip(arrays, PLANES.values(), strict=True)]
    axes = zip(flat, PLANES.values(), strict=True)  # the top of the head up
    return [pixels if axis == PLANES["axial"] else pixels[::-1] for pixels, axis in axes]


def heat(values, top):
    """Numbers from 0 to `top` from black through red and yellow to white, uint8 (..., 3)."""
    return grey(values[..., None] * (3 / top) - np.arange(3), 0, 1)


def outlined(pixels, labels, colours):
    """Grey pixels (rows, columns) with the outline of each array of labels in a colour, RGB."""
    picture = np.stack([pixels] * 3, axis=-1)
    for array, colour in zip(labels, colours, strict=True):
        is_edge = ndimage.minimum_filter(array, 3) < ndimage.maximum_filter(array, 3)
        picture[is_edge & (array > 0)] = colour
    return picture


def jpeg(pixels, longest=640):
    """A picture, uint8 (rows, columns[, 3]), as a `data:` address; `longest` pixels at most."""
    from PIL import Image  # slow to import

    picture, file = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((longest, longest))
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def packed_image(volume, black, white, limit):
    """An image in 256 greys as compressed NIfTI, base64 of at most `limit` characters; its grid.

    What does not fit is blurred and decimated, the finest axes first.
    """
    coarse, factor = volume, (volume.array.size / _MOST_VOXELS) ** (1 / 3)
    while True:
        if factor > 1:
            coarse = degrade(volume, np.maximum(volume.spacing, min(volume.spacing) * factor))
        text = _packed(coarse.with_array(grey(coarse.array, black, white)))
        if len(text) <= limit:
            return text, coarse.grid
        factor = max(1, factor) * max(1.1, (len(text) / limit) ** (1 / 3))


def packed_mask(mask, grid):
    """A mask, 1 where it is not 0, on a grid with parallel axes: compressed NIfTI in base64."""
    binary = mask.with_array((mask.array > 0).astype(np.uint8))
    return _packed(resample_to(binary, grid, spline_order=0))


def _packed(volume):
    return b64encode(gzip.compress(nifti_bytes(volume), 6, mtime=0)).decode()
