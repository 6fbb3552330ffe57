# SPDX-License-Identifier: MIT
"""Affines of every kind: what is a rotation, what a tilt, and what no scanner makes."""

import numpy as np
import pytest
from volumes.samples import DIRECTIONS, rotation

from segsrgan.errors import VolumeError
from segsrgan.volumes.affine import problem, volume_of

SHAPE, SPACING = (30, 34, 12), np.array([1.0, 1.2, 4.0])
POINT = np.array([14.2, 17.1, 5.4])  # of the blob, in voxels


def affine(direction=None, shear=0, spacing=SPACING):
    """Of axes whose last one is tilted, or that are multiplied by a matrix."""
    direction = np.eye(3) if direction is None else direction
    tilt = np.eye(3) if np.ndim(shear) == 2 else np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1]])
    matrix = direction @ tilt @ (shear if np.ndim(shear) == 2 else np.eye(3)) * spacing
    return np.column_stack([matrix, (5, -7, 9)])


def blob(matrix):
    """A smooth blob in patient space, sampled by an affine, and its point in mm."""
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ matrix[:, :3].T + matrix[:, 3]
    point = matrix[:, :3] @ POINT + matrix[:, 3]
    squares = ((points - point) ** 2).sum(axis=-1)
    return np.exp(-squares / (2 * 5.0**2)).astype(np.float32), point


def centre(volume):
    weights = volume.array.astype(float)
    index = [(weights * k).sum() / weights.sum() for k in np.indices(weights.shape)]
    return volume.grid.index_to_physical(index)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("angle", [-17, 3, 25])
def test_a_tilt_is_undone_in_place_whatever_the_orientation(direction, order, angle, caplog):
    matrix = affine(direction, np.tan(np.deg2rad(angle)))
    array, point = blob(matrix)
    matrix[:, :3] = matrix[:, order]
    found = volume_of(array.transpose(order), matrix, "a.nii")
    np.testing.assert_allclose(centre(found), point, atol=0.1)
    np.testing.assert_allclose(found.spacing, SPACING[list(order)], atol=1e-6)
    assert found.array.sum() == pytest.approx(array.sum(), rel=1e-3)  # nothing left the picture
    shifted = np.tan(np.deg2rad(abs(angle))) * 4 * 11
    assert (
        f"a.nii: sheared (a tilted gantry), its slices are shifted by up to {shifted:.1f} mm"
        in (caplog.text)
    )
    assert np.linalg.det(found.direction) == pytest.approx(np.linalg.det(direction))


def test_labels_are_moved_as_they_are():
    matrix = affine(shear=0.3)
    array = np.random.default_rng(0).integers(1, 3, SHAPE) * 300000001
    found = volume_of(array, matrix, "a.nii", labels=True).array
    assert found.dtype == array.dtype and set(np.unique(found)) == {0, *np.unique(array)}
    assert (found == 0).sum() == found.size - array.size  # outside the field of view is no object


@pytest.mark.parametrize("lowest", [-3, 7])
def test_room_beside_the_slices_of_an_image_is_its_minimum(lowest, caplog):
    array = np.full(SHAPE, lowest, np.float32)
    array[2:-2, 2:-2, 2:-2] = 50
    array[9, 9, 6] = np.nan  # is no reason to take the room for NaN
    found = volume_of(array, affine(shear=0.3), "a.nii").array
    assert found[:, [0, -1]].max() == lowest and 1 <= np.isnan(found).sum() <= 4
    assert "NaN" not in caplog.text
    array[:, :3], array[0, 3] = np.nan, np.nan  # at the border it is background
    assert np.isnan(volume_of(array, affine(shear=0.3), "a.nii").array).sum() <= 4
    assert "from the border on" in caplog.text


@pytest.mark.parametrize(
    ("spacing", "pair", "across"),
    [
        ((1, 1, 3), (0, 2), 2),
        ((3, 1, 1), (0, 1), 0),
        ((1, 1, 0.6), (1, 2), 2),  # square pixels larger than the distance of the slices
        ((1, 1, 1), (1, 2), 2),
        ((1, 1, 1), (0, 1), 1),
        ((1, 1, 3), (0, 1), None),  # within the slices
        ((1, 1, 1.2), (0, 1), None),
        ((1, 3, 1), (0, 2), None),
    ],
)
@pytest.mark.parametrize("shear", [0.1, 0.3])
def test_slices_lie_across_the_thick_axis_or_have_square_pixels(spacing, pair, across, shear):
    tilt = np.eye(3)
    first, second = pair if across in (None, pair[1]) else pair[::-1]
    tilt[first, second] = shear
    matrix = affine(shear=tilt, spacing=np.array(spacing))
    if across is None:
        with pytest.raises(VolumeError, match="its axes meet at"):
            volume_of(np.zeros(SHAPE), matrix, "a.nii")
        return
    found = volume_of(np.zeros(SHAPE), matrix, "a.nii")
    np.testing.assert_allclose(found.spacing, spacing)
    assert found.array.shape[across] == SHAPE[across]


def test_a_format_that_knows_its_slices_is_believed():
    matrix = affine(shear=0.3, spacing=np.array([0.8, 1.0, 0.5]))
    found = volume_of(np.zeros(SHAPE), matrix, "a.dcm", across=2)
    np.testing.assert_allclose(found.spacing, (0.8, 1.0, 0.5))
    np.testing.assert_allclose(found.direction, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("angle", [0.2, 1.0])
def test_what_rounding_leaves_beside_a_tilt_is_turned_about_the_middle(angle, caplog):
    residual = np.eye(3)
    residual[0, 1], residual[1, 2], residual[0, 2] = np.tan(np.radians(angle)), 0.3, 0.01
    matrix = affine(rotation(), residual)
    array, point = blob(matrix)
    np.testing.assert_allclose(centre(volume_of(array, matrix, "a.nii")), point, atol=0.1)
    assert f"at right angles only but for {angle / 2:.2f} degrees" in caplog.text
    assert "sheared (a tilted gantry)" in caplog.text


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_right_angles_stay_as_they_are(direction, caplog):
    array, _ = blob(affine(direction))
    found = volume_of(array, affine(direction), "a.nii")
    assert found.array is array and caplog.text == ""
    np.testing.assert_allclose(found.direction, direction, atol=1e-9)
    np.testing.assert_allclose(found.origin, (5, -7, 9), atol=1e-9)


def test_rounded_cosines_become_the_nearest_rotation_about_the_middle(caplog):
    exact = affine(rotation())
    array, point = blob(exact)
    rounded = np.column_stack([np.round(exact[:, :3] / SPACING, 2) * SPACING, exact[:, 3]])
    found = volume_of(array, rounded, "a.nrrd")
    assert "a.nrrd: its axes are at right angles only but for 0." in caplog.text
    assert np.degrees(np.arccos((found.direction * rotation()).sum(axis=0))).max() < 1
    np.testing.assert_allclose(centre(found), point, atol=0.5)


def test_an_image_larger_than_any_patient_is_refused():
    matrix = np.eye(3, 4) * 90
    assert problem(matrix, (50, 2, 2)) == ""
    assert "voxels of 90 x 90 x 90 mm, 5400 mm in all; expected" in problem(matrix, (60, 2, 2))


@pytest.mark.parametrize(("shear", "slices"), [(0.015, 12), (0.015, 60), (0.002, 60)])
def test_a_tilt_of_less_than_half_a_voxel_moves_no_slice(shear, slices):
    array = np.zeros((4, 5, slices), np.float32)
    found = volume_of(array, affine(shear=shear), "a.nii")
    assert (found.array is array) == (slices == 12 or shear == 0.002)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (
            affine(shear=np.array([[1, 0.2, 0.3], [0, 1, 0.2], [0, 0, 1]])),
            "a.nii: its axes meet at",
        ),
        (affine(shear=1.0), "do not lie above each other, the last is shifted by 44 mm"),
        (affine(spacing=(1, 0, 1)), "unusable geometry"),
        (affine(spacing=(1000, 1000, 4000)), "voxels of 1000 x 1000 x 4000 mm, 4.8e.04 mm in all;"),
        (affine(spacing=(0.001, 0.001, 0.004)), "expected 0.005 to 100 mm"),
        (affine() + [[0, 0, 0, 1e7]] * 3, r"its origin \[10000000.0"),
        (affine(spacing=(1, np.nan, 1)), "unusable geometry"),
    ],
)
def test_what_no_scanner_makes_is_refused(matrix, message):
    with pytest.raises(VolumeError, match=message):
        volume_of(np.zeros(SHAPE), matrix, "a.nii")
