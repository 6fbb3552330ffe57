# SPDX-License-Identifier: MIT
"""Single DICOM files: multi-frame images, compression, and elements that SimpleITK hides."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from volumes.samples import (
    EVEN,
    item,
    levels,
    slice_pixels,
    write_multiframe,
    write_series,
    write_slice,
)

from segsrgan.errors import VolumeError
from segsrgan.volumes import read_volume


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("positions", [EVEN, EVEN[::-1], [EVEN[k] for k in (3, 0, 5, 1, 4)]])
def test_frames_are_sorted_and_completed_like_slices(tmp_path, positions, implicit):
    write_multiframe(tmp_path / "a", positions, implicit)
    for path in (tmp_path / "a", tmp_path):
        volume = read_volume(path)
        assert volume.spacing == pytest.approx((2, 1.5, 3))
        assert volume.origin == pytest.approx((3, 4, -7))
        assert levels(volume) == pytest.approx(EVEN)


def test_frames_of_several_echoes_are_told_apart(tmp_path, caplog):
    write_multiframe(tmp_path / "a", [0, 0, 3, 3, 6, 6], echoes=[80, 9] * 3)
    assert levels(read_volume(tmp_path / "a")) == pytest.approx([0, 3, 6])
    assert "of effective echo time 9.0, 80.0 taking 9.0" in caplog.text
    write_multiframe(tmp_path / "a", [0, 0, 3, 3, 6, 6])
    with pytest.raises(VolumeError, match="6 slices in 3 positions"):
        read_volume(tmp_path / "a")


def test_an_icon_does_not_hide_the_frames(tmp_path):
    def add_icon(dataset):
        icon = item(Rows=2, Columns=2, BitsAllocated=8, PixelData=bytes(4))
        dataset.IconImageSequence = [icon]

    write_multiframe(tmp_path / "a", EVEN, change=add_icon)
    assert levels(read_volume(tmp_path / "a")) == pytest.approx(EVEN)


TURNED = item(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])
SCALED = item(RescaleSlope=2, RescaleIntercept=0, RescaleType="US")


@pytest.mark.parametrize(
    ("name", "sequence", "match"),
    [
        ("PlaneOrientationSequence", [TURNED], "one orientation"),
        ("PlanePositionSequence", [], "received 5 positions"),
        ("PixelValueTransformationSequence", [SCALED], "one intensity scale"),
    ],
)
def test_a_frame_unlike_the_others_is_refused(tmp_path, caplog, name, sequence, match):
    def change(dataset):
        setattr(dataset.PerFrameFunctionalGroupsSequence[2], name, sequence)

    write_multiframe(tmp_path / "a", EVEN, change=change)
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(VolumeError, match=match):
            read_volume(path)
    write_series(tmp_path / "s", EVEN)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert "left out" in caplog.text


def test_the_directory_of_a_disc_is_no_damaged_image(tmp_path):
    write_series(tmp_path / "s", EVEN)
    dataset = pydicom.dcmread(tmp_path / "s" / "00000000")
    icon = item(Rows=2, SeriesInstanceUID=dataset.SeriesInstanceUID)
    index = item(DirectoryRecordSequence=[icon])
    index.file_meta = dataset.file_meta
    index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.preamble = bytes(128)
    index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)


def test_an_old_file_without_a_preamble_is_read(tmp_path):
    write_slice(tmp_path / "new", 5)
    dataset = pydicom.dcmread(tmp_path / "new")
    for name in (tmp_path / "old", tmp_path / "old.dcm"):
        bare = pydicom.dataset.Dataset(dataset)
        pydicom.dcmwrite(name, bare, implicit_vr=True, little_endian=True)
        assert np.array_equal(read_volume(name).array[..., 0].T, slice_pixels(5))


@pytest.mark.parametrize(
    ("syntax", "order"), [("1.2.840.10008.1.2.1.99", "<"), ("1.2.840.10008.1.2.2", ">")]
)
def test_deflated_and_big_endian_files_are_read(tmp_path, syntax, order):
    write_slice(tmp_path / "slice", 5)
    write_multiframe(tmp_path / "frames", EVEN)
    for path in (tmp_path / "slice", tmp_path / "frames"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.pixel_array.astype(f"{order}u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=order == "<")
    assert np.array_equal(read_volume(tmp_path / "slice").array[..., 0].T, slice_pixels(5))
    assert levels(read_volume(tmp_path / "frames")) == pytest.approx(EVEN)


# Of a usual size: the JPEG 2000 encoder aborts the process on very small images.
LARGE = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "RLE"])
def test_compressed_slices_are_read(tmp_path, compressor):
    plain, packed = tmp_path / "plain.dcm", tmp_path / "a.dcm"
    write_slice(plain, 5, LARGE, Rows=64, Columns=64)
    if compressor == "RLE":
        dataset = pydicom.dcmread(plain)
        dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(packed)
    else:
        image = sitk.ReadImage(str(plain))
        sitk.WriteImage(image, str(packed), useCompression=True, compressor=compressor)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read_volume(packed).array[..., 0].T, LARGE)


def test_a_transfer_syntax_beyond_itk_is_named(tmp_path):
    write_slice(tmp_path / "a.dcm", 5)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # High-Throughput JPEG 2000
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(400)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(VolumeError, match=r"1\.2\.840\.10008\.1\.2\.4\.201"):
        read_volume(tmp_path / "a.dcm")


def test_a_philips_header_in_a_private_sequence_says_nothing_of_the_frames(tmp_path):
    def add_private(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            older = item(ImagePositionPatient=[0, 0, 99], PixelSpacing=[9, 9])
            frame.private_block(0x2005, "Philips", create=True).add_new(0x0F, "SQ", [older])

    write_multiframe(tmp_path / "a", EVEN, change=add_private)
    volume = read_volume(tmp_path / "a")
    assert levels(volume) == pytest.approx(EVEN) and volume.spacing == (2, 1.5, 3)
