# SPDX-License-Identifier: MIT
"""Public collections as users download them: Medical Segmentation Decathlon and BraTS."""

import re

import numpy as np

from segsrgan.errors import UserError, VolumeError
from segsrgan.tables import expanded, image_files, is_image_name, stem
from segsrgan.volumes import read_volume

MODALITIES = ("flair", "t1", "t1ce", "t2")
# The ends of names without suffix: BraTS 2017 to 2021, 2023 on.
_ENDS = {
    "flair": ("_flair", "-t2f"),
    "t1": ("_t1", "-t1n"),
    "t1ce": ("_t1ce", "-t1c"),
    "t2": ("_t2", "-t2w"),
}
_MASK_ENDS = ("_seg", "-seg", "_labels")
# BraTS 2015: PATIENT/VSD.Brain.XX.O.MR_Flair.684/VSD.Brain.XX.O.MR_Flair.684.mha and, for the
# mask, VSD.Brain_3more.XX.O.OT.6560.
_OLD_MASK = re.compile(r"\.ot\.\d+$")
_OLD = {"flair": "flair", "t1": "t1", "t1ce": "t1c", "t2": "t2"}


def find_pairs(folder, modality="flair"):
    """The volumes of a collection, each with its mask.

    Args:
        folder: of a task of the Decathlon (with imagesTr and labelsTr), or of BraTS, in which
            masks may lie at any depth.
        modality: of BraTS, one of `MODALITIES`.

    Returns:
        A list of `(image, mask)` paths, sorted.

    Raises:
        UserError: if there are none, or a mask has no image.
    """
    folder = expanded(folder)
    if modality not in MODALITIES:
        raise UserError(f"modality must be one of {', '.join(MODALITIES)}, received {modality!r}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give that of a collection")
    if (folder / "labelsTr").is_dir():
        pairs = [(folder / "imagesTr" / mask.name, mask) for mask in _images(folder / "labelsTr")]
    else:
        masks = [path for path in _images(folder) if _is_mask(stem(path))]
        pairs = [(_beside(mask, modality), mask) for mask in masks]
    if not pairs:
        raise UserError(
            f"{folder}: holds neither labelsTr, as tasks of the Medical Segmentation Decathlon do, "
            "nor masks of BraTS, whose names end with seg; name the files by --masks and --images"
        )
    missing = [str(mask) for image, mask in pairs if image is None or not image.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} masks have no image, such as {missing[0]}, or several "
            "that it may be; unpack the collection again, or name another modality"
        )
    return pairs


def read_mask(path, labels=None):
    """Reads the object of a mask, a float32 `Volume` of 0 and 1.

    Args:
        path: of the mask.
        labels: values that make the object; None: every one but 0.

    Raises:
        VolumeError: if it cannot be read.
        UserError: if voxels are NaN or infinite.
    """
    mask = read_volume(path)
    if not np.isfinite(mask.array).all():
        raise UserError(f"{path}: has voxels that are NaN or infinite; repair the file")
    inside = mask.array != 0 if labels is None else np.isin(mask.array, labels)
    return mask.with_array(inside.astype(np.float32))


def read_channel(path, channel=0):
    """Reads one `Volume` of an image that may have several, as the Decathlon's brains do.

    Raises:
        VolumeError: if it cannot be read.
        UserError: if there is no such channel; an image of one volume has the channel 0.
    """
    import SimpleITK as sitk

    from segsrgan.volumes.itk import from_itk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return read_volume(path)  # which can read more, or says what is wrong
    size = reader.GetSize()
    count = size[3] if len(size) == 4 else 1
    if not 0 <= channel < count:
        raise UserError(f"{path}: channel must be from 0 to {count - 1}, received {channel}; try 0")
    if count == 1:
        return read_volume(path)
    reader.SetExtractSize([*size[:3], 0])
    reader.SetExtractIndex([0, 0, 0, channel])
    try:
        return from_itk(reader.Execute(), str(path))
    except RuntimeError as error:
        raise VolumeError(f"{path}: cannot be read ({str(error).splitlines()[-1]})") from error


def _images(folder):
    """The images in a folder at any depth, but no hidden ones, which archives of macOS bring."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.name[0] != "." and is_image_name(path.name) and path.is_file()
    )


def _is_mask(name):
    return name.lower().endswith(_MASK_ENDS) or _OLD_MASK.search(name.lower()) is not None


def _beside(mask, modality):
    """The image of a mask of BraTS, None if it is missing or not the only one."""
    name = stem(mask)
    if _OLD_MASK.search(name.lower()):
        pattern = re.compile(rf"\.mr_{_OLD[modality]}\.\d+$")
        # Unpacked as it is, each of a patient's volumes lies in a separate folder.
        folder = mask.parent if len(_images(mask.parent)) > 1 else mask.parent.parent
        found = [path for path in _images(folder) if pattern.search(stem(path).lower())]
    else:
        end = next(end for end in _MASK_ENDS if name.lower().endswith(end))
        names = {(name[: -len(end)] + other).lower() for other in _ENDS[modality]}
        found = [path for path in image_files(mask.parent) if stem(path).lower() in names]
    return found[0] if len(found) == 1 else None
