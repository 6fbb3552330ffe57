# SPDX-License-Identifier: MIT
"""DICOM values: padding, several images per position, and how numbers are stored and scaled."""

import numpy as np
import pydicom
import pytest
from volumes.samples import (
    EVEN,
    item,
    slice_pixels,
    write_multiframe,
    write_series,
    write_slice,
)

from segsrgan.errors import VolumeError
from segsrgan.volumes import read_volume

MAGNITUDE, PHASE = (["ORIGINAL", "PRIMARY", kind, "ND"] for kind in "MP")


def write_padded(folder, value, limit=None, signed=True, written=None):
    """Folder with slices of which one corner pixel is padding; -5 or 1 is the lowest value."""
    folder.mkdir()
    dtype = np.int16 if signed else np.uint16
    for k in range(3):
        pixels = np.full((6, 5), 100, dtype)
        pixels[0, 0], pixels[1, 1] = value, -5 if signed else 1
        if limit is not None:
            pixels[0, 1] = limit
        write_slice(folder / f"{k}", k, pixels, PixelRepresentation=int(signed), RescaleSlope=2)
        dataset = pydicom.dcmread(folder / f"{k}")
        kind = "SS" if signed and written is None else "US"
        dataset.add_new("PixelPaddingValue", kind, value if written is None else written)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", kind, limit)
        dataset.save_as(folder / f"{k}")
    return folder


@pytest.mark.parametrize(
    ("options", "lowest", "count"),
    [
        ({"value": -32768}, -10, 3),
        ({"value": -2000, "limit": -1990}, -10, 6),
        ({"value": -32768, "written": 32768}, -10, 3),  # in a field without sign
        ({"value": 65535, "signed": False}, 2, 3),
    ],
)
def test_padding_becomes_the_lowest_other_value(tmp_path, caplog, options, lowest, count):
    volume = read_volume(write_padded(tmp_path / "s", **options))
    assert volume.array.min() == volume.array[0, 0, 0] == lowest and volume.array.max() == 200
    assert f"{count} voxels of padding (PixelPaddingValue" in caplog.text


@pytest.mark.parametrize("kept", [1, 2])
def test_what_is_padding_by_one_slice_is_padding_in_those_that_say_nothing(tmp_path, caplog, kept):
    folder = write_padded(tmp_path / "s", -2000)
    for k in range(kept, 3):
        dataset = pydicom.dcmread(folder / f"{k}")
        del dataset.PixelPaddingValue
        dataset.save_as(folder / f"{k}")
    assert read_volume(folder).array.min() == -10
    expected = (
        "3 voxels of padding (PixelPaddingValue, -4000) are set to -10",
        f"PixelPaddingValue is missing in {3 - kept} of 3 slices with such voxels",
    )
    for record, text in zip(caplog.records, expected, strict=True):
        assert record.message.endswith(text)


def test_a_padding_value_that_is_in_range_changes_nothing(tmp_path, caplog):
    volume = read_volume(write_padded(tmp_path / "s", 0, signed=False))
    assert volume.array[0, 0, 0] == 0 and volume.array[1, 1, 0] == 2 and caplog.text == ""


def write_echoes(folder, kinds=(MAGNITUDE, PHASE), labels=True):
    for k, (echo, kind) in enumerate([(e, t) for e in (90, 20) for t in kinds]):
        tags = {"EchoTime": echo, "ImageType": kind} if labels else {}
        position = np.add(EVEN, 0)
        folder.mkdir(exist_ok=True)
        for n, height in enumerate(position):
            pixels = np.full((6, 5), echo + 1000 * (kind is PHASE), np.uint16)
            write_slice(folder / f"{k}_{n}", height, pixels, **tags)
    return folder


def test_the_first_echos_magnitude_is_taken(tmp_path, caplog):
    volume = read_volume(write_echoes(tmp_path / "s"))
    assert volume.array.shape == (5, 6, 6) and (volume.array == 20).all()
    assert "echo time 20.0, 90.0; image type" in caplog.text
    assert "taking 20.0, ORIGINAL" in caplog.text
    for folder in (tmp_path / "s").iterdir():
        dataset = pydicom.dcmread(folder)
        dataset.EchoNumbers = 1 + (dataset.EchoTime > 50)
        dataset.save_as(folder)
    read_volume(tmp_path / "s")
    assert "differ in: echo number(s) 1, 2, taking 1)" in caplog.text


WATER, FAT, IN_PHASE = (["DERIVED", "DIXON", kind] for kind in ("WATER", "FAT", "IN_PHASE"))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"ImageType": FAT}, {"ImageType": WATER}, r"taking DERIVED\DIXON\WATER"),
        ({"ImageType": FAT}, {"ImageType": IN_PHASE}, r"taking DERIVED\DIXON\IN_PHASE"),
        ({"ContrastBolusAgent": "Gd"}, {"ContrastBolusAgent": None}, "agent -, Gd taking -"),
        ({"AcquisitionTime": "101500"}, {"AcquisitionTime": "101000"}, "taking 101000"),
        ({"SeriesNumber": 5, "SeriesInstanceUID": None}, {"SeriesInstanceUID": None}, "series 5 "),
    ],
)
def test_the_likeliest_scan_is_taken_of_images_in_one_place(tmp_path, caplog, first, second, words):
    for name, tags, value in (("a", first, 7), ("b", second, 8)):
        (tmp_path / name).mkdir()
        for height in EVEN:
            pixels = np.full((6, 5), value, np.uint16)
            write_slice(tmp_path / name / f"{height}", height, pixels, SOPInstanceUID="1.9", **tags)
    taken = 7 if "series" in words else 8
    assert (read_volume(tmp_path).array == taken).all()
    assert words in caplog.text and "phase or a part" not in caplog.text


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"EchoTime": 90}, "differ in echo time: 20.0 (3 slices), 90.0 (3 slices)"),
        ({"EchoTime": 20.4}, ""),
        ({"EchoTime": None, "AcquisitionTime": "101500"}, ""),
        ({"ImageType": ["DERIVED", "PRIMARY", "M", "ND"]}, "differ in image type: ORIGINAL"),
        ({"FrameOfReferenceUID": "1.8"}, "frame of reference uid: 1.7 (3 slices), 1.8"),
        ({"ContrastBolusAgent": "Gd"}, "agent: - (3 slices), Gd (3 slices)"),
        ({"RescaleSlope": 2.5}, "RescaleSlope is missing in 3 of 6 slices"),
        ({"RescaleSlope": 1}, ""),
        ({"AcquisitionNumber": 2}, "header says 9.00 mm (SliceThickness); are they of several"),
        ({"ImageType": PHASE}, None),
        ({"ComplexImageComponent": "PHASE"}, None),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, None),
    ],
)
def test_slices_that_are_not_of_one_image_are_pointed_out_or_refused(
    tmp_path, caplog, others, words
):
    shared = {"ImageType": MAGNITUDE, "EchoTime": 20, "FrameOfReferenceUID": "1.7"}
    write_series(tmp_path / "s", EVEN[::2], **shared)
    write_series(tmp_path / "t", EVEN[1::2], 50, **(shared | others))
    if words is None:
        value = "PHASE" if "ComplexImageComponent" in others else others["ImageType"][2]
        with pytest.raises(VolumeError, match=f"{value}.* .3 of 6 slices.*that of the others"):
            read_volume(tmp_path)
    else:
        read_volume(tmp_path)
        assert words in caplog.text and bool(words) == bool(caplog.text)


def test_what_differs_is_named_where_nothing_separates_the_images(tmp_path):
    folder = write_echoes(tmp_path / "s")
    (folder / "0_2").unlink()  # one each of the first echo's and of the second's
    for k in range(1, 4):
        (folder / f"{k}_{k}").unlink()
    with pytest.raises(
        VolumeError, match=r"20 slices in 6.*echo time 20.0, 90.0; image .*\\M.*\\P"
    ):
        read_volume(folder)
    with pytest.raises(VolumeError, match="nothing that is known"):
        read_volume(write_echoes(tmp_path / "t", labels=False))


@pytest.mark.parametrize("order", [1, -1])
def test_magnitude_is_taken_of_a_field_map_with_its_own_scale(tmp_path, caplog, order):
    kinds = [("M", 2.0, 0.0, 1.5), ("FIELD_MAP", 0.25, -500.0, 0.0)][::order]

    def change(dataset):
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            kind, slope, intercept, echo = kinds[k // 6]
            kind = ["ORIGINAL", "PRIMARY", "T1", kind]
            frame.MRImageFrameTypeSequence = [item(FrameType=kind)]
            frame.MREchoSequence = [item(EffectiveEchoTime=echo)]
            scale = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
            frame.PixelValueTransformationSequence = [scale]

    volume = read_volume(write_multiframe(tmp_path / "a", EVEN * 2, change=change))
    assert np.array_equal(volume.array[..., 2].T, slice_pixels(EVEN[2]) * 2.0)
    assert "several images per position" in caplog.text and "FIELD_MAP" in caplog.text


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
        ({"BitsStored": 17}, "BitsStored is 17, expected 1 to 16"),
        ({"BitsStored": None, "BitsAllocated": 32}, "missing, expected 1 to 32 .FloatPixelData"),
        ({"BitsStored": 12}, "HighBit is 15, expected BitsStored less 1"),
        ({"BitsStored": 4, "HighBit": 3}, "BitsStored"),
        ({"PixelRepresentation": 7}, "PixelRepresentation is 7"),
    ],
)
def test_numbers_of_impossible_size_or_scale_are_refused(tmp_path, tags, match):
    with pytest.raises(VolumeError, match=match):
        read_volume(write_slice(tmp_path / "a", 5, **tags))


def test_compressed_frames_are_scaled_as_each_says(tmp_path):
    def change(dataset):
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            scale = item(RescaleSlope=k + 1, RescaleIntercept=-7, RescaleType="US")
            frame.PixelValueTransformationSequence = [scale]
        dataset.compress(pydicom.uid.RLELossless)

    volume = read_volume(write_multiframe(tmp_path / "a", EVEN, change=change))
    expected = [slice_pixels(position) * (k + 1.0) - 7 for k, position in enumerate(EVEN)]
    assert np.array_equal(volume.array.T, expected)


def test_values_of_a_file_with_zeros_behind_its_pixels_are_those_of_the_plain_one(tmp_path):
    path = write_slice(tmp_path / "a", 5)
    plain = read_volume(path).array
    dataset = pydicom.dcmread(path)
    dataset.PixelData += bytes(20)
    dataset.save_as(path)
    assert np.array_equal(read_volume(path).array, plain)


@pytest.mark.parametrize(("slope", "kind"), [(1, np.uint16), (0.5, np.float64)])
def test_labels_keep_their_stored_type_and_are_not_mixed(tmp_path, caplog, slope, kind):
    positions = [*EVEN[:2], *EVEN[3:]]
    volume = read_volume(write_series(tmp_path / "s", positions, RescaleSlope=slope), labels=True)
    assert volume.array.dtype == kind and volume.array.shape == (5, 6, 6)
    assert "1 missing); taking the nearest ones for 6 slices" in caplog.text
    assert set(np.unique(volume.array / slope)) == set(np.ravel([*map(slice_pixels, positions)]))


def test_values_meant_to_be_shown_inverted_are_pointed_out(tmp_path, caplog):
    folder = write_series(tmp_path / "s", EVEN, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_volume(folder).array[..., 0].T, slice_pixels(EVEN[0]))
    assert "MONOCHROME1: low values are meant to be bright" in caplog.text
    for path in list(folder.iterdir())[:2]:
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.save_as(path)
    with pytest.raises(VolumeError, match="MONOCHROME1 .4 of 6 slices"):
        read_volume(folder)


def test_a_slope_beyond_float32_is_refused_by_its_values(tmp_path):
    folder = write_series(tmp_path / "s", EVEN, RescaleSlope="1e300", RescaleIntercept=0)
    with pytest.raises(VolumeError, match="180 of 180 voxels are beyond float32, up to 1.11e.303"):
        read_volume(folder)
