# SPDX-License-Identifier: MIT
"""Results as DICOM: where they lie by four readers, what they say of the scan, what is refused."""

import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from volumes.samples import DIRECTIONS, EVEN, noise, write_multiframe, write_series, write_slice

from segsrgan.errors import UserError, VolumeError
from segsrgan.volumes import Volume, read_volume, write_volume
from segsrgan.volumes.dicom_writing import check_dicom_source, write_dicom
from segsrgan.volumes.reading import read_with_source

highdicom = pytest.importorskip("highdicom")

SCAN = {
    "StudyInstanceUID": "1.2.3",
    "FrameOfReferenceUID": "1.2.8",
    "PatientID": "17",
    "PatientName": "Doe^Jane",
    "PatientSex": "F",
    "StudyDate": "20260102",
    "EchoTime": 80,
    "Manufacturer": "Scanners",
    "SoftwareVersions": "B17",
}
FACES = {"axial": (1, 0, 0, 0, 1, 0), "sagittal": (0, 1, 0, 0, 0, -1)}


def results(grid, scale=3000):
    """Volumes of noise, and of masks that no mirror maps onto themselves, on a grid."""
    image = (noise(grid.shape) - np.float32(0.1)) * np.float32(scale)
    mask = (noise(grid.shape, 1) > 0.6).astype(np.uint8)
    mask[..., 0] = 0
    arrays = {"sr": image, "cortex_mask": mask, "brain_mask": 1 - mask, "cortex": image}
    return {name: Volume.from_grid(array, grid) for name, array in arrays.items()}


def written(path, folder, series=None, volumes=None):
    """The results of a scan, and the files of them: the image's in order, then the masks'."""
    volume, source = read_with_source(path, series)
    volumes = volumes or results(volume.grid.corner_aligned((1, 1, 1)))
    folder.mkdir()
    write_dicom(volumes, source.images, folder)
    headers = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    return volumes, sorted(headers, key=lambda header: header.Modality)


def assert_alike(found, volume, step):
    """Each voxel of one volume lies on a voxel of another, of the same value, in mm and steps."""
    assert sorted(found.array.shape) == sorted(volume.array.shape)
    points = found.grid.index_to_physical(np.indices(found.array.shape).reshape(3, -1).T)
    index = volume.grid.physical_to_index(points)
    nearest = index.round().astype(int)
    assert np.abs((index - nearest) * volume.spacing).max() < 0.01
    assert (nearest >= 0).all() and (nearest < volume.array.shape).all()
    expected = volume.array[tuple(nearest.T)].astype(float)
    assert np.abs(found.array.ravel() - expected).max() <= step


def by_itk(folder):
    """The volume of the MR series of a folder, by SimpleITK."""
    reader = sitk.ImageSeriesReader()
    kinds = {}
    for uid in reader.GetGDCMSeriesIDs(str(folder)):
        names = reader.GetGDCMSeriesFileNames(str(folder), uid)
        kinds[pydicom.dcmread(names[0]).Modality] = names
    reader.SetFileNames(kinds["MR"])
    image = reader.Execute()
    direction = np.reshape(image.GetDirection(), (3, 3))
    array = sitk.GetArrayFromImage(image).T
    return Volume(array, image.GetSpacing(), image.GetOrigin(), direction)


def by_dcm2niix(folder, output):
    """The volume of the MR series of a folder, by dcm2niix."""
    try:
        from dcm2niix import bin as program
    except ImportError:
        program = shutil.which("dcm2niix")
    if not program:
        pytest.skip("no dcm2niix; pip install dcm2niix")
    output.mkdir()
    for file in folder.glob("sr_*"):
        shutil.copy(file, output)
    command = [program, "-z", "n", "-b", "n", "-f", "image", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return read_volume(output / "image.nii")


@pytest.mark.parametrize("name", DIRECTIONS)
def test_image_and_masks_lie_where_the_results_do(tmp_path, name):
    orientation = DIRECTIONS[name][:, :2].T.ravel()
    source = write_series(tmp_path / "s", EVEN, orientation=orientation, **SCAN)
    grid = read_volume(source).grid.corner_aligned((0.75, 1, 1.5))
    # Also left-handed, as no scan is read.
    grid = Volume(np.zeros(grid.shape), grid.spacing, grid.origin, DIRECTIONS[name]).grid
    volumes, headers = written(source, tmp_path / "out", volumes=results(grid))
    image, folder = volumes["sr"], tmp_path / "out"
    step = np.ptp(image.array) / 65535
    assert_alike(read_volume(folder), image, step)
    assert_alike(by_itk(folder), image, step)
    assert_alike(by_dcm2niix(folder, tmp_path / "nii"), image, step)
    *slices, brain, cortex = headers
    normal = np.cross(*np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float))
    heights = [np.array(header.ImagePositionPatient, float) @ normal for header in slices]
    assert np.diff(heights) == pytest.approx([1.5] * (len(slices) - 1))
    for header, name in ((brain, "brain_mask"), (cortex, "cortex_mask")):
        assert_alike(of_frames(header), volumes[name], 0)
        mask = highdicom.seg.Segmentation.from_dataset(header).get_volume(combine_segments=True)
        points = [mask.affine @ [*index, 1] for index in np.argwhere(mask.array)[::50]]
        index = volumes[name].grid.physical_to_index(np.array(points)[:, :3]).round().astype(int)
        assert volumes[name].array[tuple(index.T)].all()


def of_frames(header):
    """The volume (column, row, frame) of a segmentation, by its functional groups."""
    shared = header.SharedFunctionalGroupsSequence[0]
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3))
    rows, columns = shared.PixelMeasuresSequence[0].PixelSpacing
    frames = header.PerFrameFunctionalGroupsSequence
    places = [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames]
    across = np.subtract(places[1], places[0])
    direction = np.column_stack([*cosines, across / np.linalg.norm(across)]).astype(float)
    spacing = columns, rows, np.linalg.norm(across)
    return Volume(header.pixel_array.transpose(2, 1, 0), spacing, places[0], direction)


@pytest.mark.parametrize("face", FACES)
def test_results_belong_to_the_study_and_name_the_scan(tmp_path, face):
    source = write_series(tmp_path / "s", EVEN, orientation=FACES[face], **SCAN)
    instances = {pydicom.dcmread(file).SOPInstanceUID for file in source.iterdir()}
    volumes, headers = written(source, tmp_path / "out")
    *slices, brain, cortex = headers
    assert len(slices) == volumes["sr"].array.shape[2] == 18
    for header in headers:
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientSex"):
            assert header[name].value == SCAN[name]
        assert header.PatientName == "Doe^Jane" and header.StudyDate == "20260102"
        named = {item.ReferencedSOPInstanceUID for item in header.SourceImageSequence}
        series = {item.SeriesInstanceUID: item for item in header.ReferencedSeriesSequence}
        assert instances <= named and len(series["1.2.3.4"].ReferencedInstanceSequence) == 6
        scanner = header.ContributingEquipmentSequence[0]
        assert (scanner.Manufacturer, scanner.SoftwareVersions) == ("Scanners", "B17")
        assert header.Manufacturer == "SegSRGAN" and "DERIVED" in header.ImageType
    assert slices[0].ImageType[:2] == ["DERIVED", "SECONDARY"] and slices[0].EchoTime == 80
    assert slices[0].DerivationCodeSequence[0].CodeMeaning == "Spatial resampling"
    assert "1 x 1 x 1 mm" in slices[0].DerivationDescription
    for header, code in ((brain, "12738006"), (cortex, "40146001")):  # SNOMED CT
        kind = header.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (code, "SCT")
    assert slices[0].SeriesInstanceUID in {
        item.SeriesInstanceUID for item in cortex.ReferencedSeriesSequence
    }
    descriptions = [header.SeriesDescription for header in (slices[0], brain, cortex)]
    names = ["axial SegSRGAN", "axial SegSRGAN brain", "axial SegSRGAN cerebral cortex"]
    assert descriptions == names
    assert [header.SeriesNumber for header in (slices[0], cortex, brain)] == [401, 402, 403]


def test_identifiers_are_new_each_time_and_the_scan_is_still_the_scan(tmp_path):
    source = write_series(tmp_path / "s", EVEN, **SCAN)
    grid, found = read_volume(source).grid, []
    for name in ("a", "b"):
        _, headers = written(source, tmp_path / name)
        found += [header.SOPInstanceUID for header in headers]
        found += {header.SeriesInstanceUID for header in headers}
    assert len(found) == len(set(found)) == 2 * (18 + 2 + 3)
    assert read_volume(tmp_path, series="1.2.3.4").grid.is_close(grid)
    assert read_volume(tmp_path).grid.is_close(grid)


@pytest.mark.parametrize("echoes", [[80] * 6, [80, 9] * 3])
def test_frames_of_an_enhanced_image_are_named_by_number(tmp_path, echoes):
    positions = EVEN if len(set(echoes)) == 1 else np.repeat(EVEN[:3], 2)

    def change(dataset):
        dataset.FrameOfReferenceUID = "1.2.8"

    path = write_multiframe(tmp_path / "a", positions, echoes=echoes, change=change)
    volumes, headers = written(path, tmp_path / "out")
    assert_alike(read_volume(tmp_path / "out"), volumes["sr"], np.ptp(volumes["sr"].array) / 65535)
    for header in headers:
        item = header.ReferencedSeriesSequence[-1].ReferencedInstanceSequence[0]
        assert item.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
        assert item.get("ReferencedFrameNumber") == ([2, 4, 6] if 9 in echoes else None)
        assert header.FrameOfReferenceUID == "1.2.8"
    assert headers[0].EchoTime == min(echoes) and headers[0].ScanningSequence == "RM"


def test_a_tilted_stack_of_two_series_is_followed(tmp_path):
    for k in range(8):
        tags = SCAN | {"SeriesInstanceUID": f"1.9.{k % 2}", "Columns": 20}
        pixels = np.full((6, 20), k, np.uint16)
        place = [3 + 2 * k, 4, 3 * k]
        write_slice(tmp_path / f"{k}", 3 * k, pixels, ImagePositionPatient=place, **tags)
    volumes, headers = written(tmp_path, tmp_path / "out", series="1.9.0,1.9.1")
    assert_alike(read_volume(tmp_path / "out"), volumes["sr"], np.ptp(volumes["sr"].array) / 65535)
    found = [item.SeriesInstanceUID for item in headers[0].ReferencedSeriesSequence]
    assert sorted(found) == ["1.9.0", "1.9.1"]


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_survive_in_any_character_set(tmp_path, charset, name):
    tags = SCAN | {"SpecificCharacterSet": charset, "PatientName": name}
    _, headers = written(write_series(tmp_path / "s", EVEN, **tags), tmp_path / "out")
    assert {str(header.PatientName) for header in headers} == {name}
    assert {header.SpecificCharacterSet for header in headers} == {"ISO_IR 192"}


def test_what_the_header_lacks_or_breaks_stops_no_result(tmp_path, caplog):
    odd = {"PatientSex": "unknown", "PatientID": "9" * 80, "PatientBirthDate": "1.2.80"}
    tags = SCAN | odd | {"FrameOfReferenceUID": None, "EchoTime": None, "SeriesNumber": None}
    _, headers = written(write_series(tmp_path / "s", EVEN, **tags), tmp_path / "out")
    for header in headers:
        assert {name: header[name].value for name in odd} == odd
    assert len({header.FrameOfReferenceUID for header in headers}) == 1
    assert "FrameOfReferenceUID is missing" in caplog.text


@pytest.mark.parametrize("scale", [0, 1e-3, 1e6])
def test_intensities_are_kept_at_any_scale(tmp_path, scale):
    source = write_series(tmp_path / "s", EVEN, **SCAN)
    volumes = results(read_volume(source).grid, scale)
    written(source, tmp_path / "out", volumes=volumes)
    assert_alike(read_volume(tmp_path / "out"), volumes["sr"], scale / 65535)


def test_what_is_no_mr_is_refused_before_and_after(tmp_path):
    path = tmp_path / "t2.nii.gz"
    write_volume(Volume(noise((4, 4, 4)), (1, 1, 1)), path)
    with pytest.raises(VolumeError, match=r"needs a DICOM series.*received t2\.nii\.gz; give"):
        check_dicom_source(path)
    with pytest.raises(ValueError, match="images must be"):
        write_dicom(results(read_volume(path).grid), read_with_source(path)[1].images, tmp_path)
    with pytest.raises(VolumeError, match="no such file"):
        check_dicom_source(tmp_path / "none")
    folder = write_series(tmp_path / "ct", EVEN, **SCAN | {"Modality": "CT"})
    for use in (check_dicom_source, lambda path: written(path, tmp_path / "out")):
        with pytest.raises(VolumeError, match="of MR as input, received Modality CT"):
            use(folder)
    write_slice(folder / "mr", 3, **SCAN)
    check_dicom_source(folder)
    check_dicom_source(folder / "mr")


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    source = write_series(tmp_path / "s", EVEN, **SCAN)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    for use in (check_dicom_source, lambda path: written(path, tmp_path / "out")):
        with pytest.raises(UserError, match=r"pip install 'SegSRGAN\[dicom\]'"):
            use(source)


@pytest.mark.parametrize("case", ["nan", "grid", "folder"])
def test_what_cannot_be_written_is_refused_by_name(tmp_path, case):
    volume, source = read_with_source(write_series(tmp_path / "s", EVEN, **SCAN))
    volumes, folder = results(volume.grid), tmp_path / ("none" if case == "folder" else "s")
    if case == "nan":
        volumes["sr"].array[1, 2, 3] = np.nan
    if case == "grid":
        volumes["brain_mask"] = Volume(volume.array, volume.spacing)
    match = {"nan": "NaN", "grid": "brain_mask must lie on", "folder": "none: cannot be written"}
    with pytest.raises(ValueError if case == "grid" else VolumeError, match=match[case]):
        write_dicom(volumes, source.images, folder)
    assert not list((tmp_path / "s").glob("*.dcm"))
