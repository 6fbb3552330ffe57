# SPDX-License-Identifier: MIT
"""DICOM: series, slices and frames, compression, and elements that SimpleITK hides."""

import logging
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from volumes.samples import (
    DIRECTIONS,
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
from segsrgan.volumes.reading import read_with_source

SECONDARY_UID = "1.2.3.9"
# Of a usual size: the JPEG 2000 encoder aborts the process on very small images.
LARGE = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
TURNED = item(ImageOrientationPatient=[0, 1, 0, 0, 0, 1])


def test_slices_are_sorted_by_position_not_name_or_number(tmp_path):
    volume = read_volume(write_series(tmp_path / "s", EVEN))
    assert volume.array.shape == (5, 6, 6)
    assert volume.spacing == (2, 1.5, 3)  # not SliceThickness, 9
    assert volume.origin == pytest.approx((3, 4, -7))
    assert levels(volume) == pytest.approx(EVEN)
    assert np.array_equal(volume.array[..., 0].T, slice_pixels(-7))


@pytest.mark.parametrize("name", ["flipped", "left-handed", "permuted", "oblique"])
def test_slices_lie_where_their_headers_say(tmp_path, name):
    orientation = DIRECTIONS[name][:, :2].T.ravel()
    volume = read_volume(write_series(tmp_path / "s", EVEN, orientation=orientation))
    normal = np.cross(orientation[:3], orientation[3:])
    points = volume.grid.index_to_physical([(0, 0, k) for k in range(6)])
    assert points @ normal - normal @ [3, 4, 0] == pytest.approx(levels(volume), abs=0.01)
    assert volume.direction[:, :2].T.ravel() == pytest.approx(orientation, abs=1e-5)


def test_rescaling_is_applied_slice_by_slice(tmp_path):
    for k, position in enumerate(EVEN):
        tags = {"RescaleSlope": k + 1, "RescaleIntercept": -5}
        write_slice(tmp_path / f"{k}", position, np.full((6, 5), 10, np.uint16), **tags)
    assert read_volume(tmp_path).array[0, 0] == pytest.approx([5, 15, 25, 35, 45, 55])


@pytest.mark.parametrize(
    ("positions", "spacing", "count", "warning"),
    [
        ([-7, -4, 2, 5, 8], 3, 6, "1 missing"),
        ([0, 3, 6.5, 9, 12, 15.5], 3.1, 6, "interpolating"),
        # Each gap is within 5 % of 3 mm; halfway the slices are 0.7 mm off an even grid.
        (np.cumsum([0] + [2.9] * 7 + [3.1] * 7), 3, 15, "interpolating"),
        ([0, 3.01, 5.99, 9.0, 12.02], 12.02 / 4, 5, ""),  # rounding
    ],
)
def test_missing_and_uneven_slices_are_interpolated(
    tmp_path, caplog, positions, spacing, count, warning
):
    volume = read_volume(write_series(tmp_path / "s", positions))
    assert warning in caplog.text and bool(warning) == bool(caplog.text)
    assert volume.spacing[2] == pytest.approx(spacing)
    assert levels(volume) == pytest.approx(positions[0] + np.arange(count) * spacing, abs=0.051)


def test_a_tilted_stack_is_made_upright(tmp_path, caplog):
    for k in range(5):  # the image content stands upright while the slices slide by a column
        pixels = np.zeros((6, 20), np.uint16)
        pixels[:, 9 - k] = 100
        position = [3 + 2.0 * k, 4, 3.0 * k]
        write_slice(tmp_path / f"{k}", 3.0 * k, pixels, ImagePositionPatient=position, Columns=20)
    volume = read_volume(tmp_path)
    assert "tilted gantry" in caplog.text and "8.0 mm" in caplog.text
    assert volume.origin == pytest.approx((3, 4, 0)) and volume.spacing == (2, 1.5, 3)
    assert volume.array[9, 0] == pytest.approx([100] * 5)


def test_folders_and_links_are_searched_whatever_else_lies_there_and_loops_are_not(tmp_path):
    folder = write_series(tmp_path / "s", EVEN)
    (folder / "loop").symlink_to(folder)
    (folder / "notes.txt").write_text("nothing")
    (folder / "empty").write_bytes(b"")
    (folder / "odd.dcm").write_bytes(b"not DICOM" * 99)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "linked").symlink_to(folder)
    assert levels(read_volume(tmp_path / "t")) == pytest.approx(EVEN)


@pytest.mark.parametrize(
    ("positions", "tags", "match"),
    [
        ([0, 3, 6, 60], {}, "distances of 3.00 to 54.00 mm"),
        ([0, 4, 8, 16, 24], {}, "quarter of all"),
        ([0, 3, 6, 9, 12, 24, 27], {}, "2 missing in a row"),
        (EVEN, {"ImagePositionPatient": [0, 0, 0]}, "1 positions.*the position of each slice"),
        (EVEN, {"PixelSpacing": None}, "PixelSpacing"),
        (EVEN, {"PixelSpacing": [0, 1]}, "PixelSpacing"),
        (EVEN, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient"),
        (EVEN, {"ImageOrientationPatient": None}, "ImageOrientationPatient is missing"),
        ([0, 0, 0], {"ImagePositionPatient": None}, "ImagePositionPatient"),
        ([0], {"SliceThickness": None}, "SliceThickness"),
    ],
)
def test_geometry_that_is_missing_or_impossible_is_not_made_up(tmp_path, positions, tags, match):
    folder = write_series(tmp_path / "s", positions, **tags)
    with pytest.raises(VolumeError, match=match):
        read_volume(folder)


@pytest.fixture
def mixed(tmp_path):
    """Three series: 6 slices; 8 in one position; 3."""
    write_series(tmp_path / "s", EVEN)
    tags = {"SeriesInstanceUID": "1.2.3.7", "SeriesNumber": 7, "SeriesDescription": "dynamic"}
    for k in range(8):
        write_slice(tmp_path / f"dynamic{k}", 0, TemporalPositionIdentifier=k, **tags)
    tags = {"SeriesInstanceUID": SECONDARY_UID, "SeriesNumber": 12}
    write_series(tmp_path / "t", [0, 5, 10], start=50, SeriesDescription="Sagittal T2", **tags)
    return tmp_path


def test_the_series_with_most_positions_is_taken_and_the_rest_named(mixed, caplog):
    with caplog.at_level(logging.INFO):
        assert levels(read_volume(mixed)) == pytest.approx(EVEN)
    taken, others = caplog.text.split("also there")
    assert "1.2.3.4 ('axial', number 4, 6 slices)" in taken
    assert "1.2.3.7 ('dynamic', number 7, 8 slices)" in others
    assert f"{SECONDARY_UID} ('Sagittal T2', number 12, 3 slices)" in others


@pytest.mark.parametrize("name", [SECONDARY_UID, "3.9", "Sagittal T2", "sagittal", "12", 12])
def test_a_series_is_taken_by_uid_description_or_number(mixed, name):
    assert levels(read_volume(mixed, series=name)) == pytest.approx([0, 5, 10])


@pytest.mark.parametrize("name", ["1.2.3", "a", "coronal", ""])
def test_a_series_that_is_not_one_is_refused_with_a_list(mixed, name):
    with pytest.raises(VolumeError, match=r"give the UID of one of(.*slices\)){3}$"):
        read_volume(mixed, series=name)


def test_slices_of_other_geometry_are_left_out_with_a_warning(tmp_path, caplog):
    write_series(tmp_path / "s", EVEN)
    write_series(tmp_path / "t", [0, 5], start=50, orientation=(0, 1, 0, 0, 0, 1))
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert "left out" in caplog.text


def test_copies_of_a_file_count_once_but_not_slices_of_one_instance_uid(tmp_path, caplog):
    write_series(tmp_path / "s", EVEN, SOPInstanceUID="1.2.3.4.5")
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert caplog.text == ""
    # Of the same place, but with pixels of its own, it is no copy.
    write_slice(tmp_path / "edited", EVEN[2], slice_pixels(0), SOPInstanceUID="1.2.3.4.5")
    with pytest.raises(VolumeError, match="7 slices in 6 positions.* such as .*edited; what"):
        read_volume(tmp_path)


def test_images_in_one_place_are_one_if_they_are_equal(tmp_path, caplog):
    folder = write_series(tmp_path / "s", EVEN)
    write_slice(folder / "again", EVEN[2])
    assert levels(read_volume(folder)) == pytest.approx(EVEN)
    assert "1 of 7 slices are copies" in caplog.text
    write_slice(folder / "again", EVEN[2], slice_pixels(0))
    with pytest.raises(VolumeError, match="7 slices in 6 positions.*nothing that is known"):
        read_volume(folder)
    write_slice(folder / "again", 0, ImagePositionPatient=[203, 4, EVEN[2]])
    with pytest.raises(VolumeError, match="their place within the plane, by up to 200 mm"):
        read_volume(folder)


@pytest.mark.parametrize("kept", [250, "SeriesInstanceUID"])
def test_a_file_cut_off_within_its_header_is_damaged(tmp_path, caplog, kept):
    victim = write_series(tmp_path / "s", EVEN) / "00000003"
    raw, words = victim.read_bytes(), "00000003: cannot be read, it is damaged or truncated"
    victim.write_bytes(raw[: kept if kept == 250 else raw.index(b"1.2.3.4\0") + 20])
    with pytest.raises(VolumeError, match=words):
        read_volume(victim)
    if kept == 250:  # of which series is not known
        read_volume(tmp_path)
        assert "left out" in caplog.text and words in caplog.text
    else:
        with pytest.raises(VolumeError, match=words):
            read_volume(tmp_path)


def test_compressed_pixels_that_are_cut_off_are_named(tmp_path):
    path = write_slice(tmp_path / "a", 5, LARGE, Rows=64, Columns=64)
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(VolumeError, match="PixelData. are missing or cut off"):
        read_volume(path)


def test_a_damaged_slice_is_not_taken_for_a_missing_one(tmp_path):
    victim = write_series(tmp_path / "s", EVEN) / "00000003"
    victim.write_bytes(victim.read_bytes()[:-20])
    for path, match in ((tmp_path, "damaged or truncated"), (victim, "cannot be read")):
        with pytest.raises(VolumeError, match=f"00000003: .*{match}"):
            read_volume(path)
    write_series(tmp_path / "t", [0, 5, 10], start=50, SeriesInstanceUID=SECONDARY_UID)
    assert levels(read_volume(tmp_path, series=SECONDARY_UID)) == pytest.approx([0, 5, 10])


@pytest.mark.parametrize(("thickness", "between"), [(None, 4), (3, 4), (4, None)])
def test_a_single_file_is_one_slice_as_thick_as_it_says(tmp_path, thickness, between, caplog):
    tags = {"SliceThickness": thickness, "SpacingBetweenSlices": between}
    volume = read_volume(write_slice(tmp_path / "a.dcm", 5, **tags))
    assert (volume.array.shape, volume.spacing) == ((5, 6, 1), (2, 1.5, 4))
    assert volume.origin == pytest.approx((3, 4, 5)) and "one slice" in caplog.text


def test_the_patient_is_that_of_the_file_or_the_series(tmp_path):
    path = write_slice(tmp_path / "a.dcm", 5, PatientID="17")
    write_series(tmp_path / "t", EVEN, SeriesInstanceUID=SECONDARY_UID, PatientID="18")
    for given, series, patient in (
        (path, None, "17"),
        (tmp_path, "1.2.3.4", "17"),
        (tmp_path, None, "18"),
        (tmp_path, SECONDARY_UID, "18"),
    ):
        assert read_with_source(given, series)[1].patient == patient


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("positions", [EVEN, EVEN[::-1], [EVEN[k] for k in (3, 0, 5, 1, 4)]])
def test_frames_are_sorted_and_completed_like_slices(tmp_path, positions, implicit):
    write_multiframe(tmp_path / "a", positions, implicit)
    for path in (tmp_path / "a", tmp_path):
        volume = read_volume(path)
        assert volume.spacing == pytest.approx((2, 1.5, 3))
        assert volume.origin == pytest.approx((3, 4, -7)) and levels(volume) == pytest.approx(EVEN)


def test_frames_of_several_echoes_are_told_apart(tmp_path, caplog):
    path = write_multiframe(tmp_path / "a", [0, 0, 3, 3, 6, 6], echoes=[80, 9] * 3)
    assert levels(read_volume(path)) == pytest.approx([0, 3, 6])
    assert "of effective echo time 9.0, 80.0 taking 9.0" in caplog.text
    with pytest.raises(VolumeError, match="6 slices in 3 positions"):
        read_volume(write_multiframe(tmp_path / "a", [0, 0, 3, 3, 6, 6], change=renumbered))


def renumbered(dataset):
    dataset.PixelData = np.arange(180, dtype=np.uint16).tobytes()


def test_an_icon_and_the_older_header_of_philips_say_nothing_of_the_frames(tmp_path):
    def change(dataset):
        dataset.IconImageSequence = [item(Rows=2, Columns=2, BitsAllocated=8, PixelData=bytes(4))]
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            older = item(ImagePositionPatient=[0, 0, 99], PixelSpacing=[9, 9])
            frame.private_block(0x2005, "Philips", create=True).add_new(0x0F, "SQ", [older])

    volume = read_volume(write_multiframe(tmp_path / "a", EVEN, change=change))
    assert levels(volume) == pytest.approx(EVEN) and volume.spacing == (2, 1.5, 3)


@pytest.mark.parametrize(
    ("name", "sequence", "match"),
    [
        ("PlaneOrientationSequence", [TURNED], "one orientation"),
        ("PlanePositionSequence", [], "1 of 6 frames .*ImagePositionPatient"),
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


def test_a_frame_is_scaled_as_it_says_itself(tmp_path):
    def change(dataset):
        scaled = item(RescaleSlope=2, RescaleIntercept=-5, RescaleType="US")
        dataset.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence = [scaled]

    volume = read_volume(write_multiframe(tmp_path / "a", EVEN, change=change))
    assert np.array_equal(volume.array[..., 2].T, slice_pixels(EVEN[2]) * 2.0 - 5)
    assert np.array_equal(volume.array[..., 3].T, slice_pixels(EVEN[3]))


def test_the_directory_of_a_disc_is_no_damaged_image(tmp_path):
    dataset = pydicom.dcmread(write_series(tmp_path / "s", EVEN) / "00000000")
    icon = item(Rows=2, SeriesInstanceUID=dataset.SeriesInstanceUID)
    index = item(DirectoryRecordSequence=[icon])
    index.file_meta = dataset.file_meta
    index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.preamble = bytes(128)
    index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    with pytest.raises(VolumeError, match="the directory of a disc"):
        read_volume(tmp_path / "DICOMDIR")


def test_an_old_file_without_a_preamble_is_read(tmp_path):
    dataset = pydicom.dcmread(write_slice(tmp_path / "new", 5))
    for name in (tmp_path / "old", tmp_path / "old.dcm"):
        bare = pydicom.dataset.Dataset(dataset)
        pydicom.dcmwrite(name, bare, implicit_vr=True, little_endian=True)
        assert np.array_equal(read_volume(name).array[..., 0].T, slice_pixels(5))


@pytest.mark.parametrize(
    ("syntax", "order"), [("1.2.840.10008.1.2.1.99", "<"), ("1.2.840.10008.1.2.2", ">")]
)
def test_deflated_and_big_endian_files_are_read(tmp_path, syntax, order):
    image = write_slice(tmp_path / "slice", 5)
    frames = write_multiframe(tmp_path / "frames", EVEN)
    for path in (image, frames):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.pixel_array.astype(f"{order}u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=order == "<")
    assert np.array_equal(read_volume(image).array[..., 0].T, slice_pixels(5))
    assert levels(read_volume(frames)) == pytest.approx(EVEN)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "RLE"])
def test_compressed_slices_are_read(tmp_path, compressor):
    plain = write_slice(tmp_path / "plain.dcm", 5, LARGE, Rows=64, Columns=64)
    packed = tmp_path / "a.dcm"
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
    path = write_slice(tmp_path / "a.dcm", 5)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # High-Throughput JPEG 2000
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(400)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(VolumeError, match=r"1\.2\.840\.10008\.1\.2\.4\.201"):
        read_volume(path)


def test_series_of_scanners(data_dir, caplog):
    volume = read_volume(data_dir / "dicom" / "sagittal_t1")
    assert volume.array.shape == (256, 256, 35)
    assert volume.spacing == pytest.approx((1.015625, 1.015625, 4.8))
    # Columns run to posterior and slices from right to left or back: a sagittal plane.
    assert np.abs(volume.direction).round().argmax(axis=0).tolist() == [1, 2, 0]
    folder = data_dir / "dicom" / "mixed_folder"
    with caplog.at_level(logging.INFO):
        axial = read_volume(folder, series="AX FSE T2")
    # One of the 56 slices is missing from the folder; ITK would spread the others evenly.
    assert "1 missing" in caplog.text and "mocoMEMPRAGE" in caplog.text
    assert axial.array.shape == (384, 512, 56)
    assert axial.spacing == pytest.approx((0.4296875, 0.4296875, 2.5), abs=1e-4)
    assert read_volume(folder).array.shape == (192, 192, 61)
    with pytest.raises(VolumeError, match="mosaic"):
        read_volume(folder, series="relCBF")
