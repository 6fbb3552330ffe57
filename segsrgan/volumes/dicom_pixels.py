# SPDX-License-Identifier: MIT
"""The pixels of a DICOM file, and which of them are padding.

SimpleITK only decompresses them, of a copy without other elements, for where it finds no spacing,
position or orientation it makes one up.
"""

import os
import tempfile

import numpy as np
import pydicom
import SimpleITK as sitk

from segsrgan.errors import VolumeError, one_line
from segsrgan.volumes.dicom_files import (
    PIXELS,
    byte_count,
    pixel_format,
    values_of,
    whole_number,
    without_warnings,
)
from segsrgan.volumes.itk import quiet, reason

_PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
_OVERLAYS = [0x60000010 + 0x20000 * k for k in range(16)]  # their rows


def read_pixels(path):
    """The stored numbers of a file (frame, y, x), and which of them are padding (low, high).

    None in place of the latter where nothing is said. What else the file says of where its bytes
    begin and end is compared with its size.
    """
    with without_warnings():
        names = [*PIXELS, *_PADDING, "PixelData"]
        dataset = pydicom.dcmread(path, force=True, specific_tags=[*names, *_OVERLAYS])
        if "PixelData" not in dataset:  # nor anything else where it is compressed and cut off
            raise VolumeError(
                f"{path}: its pixels (PixelData) are missing or cut off; copy it again"
            )
        values = values_of(dataset, names[:-1])
        pixels = pixel_format(values, path)
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None or syntax in pydicom.uid.UncompressedTransferSyntaxes:
            array = _uncompressed(dataset, pixels, path)
        else:
            array = _decompressed(dataset, pixels, path)
    return array, _padding(values, pixels)


def _uncompressed(dataset, pixels, path):
    raw, size = dataset.PixelData, byte_count(pixels)
    shape = (pixels["NumberOfFrames"], pixels["Rows"], pixels["Columns"])
    if len(raw) < size or any(raw[size:]):
        raise VolumeError(
            f"{path}: Rows, Columns, NumberOfFrames and BitsAllocated make {size} bytes, PixelData "
            f"has {len(raw)}; copy it again"
        )
    order = "<" if dataset.original_encoding[1] in (True, None) else ">"
    kind = "ui"[pixels["PixelRepresentation"]]
    dtype = np.dtype(f"{order}{kind}{pixels['BitsAllocated'] // 8}")
    array = np.frombuffer(raw, dtype, size // dtype.itemsize).reshape(shape)
    unused = pixels["BitsAllocated"] - pixels["BitsStored"]
    native = array.astype(dtype.newbyteorder("="))
    stored = native << unused >> unused
    # Old files keep overlays in the bits beyond.
    if not any(tag in dataset for tag in _OVERLAYS) and (stored != native).any():
        raise VolumeError(
            f"{path}: its pixels need more bits than BitsStored says, {pixels['BitsStored']}; "
            "export it again"
        )
    return stored


def _decompressed(dataset, pixels, path):
    """By SimpleITK, of a copy that holds nothing but the pixels and what they are."""
    syntax = dataset.file_meta.TransferSyntaxUID
    several = pixels["NumberOfFrames"] > 1
    copy = pydicom.Dataset()
    copy.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.7{'.3' if several else ''}"
    copy.SOPInstanceUID = pydicom.uid.generate_uid()
    for name, value in pixels.items():
        if value is not None and (several or name != "NumberOfFrames"):
            setattr(copy, name, value)
    copy.SamplesPerPixel, copy.PhotometricInterpretation = 1, "MONOCHROME2"
    copy["PixelData"] = dataset["PixelData"]
    copy.file_meta = pydicom.dataset.FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = syntax
    expected = (pixels["NumberOfFrames"], pixels["Rows"], pixels["Columns"])
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            name = os.path.join(folder, "image.dcm")
            copy.save_as(name, enforce_file_format=True)
            array = sitk.GetArrayFromImage(sitk.ReadImage(name, imageIO="GDCMImageIO"))
        if array.reshape(-1, *array.shape[-2:]).shape != expected:
            raise ValueError(f"{array.shape} pixels, Rows and Columns say {expected}")
    except Exception as error:  # pydicom's and SimpleITK's, of any damage
        why = reason(error) if isinstance(error, RuntimeError) else one_line(error)
        why = why.partition(" Traceback ")[0]  # pydicom's
        raise VolumeError(
            f"{path}: its pixels, of transfer syntax {syntax} ({syntax.name}), cannot be read "
            f"({why}); decompress it with another program (gdcmconv --raw, dcmdjpeg) or copy it "
            "again"
        ) from error
    return array.reshape(expected)


def _padding(values, pixels):
    found = [whole_number(values, name) for name in _PADDING]
    if found[0] is None:
        return None
    bits = pixels["BitsAllocated"]
    for k, number in enumerate(found):
        if number is None:
            found[k] = found[0]
        elif pixels["PixelRepresentation"] and number >= 2 ** (bits - 1):
            found[k] -= 2**bits  # written without its sign
        elif number < 0 and not pixels["PixelRepresentation"]:
            found[k] += 2**bits
    return min(found), max(found)
