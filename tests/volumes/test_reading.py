# SPDX-License-Identifier: MIT
"""Every format, and every way in which a file can be bad."""

import gzip
import os
import struct
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from volumes.samples import DIRECTIONS, noise

from segsrgan.errors import VolumeError
from segsrgan.volumes import Grid, Volume, read_volume, write_volume
from segsrgan.volumes.itk import to_itk

ARRAY = noise((6, 7, 8))
GRID = Grid(ARRAY.shape, (0.5, 0.75, 3.0), (-9, 5, 7), DIRECTIONS["oblique"])


ITK_IMAGE = to_itk(Volume.from_grid(ARRAY, GRID))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".NRRD"])
@pytest.mark.parametrize("image", [ITK_IMAGE, sitk.JoinSeries([ITK_IMAGE])], ids=["3-D", "4-D"])
@pytest.mark.parametrize("compressed", [True, False])
def test_formats_of_itk_keep_voxels_and_geometry(tmp_path, suffix, image, compressed):
    path = tmp_path / f"an image.x{suffix.lower()}"
    sitk.WriteImage(image, str(path), useCompression=compressed)
    path = path.rename(path.with_suffix(suffix)) if suffix.isupper() else path
    for given in (path, str(path)):
        volume = read_volume(given)
        assert volume.array.dtype == np.float32 and volume.array.flags.c_contiguous
        assert np.array_equal(volume.array, ARRAY) and volume.grid.is_close(GRID)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64])
def test_labels_keep_the_type_in_which_they_are_stored(tmp_path, suffix, dtype):
    array = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    array[0, 0, :2] = 576073732, 576073728  # one number in float32
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(tmp_path / f"a{suffix}"))
    found = read_volume(tmp_path / f"a{suffix}", labels=True).array
    assert found.dtype == dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


RAMP = np.arange(1, 211).reshape(5, 6, 7)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("array", "match"),
    [
        (2**40 + RAMP, "differ by less than float32 can hold; subtract their minimum"),
        (np.where(RAMP < 50, 0, 2**40 + RAMP), "differ by less than float32"),
        (2.0**40 + RAMP, "differ by less than float32"),
        (RAMP * 1e300, "210 of 210 voxels are beyond float32, up to 2.1e.302 in size; scale"),
        (np.where(RAMP == 9, -1e39, 1), "1 of 210 voxels are beyond float32, up to 1e.39"),
        (RAMP * 1000003, ""),
        (10 * RAMP + 2**24, ""),
        (RAMP * 0.1, ""),
        ((RAMP > 90) * 0.1 * (1 + 1e-15 * RAMP), ""),
        ((RAMP > 90) * 0.1 * (1 + 1e-8 * RAMP), ""),  # an object of one value with noise
        (np.where(RAMP > 90, np.inf, 1), ""),
    ],
)
def test_intensities_that_float32_cannot_hold_are_refused(tmp_path, suffix, array, match):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(path))
    assert np.array_equal(read_volume(path, labels=True).array, array, equal_nan=True)
    if match:
        with pytest.raises(VolumeError, match=match):
            read_volume(path)
    else:
        np.testing.assert_allclose(read_volume(path).array, array, rtol=1e-7)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_one_slice_is_named(tmp_path, caplog, suffix):
    sitk.WriteImage(ITK_IMAGE[:, :, 3:4], str(tmp_path / f"a{suffix}"))
    read_volume(tmp_path / f"a{suffix}")
    assert f"a{suffix}: one slice; give the file" in caplog.text


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_name_that_is_not_utf8_is_read(tmp_path, suffix):
    sitk.WriteImage(ITK_IMAGE, str(tmp_path / f"a{suffix}"))
    for name in (b"m\xfcller", b"\xfc/x"):
        path = tmp_path / os.fsdecode(name + suffix.encode())
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / f"a{suffix}").read_bytes())
        assert np.array_equal(read_volume(path).array, ARRAY)


def damaged(change):
    """A maker of a written file whose bytes are changed."""

    def make(path):
        if path.suffix == ".mgh":
            nibabel.save(nibabel.MGHImage(ARRAY, np.eye(4)), path)
        elif path.name.endswith((".nii", ".nii.gz")):
            write_volume(Volume.from_grid(ARRAY, GRID), path)
        else:
            sitk.WriteImage(ITK_IMAGE, str(path))
        path.write_bytes(change(path.read_bytes()))

    return make


def patched(offset, form, *values):
    """A maker of a NIfTI or MGH file with other values at a byte offset of its header."""
    new = struct.pack(form, *values)
    return damaged(lambda raw: raw[:offset] + new + raw[offset + len(new) :])


def holding(content):
    return lambda path: path.write_bytes(content)


cut = damaged(lambda raw: raw[: len(raw) * 8 // 10])
DIM = 40
COLOUR, COMPLEX = np.zeros((1, 6, 5, 3), np.uint8), ARRAY.astype(np.complex64)


def of_itk(array, **kinds):
    """A maker of a file that SimpleITK writes of an array (z, y, x)."""
    return lambda path: sitk.WriteImage(sitk.GetImageFromArray(array, **kinds), str(path))


def replaced(old, new):
    """A maker of an image of 1 mm with other words in its header."""

    def make(path):
        of_itk(ARRAY)(path)
        path.write_bytes(path.read_bytes().replace(old, new))

    return make


def make_frames(path):
    sitk.WriteImage(sitk.JoinSeries([ITK_IMAGE, ITK_IMAGE]), str(path))


BAD = {
    "missing": ("a.nii.gz", lambda path: None, "no such file"),
    "empty": ("a.nii.gz", holding(b""), "empty"),
    "text": ("a.nii.gz", holding(b"not an image\n" * 99), "a text file"),
    "packed text": ("a.nii.gz", holding(gzip.compress(b"\1" * 999)), "expected a NIfTI"),
    "short": ("a.nii", holding(b"\x5c\x01\0\0"), "expected a NIfTI"),
    "other suffix": ("a.jpg", holding(b"\1" * 99), "unknown kind"),
    "text as nrrd": ("a.nrrd", holding(b"not an image"), "begins with b'not an image'"),
    "text as mha": ("a.mha", holding(b"not an image"), "line 1 is 'not an image'"),
    "text as dcm": ("a.dcm", holding(b"not an image"), "a text file"),
    "half a pair": ("a.hdr", holding(b"\1"), "a.img is missing"),
    "cut nii": ("a.nii", cut, "truncated, expected"),
    "cut gzip": ("a.nii.gz", cut, "truncated or damaged"),
    "cut checksum": ("a.nii.gz", damaged(lambda raw: raw[:-4]), "truncated or damaged"),
    "cut nrrd": ("a.nrrd", cut, "truncated, expected 1344 bytes"),
    "cut mha": ("a.mha", cut, "truncated, expected 1344 bytes"),
    "zero mha": ("a.mha", replaced(b"Spacing = 1 1 1", b"Spacing = 1 1 0"), "positive in mm"),
    "negative mha": ("a.mha", replaced(b"Spacing = 1 1 1", b"Spacing = 1 -1 1"), "positive in mm"),
    "zero nrrd": ("a.nrrd", replaced(b"(0,0,1)", b"(0,0,0)"), "unusable geometry"),
    "2-D": ("a.nii", of_itk(ARRAY[0]), "expected a 3-D image, received 2-D"),
    "2-D mha": ("a.mha", of_itk(ARRAY[0]), "expected a 3-D image, received 2-D"),
    "4-D": ("a.nii.gz", make_frames, "expected a 3-D image, received 4-D"),
    "4-D nrrd": ("a.nrrd", make_frames, "expected a 3-D image, received 4-D"),
    "colour": ("a.nii", of_itk(COLOUR, isVector=True), "expected"),
    "colour mha": ("a.mha", of_itk(COLOUR, isVector=True), "one real number per voxel, received 3"),
    "complex": ("a.nii", of_itk(COMPLEX), "complex"),
    "complex nrrd": ("a.nrrd", of_itk(COMPLEX), "complex"),
    "colour dicom": ("a.dcm", of_itk(COLOUR, isVector=True), "one real"),
    "bits": ("a.nii", patched(70, "<h", 1), "binary"),
    "no voxels": ("a.nii", patched(DIM, "<4h", 3, 6, 0, 8), "damaged"),
    "no axes": ("a.nii", patched(DIM, "<4h", 0, 6, 7, 8), "damaged"),
    "other header": ("a.nii", patched(0, "<i", 349), "expected a NIfTI"),
    "version mgh": ("a.mgh", patched(0, ">i", 2), "expected an MGH header"),
    "4-D mgh": ("a.mgh", patched(16, ">i", 3), "received 4-D"),
    "no voxels mgh": ("a.mgh", patched(4, ">i", 0), "damaged header"),
    "other type mgh": ("a.mgh", patched(20, ">i", 2), "one real number per voxel"),
    "no spacing mgh": ("a.mgh", patched(28, ">h", 0), "goodRASFlag"),
    "zero mgh": ("a.mgh", patched(30, ">f", 0), "positive in mm"),
    "singular mgh": ("a.mgh", patched(42, ">9f", *[0] * 9), "rows must have length 1"),
    "scaled mgh": ("a.mgh", patched(42, ">9f", 2, 0, 0, 0, 2, 0, 0, 0, 2), "Mdc = .*2.0, 0.0"),
    "folder": ("a", lambda path: path.mkdir(), "expected a folder with DICOM images"),
}


@pytest.mark.parametrize(("name", "make", "match"), BAD.values(), ids=BAD)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, name, make, match):
    path = tmp_path / name
    make(path)
    with pytest.raises(VolumeError, match=match) as caught:
        read_volume(path)
    message = str(caught.value)
    assert str(tmp_path / "a") in message and "\n" not in message
    assert ";" in message  # what to do


def test_a_flipped_bit_in_voxels_of_a_gzip_stream_is_noticed_wherever_it_is(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(Volume.from_grid(ARRAY, GRID), path)
    whole = path.read_bytes()
    for position in range(400, len(whole) - 8, 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(VolumeError, match="truncated or damaged"):
            read_volume(path)


def test_an_unreadable_file_is_said(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    write_volume(Volume.from_grid(ARRAY, GRID), path)

    error = PermissionError(13, "Permission denied")
    monkeypatch.setattr("builtins.open", Mock(side_effect=error))
    with pytest.raises(VolumeError, match=r"a\.nii: cannot be read \(Permission denied\)"):
        read_volume(path)
