# SPDX-License-Identifier: MIT
"""DICOM positions: rounded cosines, tilts, stray slices, elements that are missing or disagree."""

import numpy as np
import pydicom
import pytest
from volumes.samples import (
    EVEN,
    item,
    levels,
    rotation,
    write_multiframe,
    write_series,
    write_slice,
)

from segsrgan.errors import VolumeError
from segsrgan.volumes import read_volume


def placed(folder, positions, shifts=(), **tags):
    """Folder with slices of 20 x 20 pixels of 1 mm at positions, moved within their planes, mm."""
    folder.mkdir(exist_ok=True)
    for k, position in enumerate(positions):
        x, y = shifts[k] if len(shifts) else (0, 0)
        pixels = np.random.default_rng(k).integers(0, 99, (20, 20)).astype(np.uint16)
        pixels[0, 0] = 1000 + 10 * position
        tags = {"PixelSpacing": [1, 1], "Rows": 20, "Columns": 20, **tags}
        write_slice(
            folder / f"{k:02d}", position, pixels, **tags, ImagePositionPatient=[x, y, position]
        )
    return folder


@pytest.mark.parametrize("decimals", [2, 3])
@pytest.mark.parametrize("angles", [(0.3, 0.1, 0.35), (0.02, -0.03, 0.01), (-0.5, 0.4, 1.2)])
def test_rounded_cosines_are_the_nearest_rotation_along_the_positions(
    tmp_path, caplog, decimals, angles
):
    true = rotation(angles)
    for k in range(12):
        write_slice(
            tmp_path / f"{k}",
            4 * k,
            orientation=true[:, :2].T.ravel().round(decimals),
            ImagePositionPatient=(true @ [1, 2, 4.0 * k]).round(6).tolist(),
        )
    volume = read_volume(tmp_path)
    assert volume.array.shape == (5, 6, 12) and volume.spacing[2] == pytest.approx(4, abs=1e-4)
    assert volume.direction[:, 2] == pytest.approx(true[:, 2], abs=1e-4)
    turned = np.degrees(np.arccos(np.clip((volume.direction * true).sum(axis=0), -1, 1)))
    assert turned.max() < 1
    corner = volume.grid.index_to_physical((4, 5, 11))
    assert corner == pytest.approx(true @ [1 + 4 * 2.0, 2 + 5 * 1.5, 44], abs=0.1)
    assert "shear" not in caplog.text and "not lie" not in caplog.text
    assert ("degrees" in caplog.text) == (decimals == 2 and max(angles) > 0.1)


@pytest.mark.parametrize(
    ("shifts", "match"),
    [
        ([(0, 180 * (k % 2)) for k in range(12)], "up to 180 mm"),  # two stations
        ([(k**2 / 20, 0) for k in range(12)], "up to 6.05 mm"),  # a curve
        ([(12.0 * k, 0) for k in range(12)], "up to 132 mm"),  # a stair
        ([(1.4 * k * 4, 0) for k in range(3)], "up to 11.2 mm"),  # steep, half out of view
        ([(0, 0), (3, 0)], "up to 3 mm"),  # two slices fit any line
    ],
)
def test_offsets_that_are_no_tilt_are_refused_in_mm(tmp_path, shifts, match):
    folder = placed(tmp_path / "s", 4 * np.arange(len(shifts)), shifts)
    with pytest.raises(VolumeError, match=f"not lie above each other.*{match}"):
        read_volume(folder)


def test_a_gantry_tilted_by_30_degrees_is_made_upright_over_a_small_field(tmp_path, caplog):
    shifts = [(0, 4 * np.tan(np.radians(30)) * k) for k in range(7)]
    volume = read_volume(placed(tmp_path / "s", 4 * np.arange(7), shifts))
    assert "shifted by up to 13.9 mm" in caplog.text and volume.array.shape == (20, 34, 7)
    assert volume.spacing == pytest.approx((1, 1, 4)) and volume.origin == pytest.approx((0, 0, 0))


def test_pixels_larger_than_the_slice_distance_turn_no_tilted_stack(tmp_path):
    shifts = [(0, 0.15 * k) for k in range(40)]
    folder = placed(tmp_path / "s", 0.5 * np.arange(40), shifts, PixelSpacing=[1, 0.8])
    volume = read_volume(folder)
    assert volume.spacing == pytest.approx((0.8, 1, 0.5))
    assert volume.direction == pytest.approx(np.eye(3))


@pytest.mark.parametrize("labels", [False, True])
def test_missing_slices_of_a_tilted_stack_are_interpolated_where_they_lie(tmp_path, labels):
    kept = [0, 1, 2, 3, 6, 7, 8, 9]  # an upright rod, two columns of 20 wide, of one value
    for k in kept:
        pixels = np.zeros((20, 20), np.uint16)
        pixels[:, 12 - k : 14 - k] = 100
        tags = {"PixelSpacing": [1, 1], "Rows": 20, "Columns": 20}
        write_slice(tmp_path / f"{k}", 4 * k, pixels, ImagePositionPatient=[k, 0, 4 * k], **tags)
    rod = read_volume(tmp_path, labels=labels).array[:20, 10]
    assert rod == pytest.approx(100 * np.isin(np.arange(20), [12, 13])[:, None] * np.ones(10))


def test_positions_with_one_decimal_are_no_reason_to_refuse(tmp_path, caplog):
    shifts = [(round(0.137 * k % 0.1 - 0.05, 2), 0) for k in range(9)]
    folder = placed(tmp_path / "s", 4 * np.arange(9), shifts, PixelSpacing=[0.4, 0.4])
    volume = read_volume(folder)
    assert volume.spacing == pytest.approx((0.4, 0.4, 4), abs=1e-3) and caplog.text == ""


def test_one_displaced_slice_is_left_out_by_name(tmp_path, caplog):
    positions = 4 * np.arange(12)
    folder = placed(tmp_path / "s", positions, [(14 * (k == 7), 0) for k in range(12)])
    volume = read_volume(folder)
    assert volume.array.shape == (20, 20, 12) and volume.spacing == (1, 1, 4)
    assert levels(volume) == pytest.approx(positions)
    assert "leaving out 07, which lies 14.0 mm off" in caplog.text and "1 missing" in caplog.text


@pytest.mark.parametrize(("stray", "distance"), [(160, 140), (-90, 90)])
def test_a_slice_far_from_the_others_is_left_out_by_name(tmp_path, caplog, stray, distance):
    volume = read_volume(placed(tmp_path / "s", [0, 4, 8, 12, 16, 20, stray]))
    assert levels(volume) == pytest.approx([0, 4, 8, 12, 16, 20])
    assert (
        volume.origin == (0, 0, 0) and f"leaving out 06, which lies {distance}.0 mm" in caplog.text
    )


@pytest.mark.parametrize(
    ("positions", "spacing", "missing"),
    [
        ([0, 4, 8, 12, 16, 24, 28, 32], 4, 1),
        ([0, 4, 8, 12, 24, 28, 32, 36, 40], 4, 2),
        ([0, 8, 12, 16, 24, 28, 32], 4, 2),
    ],
)
def test_missing_slices_are_told_by_the_spacing_of_the_others(
    tmp_path, caplog, positions, spacing, missing
):
    volume = read_volume(placed(tmp_path / "s", positions))
    assert volume.spacing[2] == spacing and f"({missing} missing)" in caplog.text
    assert levels(volume) == pytest.approx(np.arange(0, positions[-1] + 1, 4), abs=0.01)


def test_slices_farther_apart_than_their_header_says_are_told(tmp_path, caplog):
    read_volume(write_series(tmp_path / "s", EVEN, SpacingBetweenSlices=2))
    assert caplog.text == ""
    read_volume(write_series(tmp_path / "s", EVEN, SpacingBetweenSlices=1.5))
    assert "lie 3.00 mm apart, the header says 1.50 mm" in caplog.text
    caplog.clear()
    read_volume(write_series(tmp_path / "s", EVEN, SpacingBetweenSlices=6))
    assert "header says 6.00 mm (SpacingBetweenSlices); are they of several" in caplog.text


@pytest.mark.parametrize("is_turned", [True, False])
def test_several_stacks_of_frames_are_refused_by_their_names(tmp_path, is_turned):
    def change(dataset):
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            frame.FrameContentSequence = [item(StackID=str(1 + k // 6))]
            if is_turned:
                plane = [0, 1, 0, 0, 0, -1] if k < 6 else [1, 0, 0, 0, 1, 0]
                frame.PlaneOrientationSequence = [item(ImageOrientationPatient=plane)]

    path = write_multiframe(tmp_path / "a", [*EVEN, *np.add(EVEN, 50)], change=change)
    with pytest.raises(VolumeError, match="StackID 1, 2" if is_turned else "in stack id 1, 2:"):
        read_volume(path)


@pytest.mark.parametrize(
    "name", ["PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"]
)
@pytest.mark.parametrize("lacking", [range(6), [2], [0, 1, 5]])
def test_a_slice_without_its_place_is_refused_by_the_element(tmp_path, name, lacking):
    folder = write_series(tmp_path / "s", EVEN)
    for k in lacking:
        dataset = pydicom.dcmread(folder / f"{k:08d}")
        del dataset[name]
        dataset.save_as(folder / f"{k:08d}")
    with pytest.raises(VolumeError, match=f"{name} is missing.*{len(lacking)} of 6 slices"):
        read_volume(folder)
    with pytest.raises(VolumeError, match=f"{lacking[0]}: {name} is missing"):
        read_volume(folder / f"{lacking[0]:08d}")


@pytest.mark.parametrize("position", [2, None])
@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("PixelMeasuresSequence", "PixelSpacing"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PlanePositionSequence", "ImagePositionPatient"),
    ],
)
def test_a_frame_without_its_place_is_refused_by_the_element(tmp_path, group, name, position):
    def change(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        frames = dataset.PerFrameFunctionalGroupsSequence
        if group in shared:
            for frame in frames:
                setattr(
                    frame, group, [item(**{e.keyword: e.value for e in shared[group].value[0]})]
                )
            delattr(shared, group)
        for frame in frames[position : position + 1] if isinstance(position, int) else frames:
            del frame[group].value[0][name]

    with pytest.raises(VolumeError, match=f"of 6 frames.*{name} is missing"):
        read_volume(write_multiframe(tmp_path / "a", EVEN, change=change))


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("PixelSpacing", [1.5, 2.5], "PixelSpacing is not that of the other"),
        ("Rows", 5, "Rows or Columns is not that"),
        ("Rows", 0, "Rows is 0"),
        ("Rows", None, "Rows is missing"),
        ("Columns", None, "Columns is missing"),
    ],
)
def test_a_slice_that_disagrees_is_refused_by_the_element(tmp_path, name, value, match):
    folder = write_series(tmp_path / "s", EVEN)
    dataset = pydicom.dcmread(folder / "00000002")
    setattr(dataset, name, value)
    dataset.save_as(folder / "00000002")
    with pytest.raises(VolumeError, match=match):
        read_volume(folder)


def test_a_series_of_two_pixel_spacings_is_not_cut_in_half(tmp_path):
    write_series(tmp_path / "s", EVEN[:3], PixelSpacing=[1.515, 2])
    write_series(tmp_path / "s", EVEN[3:], start=50)
    with pytest.raises(
        VolumeError, match=r"PixelSpacing is .*, 1.5\\2 instead of 1.515\\2 .3 of 6"
    ):
        read_volume(tmp_path)


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (6, 4), (3, 10), (60, 50)])
def test_pixels_that_rows_and_columns_do_not_explain_are_refused(tmp_path, rows, columns):
    path = write_slice(tmp_path / "a", 5, Rows=rows, Columns=columns)
    if rows * columns == 30:  # as many; nothing tells
        assert read_volume(path).array.shape == (columns, rows, 1)
        return
    with pytest.raises(VolumeError, match="Rows, Columns|truncated"):
        read_volume(path)
