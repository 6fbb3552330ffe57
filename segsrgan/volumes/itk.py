# SPDX-License-Identifier: MIT
"""To SimpleITK and back; its arrays are (z, y, x), ours (x, y, z)."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segsrgan.volumes.affine import volume_of


def to_itk(volume):
    """The SimpleITK image of a volume."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(volume.spacing)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction.ravel().tolist())
    return image


def from_itk(image, name="image"):
    """The volume of a 3-D scalar SimpleITK image, which messages call `name`."""
    # A copy, also where the view is contiguous: its memory ends with the image.
    array = np.array(sitk.GetArrayViewFromImage(image).T, order="C")
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return volume_of(array, np.column_stack([matrix, image.GetOrigin()]), name)


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

    Nor does it know suffixes in capitals. The file is linked into a temporary folder then.
    """
    path = Path(path)
    suffixes = "".join(path.suffixes[-2:])
    if _is_utf8(path) and suffixes == suffixes.lower():
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "image" + "".join(filter(str.isascii, suffixes.lower())))
        link.symlink_to(path.absolute())
        yield str(link)


def _is_utf8(path):
    try:
        return str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        return False


def reason(error):
    """The telling part of one of SimpleITK's long messages, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line and line[-1] != ":"] or lines
    return errors[-1].split("): ")[-1].replace("ITK ERROR: ", "").rstrip(".!")
