# SPDX-License-Identifier: MIT
"""Which objects of a DICOM folder are scans, which series is taken, what is said of the rest."""

import gzip
import os

import numpy as np
import pytest
from volumes.samples import EVEN, levels, write_multiframe, write_series, write_slice

from segsrgan.errors import VolumeError
from segsrgan.volumes import read_volume
from segsrgan.volumes.reading import read_with_source

OBJECTS = {
    "segmentation": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "a segmentation object"),
    "segmentation by modality": ({"Modality": "SEG"}, "a segmentation object"),
    "dose": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "a radiotherapy dose"),
    "dose by modality": ({"Modality": "RTDOSE"}, "a radiotherapy dose"),
    "parametric map": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "a parametric map"),
    "presentation": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "a presentation state"),
    "report": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, "a report"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "convert it to NIfTI with"),
    "colours": ({"PhotometricInterpretation": "PALETTE COLOR"}, "one real number per voxel"),
}


@pytest.mark.parametrize(("tags", "words"), OBJECTS.values(), ids=OBJECTS)
def test_what_is_no_scan_is_skipped_beside_one_and_refused_by_name(tmp_path, caplog, tags, words):
    folder = write_series(tmp_path / "s", [0, 1, 2, 3, 4, 5, 6, 7], SeriesInstanceUID="1.9", **tags)
    for path in (folder, folder / "00000003"):
        with pytest.raises(VolumeError, match=words):
            read_volume(path)
    write_series(tmp_path / "t", EVEN, start=50)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert caplog.text == ""
    with pytest.raises(VolumeError, match=words):
        read_volume(tmp_path, series="1.9")


def test_scans_are_taken_before_reformats_and_larger_ones_are_named(tmp_path, caplog):
    write_series(tmp_path / "s", EVEN)
    tags = {"SeriesInstanceUID": "1.9", "ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    write_series(tmp_path / "t", range(12), start=50, **tags)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert "taking series 1.2.3.4 " in caplog.text and "series 1.9 " in caplog.text
    assert "12 slices" in caplog.text and "DERIVED" in caplog.text


def test_scans_of_several_patients_are_told_apart(tmp_path):
    write_series(tmp_path / "s", EVEN, PatientID="A")
    tags = {"PatientID": "B", "SeriesInstanceUID": "1.9"}
    write_series(tmp_path / "t", EVEN[:5], start=50, **tags)
    with pytest.raises(VolumeError, match="several patients .*'A' of series 1.2.3.4.*'B' of"):
        read_volume(tmp_path)
    assert levels(read_volume(tmp_path, series="1.9")) == pytest.approx(EVEN[:5])


def test_a_localizer_is_not_taken_for_the_scan(tmp_path):
    write_series(tmp_path / "s", [0, 20, 40])
    tags = {"SeriesInstanceUID": "1.9", "ImageType": ["DERIVED", "PRIMARY"]}
    write_series(tmp_path / "t", EVEN, start=50, **tags)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)


def test_magnitude_is_taken_before_phase(tmp_path):
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}
    write_series(tmp_path / "s", np.add(EVEN, 1), SeriesInstanceUID="1.1", **tags)
    write_series(tmp_path / "t", EVEN, start=50)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)


def test_series_of_the_same_size_are_named(tmp_path, caplog):
    for k, plane in enumerate([(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)]):
        tags = {"SeriesInstanceUID": f"1.9.{k}", "orientation": plane}
        write_series(tmp_path / f"{k}", EVEN, start=50 * k, **tags)
    read_volume(tmp_path)
    assert (
        "others are as large or larger: series 1.9.1 ('axial'" in caplog.text
        and "1.9.2" in caplog.text
    )


def test_halves_of_a_scan_are_named_and_merged(tmp_path, caplog):
    positions = np.arange(12) * 3.0
    write_series(tmp_path / "s", positions[::2])
    write_series(tmp_path / "t", positions[1::2], start=50, SeriesInstanceUID="1.9")
    assert read_volume(tmp_path).array.shape == (5, 6, 6)
    assert "taking 6 of 12 slices" in caplog.text and "--series 1.2.3.4,1.9 merges" in caplog.text
    caplog.clear()
    for name in ("1.2.3.4,1.9", "1.9, 1.2.3.4"):
        volume = read_volume(tmp_path, series=name)
        assert levels(volume) == pytest.approx(positions) and volume.spacing[2] == 3
    assert caplog.text == ""
    write_series(tmp_path / "s", positions[::2], FrameOfReferenceUID="1.6")
    tags = {"SeriesInstanceUID": "1.9", "FrameOfReferenceUID": "1.8"}
    write_series(tmp_path / "t", positions[1::2], 50, **tags)
    read_volume(tmp_path)
    assert "merges" not in caplog.text and "others are as large" in caplog.text
    read_volume(tmp_path, series="1.2.3.4,1.9")
    assert "frame of reference uid: 1.6 (6 slices), 1.8 (6 slices)" in caplog.text
    write_series(tmp_path / "u", EVEN, 90, SeriesInstanceUID="1.7", PixelSpacing=[1, 1])
    with pytest.raises(VolumeError, match="cannot be merged"):
        read_volume(tmp_path, series="1.9,1.7")


@pytest.mark.parametrize(("patient", "shift"), [("", 0), ("18", 0), ("18", 1.5)])
def test_copies_and_other_patients_do_not_complete_a_scan(tmp_path, caplog, patient, shift):
    write_series(tmp_path / "s", EVEN)
    tags = {"SeriesInstanceUID": "1.9", "PatientID": patient}
    write_series(tmp_path / "t", np.add(EVEN, shift), start=50, **tags)
    assert levels(read_volume(tmp_path)) == pytest.approx(EVEN)
    assert "others are as large" in caplog.text and "merges" not in caplog.text
    if patient:
        with pytest.raises(VolumeError, match="several patients .PatientID '', '18'"):
            read_volume(tmp_path, series="1.2.3.4,1.9")


def test_a_series_of_each_slice_is_refused_but_merged_by_name(tmp_path):
    for k, position in enumerate(EVEN):
        write_slice(tmp_path / f"{k}", position, SeriesInstanceUID=f"1.9.{k}")
    with pytest.raises(VolumeError, match="6 series of one slice each.*anonymiser"):
        read_volume(tmp_path)
    merged = read_volume(tmp_path, series=",".join(f"1.9.{k}" for k in range(6)))
    assert levels(merged) == pytest.approx(EVEN)


def test_slices_of_other_orientations_are_counted(tmp_path, caplog):
    for k, angle in enumerate((0, 10, 20)):
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        plane = (1, 0, 0, 0, cosine, sine)
        write_series(tmp_path / f"{k}", range(4 + k % 2), start=50 * k, orientation=plane)
    volume = read_volume(tmp_path)
    assert volume.array.shape == (5, 6, 5)
    assert volume.direction[:, 1] == pytest.approx(
        [0, np.cos(np.pi / 18), np.sin(np.pi / 18)], abs=1e-5
    )
    assert "taking 5 of 13 slices (1.0 mm apart); the 8 of other orientation" in caplog.text


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR 100", "latin-1"),
        ("ISO_IR 144", "iso8859_5"),
        ("", "utf-8"),
    ],
)
def test_a_series_is_named_by_its_decoded_description(tmp_path, charset, encoding):
    name = "Голова" if "144" in charset else "tête Schädel"
    write_series(tmp_path / "s", EVEN)
    tags = {"SpecificCharacterSet": charset or None, "SeriesInstanceUID": "1.9"}
    stored = name.encode(encoding)
    write_series(tmp_path / "t", [0, 5, 10], 50, SeriesDescription="x" * len(stored), **tags)
    for path in (tmp_path / "t").iterdir():
        path.write_bytes(path.read_bytes().replace(b"x" * len(stored), stored))
    for text in (name, name.upper(), name[:4]):
        assert levels(read_volume(tmp_path, series=text)) == pytest.approx([0, 5, 10])


def test_files_are_read_once_by_whichever_links_and_names(tmp_path, caplog):
    store = write_series(tmp_path / "store", EVEN)
    subject = tmp_path / "sub-01"
    subject.mkdir()
    (subject / "dicom").symlink_to(store)
    (subject / "again").symlink_to(store)
    (subject / "up").symlink_to(tmp_path)
    write_series(tmp_path / "other", range(20), start=90, SeriesInstanceUID="1.9")
    for k, path in enumerate(sorted(store.iterdir())):
        (subject / f"link{k}").symlink_to(path)
    assert levels(read_volume(subject)) == pytest.approx(EVEN)
    disc = tmp_path / "disc" / "DICOM" / "PAT00000" / os.fsdecode(b"SER\xfc")
    disc.mkdir(parents=True)
    for path in store.iterdir():
        path.rename(disc / os.fsdecode(b"K\xf6pf" + path.name.encode()))
    assert levels(read_volume(tmp_path / "disc")) == pytest.approx(EVEN)
    assert caplog.text == ""


def test_slices_of_two_patients_in_one_series_are_not_mixed(tmp_path):
    write_series(tmp_path / "s", EVEN[::2], PatientID="17")
    write_series(tmp_path / "t", EVEN[1::2], 50, PatientID="18")
    with pytest.raises(VolumeError, match="PatientID '18' and '17'"):
        read_volume(tmp_path)


def test_originals_are_taken_before_what_was_made_of_them_in_one_series(tmp_path, caplog):
    write_series(tmp_path / "s", EVEN, ImageType=["DERIVED", "PRIMARY", "M"])
    for k, height in enumerate(EVEN):
        tags = {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}
        write_slice(tmp_path / f"{k}", height, np.full((6, 5), 7, np.uint16), **tags)
    assert (read_volume(tmp_path).array == 7).all() and "taking ORIGINAL" in caplog.text
    caplog.clear()
    scan = write_series(tmp_path / "u", EVEN, ImageType=["ORIGINAL", "PRIMARY", "M"])
    write_slice(scan / "0", EVEN[0], ImageType=["DERIVED", "SECONDARY", "MIP"])
    assert levels(read_volume(scan)) == pytest.approx(EVEN)
    assert "taking ORIGINAL" in caplog.text and "projections" not in caplog.text


@pytest.mark.parametrize(
    ("ending", "content", "words"),
    [
        ("", b"", "empty or nothing but zeros"),
        ("", bytes(999), "empty or nothing but zeros"),
        ("", b"/annex/objects/MD5E-s1--x\n", "git-annex pointer; fetch"),
        (".7", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer; fetch"),
        (".gz", gzip.compress(b"slice", mtime=0), "compressed by gzip; decompress"),
        ("", "../.git/annex/objects/x", "git-annex link whose content is not here"),
        ("", "elsewhere", "a link to elsewhere, which does not exist"),
        (".txt", "elsewhere", ""),
        ("", b"READ ME", ""),
    ],
)
def test_slices_without_their_content_are_pointed_out(tmp_path, caplog, ending, content, words):
    folder = write_series(tmp_path / "s", EVEN)
    (tmp_path / "t").mkdir()
    for path in (folder / f"00000009{ending}", folder / ".keep", tmp_path / "t" / f"9{ending}"):
        path.symlink_to(content) if isinstance(content, str) else path.write_bytes(content)
    assert levels(read_volume(folder)) == pytest.approx(EVEN)
    assert words in caplog.text and bool(words) == bool(caplog.text)
    assert ("1 files cannot be read and may be lost slices, such as" in caplog.text) == bool(words)
    with pytest.raises(VolumeError, match=f"no DICOM images, but 1 .*{words}|received none"):
        read_volume(tmp_path / "t")


def test_a_patient_id_that_one_slice_lacks_is_no_other_patient(tmp_path):
    folder = write_series(tmp_path / "s", EVEN[1:], PatientID="17")
    write_slice(folder / "0", EVEN[0], PatientID="")
    volume, source = read_with_source(folder)
    assert levels(volume) == pytest.approx(EVEN) and source.patient == "17"


def test_a_fan_of_slices_is_refused(tmp_path):
    for k, angle in enumerate(np.radians(range(0, 180, 30))):
        plane = (np.cos(angle), np.sin(angle), 0, 0, 0, -1)
        write_slice(tmp_path / f"{k}", 0, orientation=plane)
    with pytest.raises(VolumeError, match="6 slices of 6 orientations.*radial"):
        read_volume(tmp_path)


def test_character_sets_that_do_not_exist_are_no_reason_for_warnings(tmp_path, caplog):
    folder = write_series(tmp_path / "s", EVEN, SpecificCharacterSet="nonsense")
    caplog.clear()
    assert levels(read_volume(folder)) == pytest.approx(EVEN) and not caplog.text


def test_projections_and_lone_slices_are_pointed_out(tmp_path, caplog):
    folder = write_series(tmp_path / "s", EVEN, ImageType=["DERIVED", "SECONDARY", "MIP"])
    read_volume(folder)
    assert "ImageType is DERIVED" in caplog.text and "projections" in caplog.text
    read_volume(write_series(tmp_path / "p", EVEN, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]))
    assert "ND: phase or a part of complex numbers, not a scan's" in caplog.text
    (tmp_path / "t").mkdir()
    write_slice(tmp_path / "t" / "a", 0)
    assert read_volume(tmp_path / "t").array.shape == (5, 6, 1)
    assert "one slice; give" in caplog.text


def test_a_presentation_of_frames_alone_is_refused_by_name(tmp_path):
    def change(dataset):
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
        dataset.Modality = "SEG"

    for path in (write_multiframe(tmp_path / "a", EVEN, change=change), tmp_path):
        with pytest.raises(VolumeError, match="Segmentation Storage.*not a scan"):
            read_volume(path)
