# SPDX-License-Identifier: MIT
"""Rigid transforms: inverse, composition, files, and the form that the sampler takes."""

import numpy as np
import pytest
import SimpleITK as sitk
from examinations import same

from segsrgan.errors import UserError
from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.volumes import Grid, Volume
from supermask.geometry import Rigid, middle_of, read_transform, rotation, sample, write_transform

TURN = Rigid((0.3, -0.5, 1.2), (4, 5, -6), (10, 20, 30))
OTHER = Rigid((-1.1, 0.2, 0.4), (-3, 0.5, 2), (1, -2, 3))
POINTS = np.random.default_rng(0).normal(0, 50, (20, 3))


def test_zero_parameters_change_nothing():
    np.testing.assert_allclose(Rigid(centre=(3, 4, 5)).apply(POINTS), POINTS, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(Rigid().matrix, np.eye(4))
    assert Rigid().angle() == 0


def test_a_quarter_turn_about_z_about_a_point():
    turn = Rigid((0, 0, np.pi / 2), centre=(1, 0, 0))
    np.testing.assert_allclose(
        turn.apply([(2, 0, 5), (1, 3, 0)]), [(1, 1, 5), (-2, 0, 0)], atol=1e-12
    )


def test_angles_turn_about_y_then_x_then_z():
    x, y, z = (rotation(angles) for angles in ((0.3, 0, 0), (0, -0.5, 0), (0, 0, 1.2)))
    np.testing.assert_allclose(TURN.rotation, z @ x @ y, atol=1e-15)


def test_the_inverse_undoes_on_either_side():
    for both in (TURN @ TURN.inverse(), TURN.inverse() @ TURN):
        assert same(both, Rigid(), 1e-12)
    assert TURN.inverse().centre == TURN.centre


def test_a_composition_is_one_after_the_other():
    np.testing.assert_allclose(
        (TURN @ OTHER).apply(POINTS), TURN.apply(OTHER.apply(POINTS)), atol=1e-10
    )


def test_two_rotations_about_a_point_are_the_rotation_of_their_product_about_it():
    centre = (7, -8, 9)
    first, second = Rigid((0.2, 0.1, -0.7), centre=centre), Rigid((1, -0.4, 0.3), centre=centre)
    product = second @ first
    np.testing.assert_allclose(product.rotation, second.rotation @ first.rotation, atol=1e-12)
    np.testing.assert_allclose(product.translation, 0, atol=1e-12)
    assert product.centre == centre


@pytest.mark.parametrize("angles", [(np.pi / 2, 0.3, 0.4), (-np.pi / 2, 0, 1), (0.1, 3, -3)])
def test_any_matrix_comes_back(angles):
    turn = Rigid(angles, (1, 2, 3), (4, 5, 6))
    assert same(Rigid.from_matrix(turn.matrix, turn.centre), turn, 1e-9)
    elsewhere = Rigid.from_matrix(turn.matrix)  # the centre is a way of writing
    assert same(elsewhere, turn, 1e-10) and elsewhere.translation != turn.translation


def test_a_matrix_that_stretches_or_mirrors_is_refused():
    for matrix in (np.diag([1, 1, 1.1, 1]), np.diag([-1, 1, 1, 1])):
        with pytest.raises(ValueError, match="must turn and shift"):
            Rigid.from_matrix(matrix)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="angles must be three finite"):
        Rigid((0, np.nan, 0))
    with pytest.raises(ValueError, match="translation must be"):
        Rigid(translation=(1, 2))


def test_the_angle_is_that_of_the_whole_turn():
    assert Rigid((0, 0.5, 0)).angle() == pytest.approx(np.rad2deg(0.5))
    assert Rigid((1e-9, 0, 0)).angle() == pytest.approx(np.rad2deg(1e-9))
    assert Rigid((np.pi, 0, 0)).angle() == pytest.approx(180)


def test_itk_leads_points_to_the_same_place():
    itk = TURN.to_itk()
    for point in POINTS[:3]:
        np.testing.assert_allclose(itk.TransformPoint(point.tolist()), TURN.apply(point))
    assert same(Rigid.from_itk(itk), TURN, 1e-9)
    assert Rigid.from_itk(itk).centre == TURN.centre


def test_composed_and_versor_transforms_of_itk_are_understood():
    both = sitk.CompositeTransform([TURN.to_itk(), OTHER.to_itk()])  # the last comes first
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
    stretched = sitk.AffineTransform(3)
    stretched.Scale((2, 1, 1))
    sitk.WriteTransform(stretched, str(tmp_path / "affine.tfm"))
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


def test_the_sampler_composes_in_the_right_order():
    values = np.zeros((1, 13, 13, 13, 1), np.float32)
    values[0, 5:8, 4:6, 6:10] = np.random.default_rng(2).random((3, 2, 4, 1))
    grid = Grid((13, 13, 13), (1.0, 1.0, 1.0))
    # Quarter turns and whole voxels: nothing is interpolated.
    first = Rigid.in_grid((0, 0, np.pi / 2, 1, 0, 0), grid)
    second = Rigid.in_grid((np.pi / 2, 0, 0, 0, -1, 2), grid)

    def moved(array, transform):
        layer = SpatialTransformer3D()
        return np.asarray(layer([array, transform.voxel_matrix(grid)[None]]))

    expected = moved(moved(values, first), second)
    assert expected.sum() == pytest.approx(values.sum(), rel=1e-4)
    np.testing.assert_allclose(moved(values, first @ second), expected, atol=1e-5)
    assert np.abs(moved(values, second @ first) - expected).max() > 0.3
