# SPDX-License-Identifier: MIT
"""To SimpleITK and back; its arrays are (z, y, x), ours (x, y, z)."""

import logging
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segsrgan.errors import VolumeError
from segsrgan.volumes.volume import Volume, is_orthonormal, nearest_rotation, spatial_shape

_logger = logging.getLogger(__name__)


def to_itk(volume):
    """The SimpleITK image of a volume."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction.ravel().tolist())
    return image


def from_itk(image, name="image"):
    """The volume of a 3-D scalar SimpleITK image, which warnings call `name`.

    Axes that are not at right angles are replaced by the nearest rotation, with a warning.
    """
    # A copy, also where the view is contiguous: its memory ends with the image.
    array = np.array(sitk.GetArrayViewFromImage(image).T, order="C")
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if not is_orthonormal(direction, 1e-3):
        _logger.warning("%s: its axes are not at right angles; taking the nearest rotation", name)
    return Volume(array, image.GetSpacing(), image.GetOrigin(), nearest_rotation(direction))


@contextmanager
def quiet():
    """Keep ITK's C++ warnings off stderr; what matters is raised or logged by the caller."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def sitk_path(path):
    """A name of an existing file for SimpleITK, which aborts the process on one that is not UTF-8.

    Nor does it know suffixes in capitals. The file is linked into a temporary folder under another
    name then, with its neighbours: a header may name one of them as its voxels' file.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:])
    if _is_utf8(path) and suffixes == suffixes.lower():
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "image" + "".join(filter(str.isascii, suffixes.lower())))
        link.symlink_to(path.absolute())
        if path.suffix.lower() in (".mhd", ".nhdr"):
            others = list(path.absolute().parent.iterdir())
            for name, other in [(o.name, o) for o in others] + [
                (o.name.lower(), o) for o in others
            ]:
                with suppress(FileExistsError):
                    Path(folder, name).symlink_to(other)
        yield str(link)


def _is_utf8(path):
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        return False


def read_itk(path, labels=False):
    """The volume of a file in any format of SimpleITK, see `read_volume`."""
    reader = sitk.ImageFileReader()
    try:
        with quiet(), sitk_path(path) as name:
            reader.SetFileName(name)
            _check_spacing(path)
            reader.ReadImageInformation()
            _check_kind(reader, path)
            if not labels:
                reader.SetOutputPixelType(sitk.sitkFloat32)
            return from_itk(reader.Execute(), str(path))
    except VolumeError:
        raise
    except (RuntimeError, ValueError) as error:
        raise VolumeError(
            f"{path}: cannot be read ({reason(error)}); check that it is complete, or convert it "
            "to NIfTI with another program"
        ) from error


def reason(error):
    """The telling part of one of SimpleITK's long messages, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line and line[-1] != ":"] or lines
    return errors[-1].split("): ")[-1].replace("ITK ERROR: ", "").rstrip(".!")


def _check_kind(reader, path):
    """Refuse what is not 3-D and scalar; have a single frame of a 4-D image extracted."""
    size = spatial_shape(reader.GetSize(), path)
    components = reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if components != 1 or "complex" in kind.lower():
        raise VolumeError(
            f"{path}: expected one real number per voxel, received {components} ({kind}); "
            "convert it to a scalar image first"
        )
    if reader.GetDimension() > 3:
        reader.SetExtractSize([*size, *[0] * (reader.GetDimension() - 3)])


def _check_spacing(path):
    """Refuse a MetaImage of negative spacing, which ITK would read as a flipped axis."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return
    with open(path, "rb") as file:
        for line in file:
            key, _, value = line.decode("latin-1").partition("=")
            sizes = value.split() if key.strip() in ("ElementSpacing", "ElementSize") else ()
            if any(size.startswith("-") or size.strip("0.") == "" for size in sizes):
                raise VolumeError(
                    f"{path}: the voxel size must be positive in mm, its header says "
                    f"{' x '.join(sizes)}; repair the header"
                )
            if key.strip() == "ElementDataFile":
                return
