# SPDX-License-Identifier: MIT
"""Read a volume from any of the known formats; the library of each is loaded when it is needed."""

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segsrgan.errors import VolumeError
from segsrgan.files import files_below
from segsrgan.tables import FREESURFER_SUFFIXES, ITK_SUFFIXES, NIFTI_SUFFIXES
from segsrgan.volumes.kinds import check_kind, content_kind, missing
from segsrgan.volumes.thickness import sidecar_thickness

_logger = logging.getLogger(__name__)

_COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst|lz4|z)$", re.IGNORECASE)
_NRRD_SUFFIXES = (".nrrd", ".nhdr")
_NIBABEL_SUFFIXES = NIFTI_SUFFIXES + FREESURFER_SUFFIXES


class Source(NamedTuple):
    """What a file says of an image besides voxels and geometry."""

    patient: str = ""  # the PatientID of DICOM, "" of all else
    frame: str = ""  # the FrameOfReferenceUID of DICOM: the places of two frames do not compare
    is_oriented: bool = True  # whether the header says how the axes lie in the patient
    thickness: float | None = None  # of the slices in mm, by DICOM or a BIDS sidecar
    missing: int = 0  # slices of DICOM that were interpolated
    is_repaired: bool = False  # whether the header contradicts itself, or slices were uneven
    images: tuple = ()  # of DICOM, the file and the frame number, from 0, of each slice used


def read_volume(path, series=None, labels=False):
    """Read a 3-D image: NIfTI, Analyze, MGH, NRRD, MetaImage, a DICOM file or folder.

    Args:
        path: a .nii, .hdr, .img, .mgh, .nrrd, .nhdr, .mha or .mhd file (the first four also
            compressed: .nii.gz, .mgz), a DICOM file of any name, or a folder with DICOM files,
            in subfolders, too.
        series: which series of a DICOM folder: its SeriesInstanceUID, a part of it or of the
            description, or its number; several by comma are merged. None: the one with most slices
            in different positions, scans before reformats and projections.
        labels: whether the voxels are numbers of classes, to be kept as they are.

    Returns:
        A volume with a float32 array (x, y, z); of `labels` in the type in which they are stored,
        float64 where the header scales them.

    Raises:
        VolumeError: if there is no readable 3-D scalar image with a valid geometry.

    Examples:
        >>> volume = read_volume("t2.nii.gz")
        >>> volume.array.shape, volume.spacing
        ((320, 320, 26), (0.75, 0.75, 5.5))
    """
    return read_with_source(path, series, labels)[0]


def read_finite(path, labels=False):
    """A volume, see `read_volume`, whose voxels are all numbers; else a `VolumeError`."""
    volume = read_volume(path, labels=labels)
    if not np.isfinite(volume.array).all():
        raise VolumeError(f"{path}: has voxels that are NaN or infinite; repair the file")
    return volume


def read_with_source(path, series=None, labels=False):
    """The volume, as `read_volume` gives it, and its `Source`."""
    path = Path(path)
    try:
        volume, source = _read(path, series, labels)
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise VolumeError(f"{path}: too large for this computer's memory; crop it first") from error
    if 1 in volume.array.shape:
        text = "%s: one slice; give the file, or of DICOM the folder, with all slices of the scan"
        _logger.warning(text, path)
    return volume, source


def is_dicom(path, old=True):
    """Whether a file begins as DICOM does, its name notwithstanding.

    With `old`, files without the preamble count, too, which other formats may resemble.
    """
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return True
    # Without a preamble a file begins with a low element of group 2 or 8: (0008,0016), say.
    return old and head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"


def scans_below(folder):
    """The series of DICOM in a folder and its subfolders that may be scans, see `find_scans`."""
    if not (files := _dicom_files(folder)):
        return []
    from segsrgan.volumes.dicom import find_scans

    return find_scans(files)


def examination(folder):
    """PatientID and StudyInstanceUID of the first DICOM file below a folder; None without one."""
    import pydicom

    file = next((file for file in files_below(folder) if is_dicom(file)), None)
    if file is None:
        return None
    names = ["PatientID", "StudyInstanceUID"]
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=names)
        return tuple(str(header.get(name, "")) for name in names)
    except Exception:  # pydicom's, of any damage, which the reader of the file reports
        return None


def _dicom_files(folder, required=False):
    """The DICOM files below a folder; what may be slices without their content is pointed out.

    If it is all that a folder holds in which DICOM is `required`, it is refused.
    """
    found, others = {}, []
    for file in files_below(folder, broken=True):
        if file.exists() and is_dicom(file):
            # A file that several links lead to is read once.
            found.setdefault(os.path.realpath(file), file)
        elif not file.name.startswith("."):
            others.append(file)
    endings = set(map(_ending, found.values()))
    if not found and not required:
        return []
    lost = [file for file in others if not found or _ending(file) in endings]
    if lost := [(file, why) for file in lost if (why := _without_content(file))]:
        such = f"such as {lost[0][0]}: {lost[0][1]}"
        if not found:
            raise VolumeError(f"{folder}: no DICOM images, but {len(lost)} other files, {such}")
        text = "%s: %d files cannot be read and may be lost slices, %s"
        _logger.warning(text, folder, len(lost), such)
    return list(found.values())


def _ending(path):
    """The suffix that files of a series share: not a number, nor what a compressor adds."""
    suffix = Path(_COMPRESSED.sub("", path.name)).suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _without_content(path):
    """What a file is instead of the slice that it stands for, and what to do; "" of all else."""
    if not path.exists():
        return missing(path)
    with open(path, "rb") as file:
        if not file.read(4096).strip(b"\0"):
            return "is empty or nothing but zeros; copy or export it again"
    kind, remedy = content_kind(path) or ("", "")
    is_known = any(word in kind for word in ("pointer", "compressed", "web page"))
    return f"is {kind}; {remedy}" if is_known else ""


def _read(path, series, labels):
    if path.is_dir():
        from segsrgan.volumes.dicom import read_dicom_series

        files = _dicom_files(path, required=True)
        return _of_stack(*read_dicom_series(path, files, series, labels))
    if not path.exists():
        raise VolumeError(f"{path}: {missing(path)}")
    if not path.is_file():
        raise VolumeError(f"{path}: is a pipe, a socket or a device; save the image as a file")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty; copy or export it again")
    name = path.name.lower()
    if is_dicom(path, old=not name.endswith(_NIBABEL_SUFFIXES + ITK_SUFFIXES)):
        from segsrgan.volumes.dicom import read_dicom_file

        return _of_stack(*read_dicom_file(path, labels))
    check_kind(path)
    if name.endswith(_NIBABEL_SUFFIXES):
        from segsrgan.volumes.nifti import read_nifti as read
    elif name.endswith(_NRRD_SUFFIXES):
        from segsrgan.volumes.nrrd import read_nrrd as read
    elif name.endswith(ITK_SUFFIXES):
        from segsrgan.volumes.metaimage import read_metaimage as read
    else:
        raise VolumeError(
            f"{path}: expected an image, received an unknown kind of file; give one of "
            f"{', '.join(_NIBABEL_SUFFIXES + ITK_SUFFIXES)}, a DICOM file or a DICOM folder"
        )
    volume, is_oriented = read(path, labels)
    thickness, is_repaired = sidecar_thickness(path, volume), False
    if name.endswith(NIFTI_SUFFIXES):
        from segsrgan.volumes.nifti import has_two_sizes

        is_repaired = has_two_sizes(path)
    return volume, Source("", "", is_oriented, thickness, is_repaired=is_repaired)


def _of_stack(volume, stack):
    """The volume of a DICOM `Stack`, and its `Source`."""
    facts = {"missing": stack.missing, "is_repaired": stack.is_uneven}
    facts["images"] = tuple((image.path, image.frame) for image in stack.used)
    return volume, Source(stack.patient, stack.frame, thickness=stack.thickness, **facts)
