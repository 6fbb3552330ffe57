# SPDX-License-Identifier: MIT
"""Training patches of real images, cut on the fly: nothing is written to disk.

Delannoy et al. 2020, Figure 2(a): at each epoch every image is degraded anew (resolution,
contrast, noise), interpolated back and cut into patches. Memory holds the patches of a few
images at a time, shuffled together.
"""

from dataclasses import dataclass

import numpy as np

from segsrgan.training.simulate import change_contrast, scan
from segsrgan.volumes import Normalisation, resample_to


@dataclass(frozen=True)
class Simulation:
    """How the low-resolution images are made.

    Attributes:
        resolution: mm, three numbers, the lower bound when `upper` is given.
        upper: the upper bound; each image and epoch draws in between. None: `resolution`.
        contrast_max: the contrast's power is drawn from [1 - contrast_max, 1 + contrast_max].
        noise: standard deviation of the noise as a fraction of the low-resolution maximum.
        interp, interpolation_type: of the interpolation back to high resolution.
    """

    resolution: tuple
    upper: tuple | None = None
    contrast_max: float = 0.5
    noise: float = 0.03
    interp: str = "scipy"
    interpolation_type: str = "Spline"

    def draw(self, image, rng):
        """One low-resolution image and its target.

        Args:
            image: the high-resolution `Volume`.
            rng: a `numpy.random.Generator`.

        Returns:
            `(lr, hr, axis)`: float32 (x, y, z) on the image's grid, both normalised as the scan
            is; the thick axis of the scan, 2 if there is none.
        """
        share = rng.random()
        low = np.asarray(self.resolution, float)
        resolution = low + share * (np.asarray(self.upper or self.resolution, float) - low)
        power = rng.uniform(1 - self.contrast_max, 1 + self.contrast_max)
        image = image.with_array(change_contrast(image.array, power))
        lr = scan(image, tuple(resolution), rng, self.noise)
        thick = lr.grid.thick_axis
        # As at inference: the scan is normalised, then interpolated.
        normalisation = Normalisation.of(lr.array)
        lr = resample_to(
            lr.with_array(normalisation.apply(lr.array)),
            image.grid,
            interp=self.interp,
            interpolation_type=self.interpolation_type,
        )
        return lr.array, normalisation.apply(image.array), 2 if thick is None else thick


def patch_starts(array, patch, stride):
    """First corners of the patches that tile the bounding box of an image's positive voxels.

    Args:
        array: (x, y, z), background at 0 or below.
        patch: edge in voxels.
        stride: voxels between neighbouring patches; the last patch of an axis ends at or before
            the box's end, as in the original.

    Returns:
        (n, 3) int; one patch on an axis where the box is smaller than the patch, placed so that
        it lies in the image where the image is large enough.
    """
    starts = []
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        filled = np.flatnonzero((array > 0).any(axis=others))
        first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 1)
        if last - first < patch:
            first = max(0, min((first + last - patch) // 2, array.shape[axis] - patch))
            starts.append([first])
        else:
            starts.append(list(range(first, last - patch + 1, stride)))
    return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)


def _cut(array, start, patch):
    """A patch (p, p, p); beyond the array's end it is 0."""
    part = array[tuple(slice(s, s + patch) for s in start)]
    if part.shape == (patch,) * 3:
        return part
    return np.pad(part, [(0, patch - n) for n in part.shape])


def count_patches(cases, patch, stride):
    """How many patches an epoch over the cases has."""
    return sum(len(patch_starts(case.load()[0].array, patch, stride)) for case in cases)


def epoch_batches(cases, simulation, patch, stride, batch_size, rng, together=4):
    """The batches of one epoch.

    Args:
        cases: sequence of `table.Case`.
        simulation: a `Simulation`.
        patch: edge in voxels.
        stride: voxels between neighbouring patches.
        batch_size: patches in a batch; the last batch of the epoch may be smaller.
        rng: a `numpy.random.Generator`: order, degradation and augmentation.
        together: images whose patches are shuffled together and held in memory.

    Yields:
        `(lr, target)`: float32 (b, p, p, p, 1) and (b, p, p, p, 2), image then label.
    """
    rest = []
    order = rng.permutation(len(cases))
    for group in range(0, len(order), together):
        patches = rest
        for index in order[group : group + together]:
            image, label = cases[index].load()
            lr, hr, axis = simulation.draw(image, rng)
            # The network meets the thick axis as its last, as at inference.
            arrays = [np.moveaxis(a, axis, 2) for a in (lr, hr, label.astype(np.float32))]
            starts = patch_starts(np.moveaxis(image.array, axis, 2), patch, stride)
            patches += [tuple(_cut(a, start, patch) for a in arrays) for start in starts]
        patches = [patches[i] for i in rng.permutation(len(patches))]
        whole = len(patches) - len(patches) % batch_size
        for first in range(0, whole, batch_size):
            yield stack(patches[first : first + batch_size])
        rest = [tuple(a.copy() for a in triple) for triple in patches[whole:]]
    if rest:
        yield stack(rest)


def stack(triples):
    """A batch `(lr, target)` of triples `(lr, hr, label)` of (p, p, p) arrays."""
    lr, hr, label = (np.stack(arrays)[..., None] for arrays in zip(*triples, strict=True))
    return lr, np.concatenate([hr, label], axis=-1)
