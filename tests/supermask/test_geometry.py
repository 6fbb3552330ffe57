# SPDX-License-Identifier: MIT
"""Rigid transforms, where the voxels of a view come from, and how far they are from its slices."""

import numpy as np
import pytest
import SimpleITK as sitk
from examinations import points_of, reordered, same

from segsrgan.errors import UserError
from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.volumes import Grid, Volume
from supermask.geometry import (
    ORIENTATIONS,
    Rigid,
    canonical_direction,
    corners,
    isotropic_grid,
    middle_of,
    overlaps,
    read_transform,
    rotation,
    sample,
    sampling,
    voxels_of,
    write_transform,
)

TURN = Rigid((0.3, -0.5, 1.2), (4, 5, -6), (10, 20, 30))
OTHER = Rigid((-1.1, 0.2, 0.4), (-3, 0.5, 2), (1, -2, 3))
POINTS = np.random.default_rng(0).normal(0, 50, (20, 3))


def test_zero_parameters_change_nothing_and_a_quarter_turn_is_about_a_point():
    np.testing.assert_allclose(Rigid(centre=(3, 4, 5)).apply(POINTS), POINTS, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(Rigid().matrix, np.eye(4))
    turn = Rigid((0, 0, np.pi / 2), centre=(1, 0, 0))
    np.testing.assert_allclose(
        turn.apply([(2, 0, 5), (1, 3, 0)]), [(1, 1, 5), (-2, 0, 0)], atol=1e-12
    )


def test_angles_turn_about_y_then_x_then_z():
    x, y, z = (rotation(angles) for angles in ((0.3, 0, 0), (0, -0.5, 0), (0, 0, 1.2)))
    np.testing.assert_allclose(TURN.rotation, z @ x @ y, atol=1e-15)


def test_a_composition_is_one_after_the_other_and_the_inverse_undoes_on_either_side():
    both = TURN @ OTHER
    np.testing.assert_allclose(both.apply(POINTS), TURN.apply(OTHER.apply(POINTS)), atol=1e-10)
    assert both.centre == OTHER.centre and TURN.inverse().centre == TURN.centre
    for none in (TURN @ TURN.inverse(), TURN.inverse() @ TURN):
        assert same(none, Rigid(), 1e-12)


@pytest.mark.parametrize("angles", [(np.pi / 2, 0.3, 0.4), (-np.pi / 2, 0, 1), (0.1, 3, -3)])
def test_any_matrix_comes_back(angles):
    turn = Rigid(angles, (1, 2, 3), (4, 5, 6))
    assert same(Rigid.from_matrix(turn.matrix, turn.centre), turn, 1e-9)
    elsewhere = Rigid.from_matrix(turn.matrix)  # the centre is a way of writing
    assert same(elsewhere, turn, 1e-10) and elsewhere.translation != turn.translation


def test_what_is_not_rigid_is_refused():
    for matrix in (np.diag([1, 1, 1.1, 1]), np.diag([-1, 1, 1, 1])):
        with pytest.raises(ValueError, match="must turn and shift"):
            Rigid.from_matrix(matrix)
    with pytest.raises(ValueError, match="angles must be three finite"):
        Rigid((0, np.nan, 0))
    with pytest.raises(ValueError, match="translation must be"):
        Rigid(translation=(1, 2))


def test_the_angle_is_that_of_the_whole_turn():
    for angle in (0, 1e-9, 0.5, np.pi):
        assert Rigid((0, angle, 0)).angle() == pytest.approx(np.rad2deg(angle))


def test_itk_leads_points_to_the_same_place():
    itk = TURN.to_itk()
    for point in POINTS[:3]:
        np.testing.assert_allclose(itk.TransformPoint(point.tolist()), TURN.apply(point))
    assert same(Rigid.from_itk(itk), TURN, 1e-9) and Rigid.from_itk(itk).centre == TURN.centre
    both = sitk.CompositeTransform([itk, OTHER.to_itk()])  # the last comes first
    assert same(Rigid.from_itk(both), TURN @ OTHER, 1e-9)
    versor = sitk.VersorRigid3DTransform()
    versor.SetCenter(TURN.centre)
    versor.SetMatrix(TURN.rotation.ravel().tolist())
    versor.SetTranslation(TURN.translation)
    assert same(Rigid.from_itk(versor), TURN, 1e-9)


def test_a_file_holds_every_digit(tmp_path):
    write_transform(TURN, tmp_path / "a.tfm")
    read = sitk.ReadTransform(str(tmp_path / "a.tfm"))
    assert read.GetName() == "Euler3DTransform"
    assert read.GetParameters() == (*TURN.angles, *TURN.translation)
    assert same(read_transform(tmp_path / "a.tfm"), TURN, 1e-12)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tfm"]


def test_files_that_are_no_rigid_transforms_are_refused(tmp_path):
    (tmp_path / "bad.tfm").write_text("no transform")
    sitk.WriteTransform(sitk.ScaleTransform(3, (2, 1, 1)), str(tmp_path / "affine.tfm"))
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    for name in ("bad", "affine", "flat", "missing"):
        with pytest.raises(UserError, match=f"{name}.tfm: expected a rigid 3-D"):
            read_transform(tmp_path / f"{name}.tfm")


GRID = Grid((9, 8, 7), (2.0, 2.0, 2.0), (-5, 3, 11), rotation((0.2, -0.3, 0.5)))


def test_parameters_are_along_the_axes_of_a_grid_about_its_middle():
    assert same(Rigid.in_grid(np.zeros(6), GRID), Rigid(), 1e-12)
    shift = Rigid.in_grid((0, 0, 0, 5, 0, 0), GRID)
    np.testing.assert_allclose(shift.translation, 5 * GRID.direction[:, 0], atol=1e-12)
    turn = Rigid.in_grid((0, 0.3, 0, 0, 0, 0), GRID)
    np.testing.assert_allclose(turn.rotation @ GRID.direction[:, 1], GRID.direction[:, 1])
    np.testing.assert_allclose(turn.centre, middle_of(GRID))
    np.testing.assert_allclose(turn.translation, 0, atol=1e-12)


def test_the_sampler_moves_as_the_transform_does():
    values = np.random.default_rng(1).random(GRID.shape, dtype=np.float32)
    small = Rigid.in_grid((0.2, -0.1, 0.3, 1.5, -2, 1), GRID)
    batch = values[None, ..., None]
    moved = SpatialTransformer3D()([batch, small.voxel_matrix(GRID)[None]])
    expected = sample(Volume.from_grid(values, GRID), GRID, small)
    middle = (slice(2, -2),) * 3  # at the rim, one repeats the edge and the other fades to 0
    np.testing.assert_allclose(np.asarray(moved)[0, ..., 0][middle], expected[middle], atol=1e-5)
    still = SpatialTransformer3D()([batch, Rigid().voxel_matrix(GRID)[None]])
    np.testing.assert_allclose(np.asarray(still), batch, atol=1e-6)


OBLIQUE = rotation((0.3, -0.2, 0.4))


def ramp(grid):
    """A volume whose values are a linear function of the place in patient space."""
    return Volume.from_grid((points_of(grid) @ (1.0, -2.0, 0.5)).astype(np.float32), grid)


def test_however_voxels_are_stored_the_axes_of_the_grid_are_the_same():
    for order, signs in ORIENTATIONS:
        np.testing.assert_allclose(canonical_direction(OBLIQUE[:, order] * signs), OBLIQUE)


def test_a_grid_has_its_points_in_the_middle():
    points = middle_of(Grid((3, 3, 3))) + 10 * np.random.default_rng(0).random((50, 3))
    grid = isotropic_grid(points, OBLIQUE, 1.5, margin=4)
    along = points @ OBLIQUE
    np.testing.assert_allclose(
        middle_of(grid) @ OBLIQUE, (along.min(axis=0) + along.max(axis=0)) / 2
    )
    room = np.ptp(along, axis=0) + 8
    assert np.all(np.array(grid.shape) * 1.5 >= room - 1e-2)
    assert isotropic_grid(points, OBLIQUE, 1.5, 20).shape == (20, 20, 20)


def test_a_linear_function_is_sampled_exactly_from_any_orientation():
    source = ramp(Grid((12, 11, 6), (1, 1, 3), (-4, -5, -6), OBLIQUE[:, [2, 0, 1]] * (1, -1, 1)))
    turn = Rigid((0.1, 0.2, -0.3), (1, 0.5, -1), (3, 4, 5))
    middle = turn.inverse().apply(middle_of(source.grid))
    grid = Grid((3, 4, 5), (0.7,) * 3, tuple(middle - 1), rotation((0.5, 0.1, 0)))
    points = turn.apply(points_of(grid))
    expected = points @ (1.0, -2.0, 0.5)
    np.testing.assert_allclose(sample(source, grid, turn), expected, atol=1e-4)
    np.testing.assert_allclose(sample(source, grid, turn, order=3), expected, atol=0.1)


def test_nearest_slices_are_repeated_and_the_plane_is_interpolated():
    source = Volume(np.array([[[0, 10.0]], [[4, 14]]], np.float32), (1, 1, 4))
    grid = Grid((3, 1, 6), (0.5, 0.5, 1), (0, 0, -1))
    found = sample(source, grid, through="nearest")[:, 0]
    np.testing.assert_allclose(found[:, 0], [0, 2, 4])
    np.testing.assert_allclose(found[0], [0, 0, 0, 10, 10, 10])  # -1, 0, 1, 2 (a tie), 3, 4 mm
    linear = sample(source, grid)[0, 0]
    np.testing.assert_allclose(linear, [0, 0, 2.5, 5, 7.5, 10])
    # Every other voxel is a tie: every slice has as many.
    source = Volume(np.arange(4, dtype=np.float32).reshape(1, 1, 4), (1, 1, 2))
    found = sample(source, Grid((1, 1, 7), (1, 1, 1)), through="nearest")[0, 0]
    np.testing.assert_allclose(found, [0, 1, 1, 2, 2, 3, 3])
    with pytest.raises(ValueError, match="received 'cubic'"):
        sample(source, grid, through="cubic")


def test_outside_the_field_of_view_all_is_zero_and_its_rim_is_the_outermost_voxel():
    source = Volume(np.full((2, 2, 2), 7, np.float32), (2, 2, 2))
    grid = Grid((6, 1, 1), (1, 1, 1), (-2, 0, 0))
    np.testing.assert_allclose(sample(source, grid)[:, 0, 0], [0, 7, 7, 7, 7, 7])
    assert not sampling(source.grid, grid).inside[0, 0, 0]


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, OBLIQUE[:, [1, 2, 0]] * (-1, 1, 1)])
def test_distances_are_those_along_the_slice_normal_whatever_the_intensities(direction):
    source = Grid((20, 20, 5), (1, 1, 4), (3, -2, 5), direction)
    turn = Rigid((0.2, -0.3, 0.1), (1, 2, -1), tuple(middle_of(source)))
    grid = isotropic_grid(corners(source), np.eye(3), 1.3)
    found = sampling(source, grid, turn)
    points = turn.apply(points_of(grid))
    height = (points - source.origin) @ direction[:, 2]
    expected = np.abs(height[..., None] - 4.0 * np.arange(5)).min(axis=-1)
    np.testing.assert_allclose(found.distance[found.inside], expected[found.inside], atol=1e-4)
    found = sampling(grid, grid)  # an isotropic view has no slices
    assert found.inside.all() and not found.distance.any()


def test_fields_of_view_meet_or_not():
    grid, near, far = (Grid((10, 10, 10), origin=(x, 0, 0)) for x in (0, 9.9, 10.1))
    assert overlaps(grid, near) and not overlaps(grid, far)
    # Their boxes along the patient's axes meet, they do not.
    turn = rotation((0, 0, np.pi / 4))
    edge = Grid((10, 10, 10), origin=(13.5, 13.5 - 4.5 * np.sqrt(2), 0), direction=turn)
    assert not overlaps(grid, edge) and overlaps(edge, edge)


def test_voxels_of_a_mask_are_thinned_but_keep_its_ends():
    mask = np.zeros((30, 30, 30), np.float32)
    mask[3:27, 5:20, 8:11] = 1
    volume = Volume(mask, (1, 1, 2))
    every, some = voxels_of(volume, most=10**6), voxels_of(volume, most=100)
    assert len(every) == 24 * 15 * 3 and len(some) < 250
    np.testing.assert_allclose(some.min(axis=0), every.min(axis=0))
    np.testing.assert_allclose(some.max(axis=0), every.max(axis=0))
    np.testing.assert_allclose(some.mean(axis=0), every.mean(axis=0), atol=1)
    mask[:] = 0
    mask[1, 2, 0] = 0.5  # belongs to the object
    np.testing.assert_allclose(voxels_of(volume), [(1, 2, 0)])


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[1::6])
def test_the_same_voxels_of_a_mask_are_taken_however_it_is_stored(order, signs):
    mask = np.zeros((12, 10, 8), np.float32)
    mask[2:11, 1:7, 3:8] = np.random.default_rng(0).random((9, 6, 5)) > 0.3
    volume = Volume(mask, (1, 2, 3), (5, 6, 7), rotation((0.1, -0.2, 0.3)))
    found = voxels_of(reordered(volume, order, np.array(signs) < 0), most=40)
    np.testing.assert_allclose(found, voxels_of(volume, most=40), atol=1e-9)
