# SPDX-License-Identifier: MIT
"""The stacks of one patient: read, checked, named by their planes, scaled."""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from segsrgan.errors import UserError, one_line
from segsrgan.volumes import Volume, object_of, read_volume, select_labels, usual_range
from segsrgan.volumes.comparison import SHIFTED, compare, match
from segsrgan.volumes.reading import read_with_source
from supermask.geometry import overlaps, sample
from supermask.patients import unused_name
from supermask.settings import PLANES

ISOTROPIC = "isotropic"
_PERCENTILES = (2, 98)
_MOST = 1e30  # sums of a few intensities stay finite in float32
_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))
_SAME_PLANE = 30.0  # degrees between slice normals
_MISPLACED = 0.5  # voxels between the corners of a mask and of its stack
_FEW = 3  # slices
_POINTS = 20  # along each axis of a stack, at which is looked whether a mask lies over it
_COVERED = 0.98  # fraction of a stack over which its mask lies


@dataclass(frozen=True, eq=False)
class View:
    """One stack, and perhaps the object's mask drawn on it.

    Args:
        volume: the stack.
        mask: a `Volume` of 0 to 1, the mask or its probability, or None.
        name: of the view; its plane when empty.
        path: of the stack, for messages.
        patient: the ID in its DICOM header, "" where there is none.
        acquired: the `Volume` as the scanner acquired it, if `volume` has been super-resolved
            since; None: `volume`.
        frame: the frame of reference in its DICOM header, "" where there is none; the places of
            stacks in different frames do not compare.
        is_oriented: whether its header says how the stack lies in the patient.
        declared: thickness of the slices by its files, mm, or None.
        series: that it was read by, see `read_view`, or None.

    Raises:
        UserError: if voxels are not finite, the stack has no contrast, or the mask lies
            elsewhere than the stack.

    Examples:
        >>> View(Volume(np.arange(27.0).reshape(3, 3, 3), (1, 1, 5))).name
        'axial'
    """

    volume: Volume
    mask: Volume | None = None
    name: str = ""
    path: str = ""
    patient: str = ""
    acquired: Volume | None = None
    frame: str = ""
    is_oriented: bool = True
    declared: float | None = None
    series: str | None = None

    def __post_init__(self):
        if not self.name:
            object.__setattr__(self, "name", self.plane)
        if not self.path:
            object.__setattr__(self, "path", f"the {self.name} stack")
        for what, volume in (("", self.volume), ("its mask ", self.mask)):
            if volume is not None and not -_MOST < volume.array.min() <= volume.array.max() < _MOST:
                raise UserError(
                    f"{self.path}: {what}has voxels that are NaN or infinite, or beyond {_MOST:g}; "
                    "repair the file"
                )
        if self.volume.array.min() == self.volume.array.max():
            raise UserError(
                f"{self.path}: all voxels are {self.volume.array.flat[0]:g}; expected an image"
            )
        if self.mask is not None:
            self._check_place_of_mask()

    def _check_place_of_mask(self):
        mask, grid = self.mask.grid, self.grid
        found = compare(mask, grid)
        alike = sorted(mask.shape) == sorted(grid.shape)
        if alike and not found.shift <= _MISPLACED * max(grid.spacing):
            raise UserError(
                f"{self.path}: its mask has as many voxels but {found.difference('it')}; save the "
                "mask with the stack's header, or draw it again"
            )
        if not overlaps(mask, grid):
            raise UserError(
                f"{self.path}: its mask lies nowhere over it; check that they belong together"
            )

    @property
    def grid(self):
        """The `Grid` of the stack as it was acquired."""
        return (self.acquired or self.volume).grid

    @property
    def axis(self):
        """The through-plane axis, None for an isotropic volume."""
        return self.grid.thick_axis

    @property
    def thickness(self):
        """The distance of the slices, mm."""
        return max(self.grid.spacing)

    @property
    def profile(self):
        """How thick the slices are, mm: as declared if there are gaps, else their distance."""
        has_gaps = self.declared is not None and 0 < self.declared < self.thickness
        return self.declared if has_gaps else self.thickness

    @property
    def normal(self):
        """The direction (3,) of the slice normal in patient space, None if isotropic."""
        return None if self.axis is None else self.grid.direction[:, self.axis]

    @property
    def plane(self):
        """That of the slices: the nearest of `PLANES`, or "isotropic"."""
        return ISOTROPIC if self.axis is None else PLANES[int(np.abs(self.normal).argmax())]

    @property
    def has_object(self):
        """Whether there is a mask that is not empty."""
        return self.mask is not None and bool((self.mask.array >= 0.5).any())

    @cached_property
    def extremes(self):
        """The lowest and highest intensity, see `segsrgan.volumes.usual_range`."""
        return usual_range(self.volume.array)

    @property
    def clipped(self):
        """The stack without padding and isolated extremes, which splines would spread."""
        return self.volume.with_array(np.clip(self.volume.array, *self.extremes))

    @property
    def slices(self):
        """What the scanner acquired, clipped likewise."""
        if self.acquired is None:
            return self.clipped
        array = self.acquired.array
        return self.acquired.with_array(np.clip(array, *usual_range(array)))

    @cached_property
    def scaled(self):
        """The stack with the 2nd and 98th percentile at 0 and 1, clipped, a float32 `Volume`.

        Where these are equal, its extremes are 0 and 1. Padding counts as background.
        """
        array = self.volume.array
        low, high = np.clip(np.percentile(array, _PERCENTILES), *self.extremes).tolist()
        if low == high:
            low, high = self.extremes
        array = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
        return self.volume.with_array(np.clip(array, 0, 1, out=array))

    def covariance(self, grid, transform):
        """That (3, 3) of the profile of its voxels on an isotropic `Grid`, voxels^2.

        They are Gaussians as wide as the voxels where these are larger than the grid's, and as the
        slices are thick; `transform` is the `Rigid` from the reference to this view.
        """
        sizes = np.array(self.volume.spacing)
        if self.acquired is None and self.axis is not None:
            sizes[self.axis] = self.profile
        sigmas = np.where(sizes > grid.spacing[0] * (1 + 1e-6), sizes, 0) / _FWHM_PER_SIGMA
        axes = grid.direction.T @ transform.rotation.T @ self.volume.direction
        axes = axes * sigmas / grid.spacing[0]
        return axes @ axes.T

    def image_on(self, grid, transform=None, through="linear"):
        """The scaled image (x, y, z) on a `Grid`, float32 in [0, 1], 0 outside the field of view.

        The transform is a `Rigid` from the reference to this view; between slices the value is
        "linear" or that of the "nearest" one.
        """
        return sample(self.scaled, grid, transform, through)

    def mask_on(self, grid, transform=None, through="linear"):
        """The mask's probability (x, y, z) on a grid, float32 in [0, 1]; see `image_on`."""
        return sample(self.mask, grid, transform, through)


def in_plane(grid):
    """The voxel size in plane, mm: the larger of the two; that of an isotropic grid itself."""
    axis = grid.thick_axis
    return max(size for k, size in enumerate(grid.spacing) if k != axis)


def read_view(path, mask_path=None, series=None, labels=None):
    """Reads a stack and perhaps its mask.

    Args:
        path: of the stack, any format of `read_volume`.
        mask_path: of the mask, or None.
        series: number, UID or description of a series of a DICOM folder.
        labels: the values of the mask that make the object; None: see
            `segsrgan.volumes.object_of`.

    Returns:
        A `View`.

    Raises:
        VolumeError: if a file cannot be read.
        UserError: see `View`.
    """
    volume, source = read_with_source(path, series)
    mask = None if mask_path is None else read_mask(mask_path, labels)
    if mask is not None:
        mask, _ = match(mask, volume.grid, mask_path, path)
    said = {"frame": source.frame, "is_oriented": source.is_oriented, "declared": source.thickness}
    said |= {"patient": source.patient, "series": series}
    return View(volume, mask, path=str(path), **said)


def load_views(patient, labels=None):
    """The `View`s of a `Patient`, see `read_view`, and why the others are lost, a list of str."""
    views, lost = [], []
    for path, mask, series in zip(patient.views, patient.masks, patient.series, strict=True):
        try:
            views.append(read_view(path, mask, series, labels))
        except (ValueError, OSError, MemoryError) as error:
            text = one_line(error)
            lost.append(text if str(path) in text else f"{path}: {text}")
    return views, lost


def read_mask(path, labels=None):
    """The object of a mask's file, a float32 `Volume` of values in [0, 1].

    With `labels` the voxels of these values, else see `segsrgan.volumes.object_of`. Raises
    `UserError` for voxels that are not numbers, for values that are no mask's, and where nothing
    is background.
    """
    volume = read_volume(path, labels=True)
    if not np.isfinite(volume.array).all():
        raise UserError(f"{path}: has voxels that are NaN or infinite; repair the file")
    if labels is None:
        inside = object_of(volume.array, path)
    else:
        inside = select_labels(volume.array, labels, path).astype(np.float32)
    if inside.min() >= 0.5:
        raise UserError(
            f"{path}: all its voxels, {volume.array.min():g} to {volume.array.max():g}, belong to "
            "the object; expected a mask with background around it"
        )
    return volume.with_array(inside)


def with_unique_names(views):
    """The views; of several with one name the later get a number: axial, axial_2."""
    taken = set()
    names = [unused_name(view.name, taken, 2) for view in views]
    pairs = zip(views, names, strict=True)
    return [view if view.name == name else replace(view, name=name) for view, name in pairs]


def choose_reference(views, name=None):
    """The index of the view that the others are aligned to: the one of a name.

    Without a name it is the first axial one, else coronal, else sagittal, else any, of those with
    three slices or more if there are any.
    """
    names = [view.name for view in views]
    if name is not None:
        if name not in names:
            raise UserError(
                f"reference must be one of the views {', '.join(names)}, received {name!r}"
            )
        return names.index(name)
    order = [*reversed(PLANES), ISOTROPIC]
    ranks = [(_slices(view) < _FEW, order.index(view.plane)) for view in views]
    return ranks.index(min(ranks))


def check_together(views):
    """Raises `UserError` where stacks cannot be of one patient.

    Returns a list of str, warnings that say what is lost.
    """
    unknown = [view.path for view in views if not view.is_oriented]
    if unknown and len(views) > 1:
        raise UserError(
            f"{', '.join(unknown)}: no orientation in the header, so that the way the stacks lie "
            "to each other is not known; convert them from DICOM again, or write it into them"
        )
    warnings = [text for view in views if view.mask is not None for text in _mask_warnings(view)]
    warnings += [
        f"{view.path}: has {_slices(view)} slice(s), which show little of the object and of how to "
        "align them; is it the whole stack?"
        for view in views
        if _slices(view) < _FEW
    ]
    warnings += [
        f"{view.path}: has only two values, as a mask does; is it the stack?"
        for view in views
        if np.isin(view.volume.array, [view.volume.array.min(), view.volume.array.max()]).all()
    ]
    for first, second in itertools.combinations(views, 2):
        warnings += _check_pair(first, second)
    return warnings


def _check_pair(first, second):
    """`check_together` for two stacks."""
    names = f"{first.path} and {second.path}"
    if first.patient != second.patient and first.patient and second.patient:
        raise UserError(
            f"{names}: are of different patients, as their DICOM headers say; give stacks of one "
            "patient"
        )
    if not overlaps(first.grid, second.grid):
        raise UserError(
            f"{names}: do not meet anywhere in patient space; check that they are of one patient "
            "and one examination, and that no program has changed their headers"
        )
    warnings = []
    if first.frame != second.frame and first.frame and second.frame:
        warnings.append(
            f"{names}: have different frames of reference (FrameOfReferenceUID), so that their "
            "headers do not say how they lie to each other; look at the aligned masks"
        )
    if first.normal is None or second.normal is None:
        return warnings
    angle = np.rad2deg(np.arccos(min(1.0, abs(float(first.normal @ second.normal)))))
    if angle >= _SAME_PLANE:
        return warnings
    return [
        *warnings,
        f"{names}: their slices are {angle:.0f} degrees apart, both are {first.plane}; along that "
        "axis the result is as coarse as they are; take stacks of different planes",
    ]


def _slices(view):
    """How many slices a stack has; of an isotropic one the fewest voxels along an axis."""
    return min(view.grid.shape) if view.axis is None else view.grid.shape[view.axis]


def _mask_warnings(view):
    """What is doubtful about the place of a mask, a list of str."""
    found = compare(view.mask.grid, view.grid)
    if found.kind == SHIFTED:
        return [
            f"{view.path}: its mask lies {found.shift:.1f} mm beside it, less than half a slice; "
            "it is used where its header says"
        ]
    mask, grid = view.mask.grid, view.volume.grid
    points = [np.linspace(0, n - 1, min(n, _POINTS)) for n in grid.shape]
    points = np.stack(np.meshgrid(*points, indexing="ij"), axis=-1).reshape(-1, 3)
    index = mask.physical_to_index(grid.index_to_physical(points))
    inside = (index >= -0.5) & (index <= np.array(mask.shape) - 0.5)
    covered = inside.all(axis=-1).mean()
    if covered >= _COVERED:
        return []
    return [
        f"{view.path}: its mask lies over {100 * covered:.0f} % of it; beyond that nothing is "
        "taken for the object; check that they belong together"
    ]
