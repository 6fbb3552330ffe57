# SPDX-License-Identifier: MIT
"""Small volumes and DICOM series with known contents."""

from functools import cache

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from scipy.ndimage import center_of_mass, gaussian_filter
from scipy.spatial.transform import Rotation

from segsrgan.volumes import Grid, Volume

BLOB = np.array([3.7, -8.2, 12.9])  # mm, anywhere


def rotation(angles=(0.44, -0.7, 1.22)):
    """Rotation matrix of angles in radians about x, then y, then z."""
    return Rotation.from_euler("xyz", angles).as_matrix()


DIRECTIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "left-handed": np.diag([1.0, -1.0, 1.0]),
    "permuted": np.eye(3)[:, [2, 0, 1]],
    "permuted and flipped": np.eye(3)[:, [1, 0, 2]] * [1, -1, 1],
    "oblique": rotation(),
    "oblique left-handed": rotation() * [1, 1, -1],
}


def blob_volume(spacing, direction, sigma=4.0, extent=48.0):
    """A Gaussian blob of `sigma` mm around `BLOB`, off the centre of a field of `extent` mm."""
    shape = tuple(int(np.ceil(extent / size)) for size in spacing)
    centre = (np.array(shape) - 1) / 2 + [0.4, -0.3, 0.2]
    grid = Grid(shape, spacing, BLOB - direction @ (centre * spacing), direction)
    points = grid.index_to_physical(np.moveaxis(np.indices(shape), 0, -1))
    squares = ((points - BLOB) ** 2).sum(axis=-1)
    return Volume.from_grid(np.exp(-squares / (2 * sigma**2)).astype(np.float32), grid)


def centroid(volume):
    """Physical centre of mass, mm."""
    return volume.grid.index_to_physical(center_of_mass(volume.array.astype(np.float64)))


@cache
def texture(shape=(128, 120, 124)):
    """An ellipsoid of tissues in folds that look alike along all axes, 1 mm."""
    noise = np.random.default_rng(0).standard_normal(shape)
    fine, coarse = (gaussian_filter(noise, sigma) for sigma in (1.5, 3))
    axes = (np.linspace(-1.1, 1.1, size) for size in shape)
    ball = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    array = gaussian_filter((1 + (fine > 0) + 0.5 * (coarse > 0)) * (ball < 1), 0.7)
    return Volume(np.where(array < 0.02, 0, array).astype(np.float32), (1, 1, 1))


def noise(shape, seed=0):
    """Random float32 voxels in [0, 1)."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


EVEN = [3.0 * k - 7 for k in range(6)]


def slice_pixels(position):
    """Pixels (rows, columns) of a made-up slice: a tenth of a mm of position, plus a ramp."""
    return (1000 + round(10 * position) + np.arange(30).reshape(6, 5)).astype(np.uint16)


def levels(volume):
    """Through-plane positions that the voxels themselves tell, mm (see `slice_pixels`)."""
    return (volume.array[0, 0] - 1000) / 10


def _dataset(path, sop_class, tags):
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    defaults = {"SOPClassUID": sop_class, "SOPInstanceUID": uid, "StudyInstanceUID": "1.2.3"}
    defaults |= {"Modality": "MR", "Rows": 6, "Columns": 5, "SamplesPerPixel": 1}
    defaults |= {"PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16}
    defaults |= {"HighBit": 15, "PixelRepresentation": 0}
    _set(dataset, **(defaults | tags))
    return dataset


def _set(dataset, **tags):
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def item(**tags):
    """A `Dataset` with these elements."""
    return _set(Dataset(), **tags)


def write_slice(path, position, pixels=None, orientation=(1, 0, 0, 0, 1, 0), **tags):
    """Path of one DICOM slice at `position` mm along the normal; tags override the defaults."""
    orientation = np.array(orientation, dtype=float)
    origin = np.cross(orientation[:3], orientation[3:]) * position + [3, 4, 0]
    defaults = {
        "SeriesInstanceUID": "1.2.3.4",
        "SeriesNumber": 4,
        "SeriesDescription": "axial",
        "ImagePositionPatient": [float(f"{part:.6f}") for part in origin],
        "ImageOrientationPatient": [float(f"{part:.6f}") for part in orientation],
        "PixelSpacing": [1.5, 2.0],  # between rows (y), between columns (x)
        "SliceThickness": 9,
    }
    dataset = _dataset(path, "1.2.840.10008.5.1.4.1.1.4", {**defaults, **tags})
    dataset.PixelData = (slice_pixels(position) if pixels is None else pixels).tobytes()
    for name in [name for name, value in tags.items() if value is None]:
        delattr(dataset, name)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_multiframe(path, positions, implicit=False, echoes=None, change=lambda dataset: None):
    """Path of an enhanced MR image with one frame per position; `change` may alter it."""
    tags = {"NumberOfFrames": len(positions), "SeriesInstanceUID": "1.2.3.5", "SeriesNumber": 5}
    dataset = _dataset(path, "1.2.840.10008.5.1.4.1.1.4.1", tags)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[1.5, 2.0], SliceThickness=9)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[3, 4, position])])
        for position in positions
    ]
    for frame, echo in zip(frames, echoes or (), strict=False):
        frame.MREchoSequence = [item(EffectiveEchoTime=float(echo))]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = np.stack([slice_pixels(position) for position in positions]).tobytes()
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder, positions, start=0, **tags):
    """Folder with slices whose file names and instance numbers say nothing of their order."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng(start).permutation(len(positions))
    for number, (name, position) in enumerate(zip(names, positions, strict=True)):
        write_slice(folder / f"{start + name:08d}", position, InstanceNumber=number + 1, **tags)
    return folder
