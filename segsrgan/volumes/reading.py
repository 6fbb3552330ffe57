# SPDX-License-Identifier: MIT
"""Read a volume from any of the known formats."""

from pathlib import Path

from segsrgan.errors import VolumeError
from segsrgan.tables import ITK_SUFFIXES, NIFTI_SUFFIXES
from segsrgan.volumes.dicom import is_dicom, read_dicom_file, read_dicom_folder
from segsrgan.volumes.itk import read_itk
from segsrgan.volumes.nifti import read_nifti

SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES


def read_volume(path, series=None):
    """Read a 3-D image: NIfTI, Analyze, NRRD, MetaImage, a DICOM file or a folder of DICOM files.

    Args:
        path: a file of one of `SUFFIXES`, a DICOM file of any name, or a folder with DICOM files.
        series: which series of a DICOM folder: its SeriesInstanceUID, a part of it or of the
            description, or its number. None: the one with most slices in different positions.

    Returns:
        A volume with a float32 array (x, y, z).

    Raises:
        VolumeError: if there is no readable 3-D scalar image with a valid geometry.

    Example:
        >>> volume = read_volume("t2.nii.gz")
        >>> volume.array.shape, volume.spacing
        ((320, 320, 26), (0.75, 0.75, 5.5))
    """
    path = Path(path)
    try:
        return _read(path, series)
    except VolumeError:
        raise
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise VolumeError(f"{path}: too large for this computer's memory; crop it first") from error


def _read(path, series):
    if path.is_dir():
        return read_dicom_folder(path, series)
    if not path.exists():
        raise VolumeError(f"{path}: no such file or folder; check the path")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty; copy or export it again")
    name = path.name.lower()
    if is_dicom(path, old=not name.endswith(SUFFIXES)):
        return read_dicom_file(path)
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path)
    if name.endswith(ITK_SUFFIXES):
        return read_itk(path)
    raise VolumeError(
        f"{path}: expected an image, received an unknown kind of file; give one of "
        f"{', '.join(SUFFIXES)}, a DICOM file or a DICOM folder"
    )
