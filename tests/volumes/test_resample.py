# SPDX-License-Identifier: MIT
"""Interpolation and degradation: where things lie, and how much of them."""

import itertools

import numpy as np
import pytest
import scipy.stats
from scipy import ndimage
from volumes.samples import BLOB, DIRECTIONS, blob_volume, centroid, noise

from segsrgan.config import INTERPOLATION_TYPES
from segsrgan.volumes import Grid, Volume, degrade, legacy_resample, psnr, resample, resample_to
from segsrgan.volumes.resampling import average_onto

SMOOTH = ("Linear", "Spline", "Hamming", "Cosine", "Welch", "Lanczos", "Blackman", "Gaussian")
THICK = [(3.3, 1.0, 0.9), (1.0, 3.3, 0.9), (0.9, 1.0, 3.3)]
LANDMARK = 0.01  # mm
OBLIQUE = DIRECTIONS["oblique"]


def distance(volume):
    return np.linalg.norm(centroid(volume) - BLOB)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("spacing", THICK)
def test_a_landmark_keeps_its_coordinates(direction, spacing):
    volume = blob_volume(spacing, direction)
    for how in ((0.9, "scipy"), ((1.0, 0.7, 1.3), "scipy"), (0.9, "profile")):
        assert distance(resample(volume, *how)) < LANDMARK, how
    assert distance(degrade(blob_volume((0.8, 0.9, 1.0), direction), spacing)) < LANDMARK


@pytest.mark.parametrize(("number", "name"), list(enumerate(SMOOTH)))
def test_a_landmark_keeps_its_coordinates_with_sitk(number, name):
    volume = blob_volume(THICK[number % 3], OBLIQUE, sigma=3.5, extent=36)
    assert distance(resample(volume, 1.2, "sitk", name)) < LANDMARK


def test_linear_interpolation_by_hand():
    # Centres at 0, 2, 4 mm; new ones at -0.5, 0.5, 1.5 ... 4.5 mm.
    volume = Volume(np.array([0.0, 2.0, 6.0]).reshape(3, 1, 1), (2, 1, 1))
    result = resample(volume, 1, spline_order=1).array.ravel()
    assert result == pytest.approx([0, 0.5, 1.5, 3, 5, 6])


def test_nearest_neighbour_repeats_voxels_and_keeps_the_dtype():
    labels = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    for how in ({"spline_order": 0}, {"interp": "sitk", "interpolation_type": "NearestNeighbor"}):
        result = resample(Volume(labels, (1, 2, 3)), 1, **how).array
        assert result.dtype == np.int16
        assert np.array_equal(result, labels.repeat(2, axis=1).repeat(3, axis=2))


@pytest.mark.parametrize(
    ("shape", "how", "tolerance"),
    [
        *(((2, 5, 1), ("scipy", "Spline", order), 1e-5) for order in range(6)),
        *(((8, 8, 5), ("sitk", name), 0.02) for name in INTERPOLATION_TYPES),
        ((3, 3, 6), ("profile",), 1e-3),
    ],
)
def test_a_constant_stays_constant_up_to_the_border(shape, how, tolerance):
    volume = Volume(np.full(shape, 7.5, np.float32), (1, 1, 4))
    assert resample(volume, 0.6, *how).array == pytest.approx(7.5, rel=tolerance)


def test_every_sitk_interpolator_gives_another_result():
    volume = Volume(noise((9, 8, 7)), (1, 1, 3))
    results = [resample(volume, 0.8, "sitk", name).array for name in INTERPOLATION_TYPES]
    for first, second in itertools.combinations(results, 2):
        assert np.abs(first - second).max() > 1e-3


def test_a_volumes_grid_gives_it_back_and_a_shifted_one_a_part():
    volume = Volume(noise((8, 8, 8)), (1, 2, 3), (5, 6, 7), OBLIQUE)
    assert np.array_equal(resample(volume, volume.spacing).array, volume.array)
    assert resample(volume, volume.spacing, "sitk").array == pytest.approx(volume.array, abs=1e-5)
    origin = volume.grid.index_to_physical((2, 3, 1))
    part = resample_to(volume, Grid((4, 5, 6), volume.spacing, origin, volume.direction))
    assert part.array == pytest.approx(volume.array[2:6, 3:8, 1:7], abs=1e-5)


def test_the_matrices_are_those_of_ndimage():
    array, sizes = noise((13, 11, 7)), zip((13, 11, 7), (20, 11, 21), strict=True)
    points = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in sizes]
    coordinates = np.meshgrid(*points, indexing="ij")
    expected = ndimage.map_coordinates(array, coordinates, order=3, mode="reflect")
    volume = Volume(array, (20 / 13, 1, 3))
    assert resample(volume, 1).array == pytest.approx(expected, abs=1e-5)


def test_beyond_the_field_of_view_the_edge_is_repeated():
    volume = Volume(np.array([3.0, 1.0, 5.0]).reshape(3, 1, 1), (1, 1, 1))
    grid = Grid((13, 1, 1), (1, 1, 1), (-5, 0, 0))
    for how in ({"spline_order": 1}, {"interp": "sitk", "interpolation_type": "Linear"}):
        result = resample_to(volume, grid, **how).array.ravel()
        assert result == pytest.approx([3] * 5 + [3, 1, 5] + [5] * 5)


def test_flipped_and_permuted_targets_show_the_same_points():
    volume = Volume(noise((4, 5, 6)), (1, 2, 3), (5, 6, 7), OBLIQUE)
    origin = volume.grid.index_to_physical((3, 0, 5))
    direction = volume.direction[:, [2, 0, 1]] * [-1, -1, 1]
    grid = Grid((6, 4, 5), (3, 1, 2), origin, direction)
    expected = volume.array.transpose(2, 0, 1)[::-1, ::-1, :]
    assert resample_to(volume, grid).array == pytest.approx(expected, abs=1e-5)
    assert resample_to(volume, grid, interp="sitk").array == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("spacing", [(0.7, 1, 1), (0.5, 0.9, 1.6), (1, 0.9, 3.3), (2, 2, 2)])
@pytest.mark.parametrize("order", [1, 3])
def test_legacy_is_zoom_of_scipy(spacing, order):
    volume = Volume(noise((17, 14, 9)), (1, 0.9, 3.3), (5, 6, 7), DIRECTIONS["flipped"])
    result = legacy_resample(volume, spacing, spline_order=order)
    zoom = np.array(volume.spacing) / spacing
    assert result.array == pytest.approx(ndimage.zoom(volume.array, zoom, order=order), abs=1e-5)
    assert (result.spacing, result.origin) == (spacing, volume.origin)
    assert np.array_equal(result.direction, volume.direction)


def test_degrading_an_impulse_shows_the_slice_profile():
    array = np.zeros((1, 1, 61), np.float32)
    array[0, 0, 30] = 1
    result = degrade(Volume(array, (1, 1, 0.5)), (1, 1, 3.0), thickness=4.0)
    # Slices of 3 mm at 1.5, 4.5 ...; the impulse at 15.25 mm; FWHM 4 mm.
    centres, sigma = np.arange(11) * 3 + 1.5, 4.0 / 2.3548
    expected = 0.5 * scipy.stats.norm.pdf(centres, 15.25, sigma)
    assert result.array.ravel() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("thickness, expected", [(4, [0, 1, 2, 3]), (2, [1, 2]), (0.1, [1, 2])])
def test_a_box_is_the_mean_of_the_voxels_in_a_slice(thickness, expected):
    volume = Volume(noise((3, 2, 12)), (1, 1, 1))
    found = degrade(volume, (1, 1, 4), thickness, "box").array
    parts = volume.array.reshape(3, 2, 3, 4)[..., expected]
    assert found == pytest.approx(parts.mean(axis=-1), abs=1e-6)
    with pytest.raises(ValueError, match="profile must be one of gaussian, box"):
        degrade(volume, (1, 1, 4), profile="sinc")


def test_axes_whose_resolution_does_not_fall_stay_untouched():
    volume = Volume(noise((6, 5, 12)), (1, 1, 1))
    result = degrade(volume, (0.5, 1, 4))
    assert (result.spacing, result.array.shape) == ((1, 1, 4), (6, 5, 3))
    assert np.array_equal(degrade(volume, (1, 1, 1)).array, volume.array)
    thin = degrade(volume, (1, 1, 3), thickness=1e-3)  # takes the voxel there
    assert thin.array == pytest.approx(volume.array[..., 1::3])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("ratio", [2, 3, 4.5])
def test_knowing_the_profile_undoes_its_blur(axis, ratio):
    truth = Volume(ndimage.gaussian_filter(noise((36, 36, 36)), 1.5), (1, 1, 1))
    low = degrade(truth, [ratio if k == axis else 1 for k in range(3)])
    images = (resample_to(low, truth.grid, interp).array for interp in ("scipy", "profile"))
    spline, profile = (psnr(truth.array, image) for image in images)
    assert profile > spline + 0.8


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.75, 1.0])
def test_slices_of_known_thickness_are_never_interpolated_worse_than_by_splines(fraction):
    # Two ellipsoids with sharp edges, as in a phantom; thinner slices leave gaps between them.
    places = np.indices((36, 36, 36)).T - 17.5
    body, core = (np.linalg.norm(places / a, axis=-1).T < 1 for a in ([12, 14, 15], [5, 4, 6]))
    truth = Volume(np.where(core, 820, np.where(body, 600, 0)).astype(np.float32), (1, 1, 1))
    low = degrade(truth, (1, 1, 3), thickness=3 * fraction)
    settings = {"interp": "scipy"}, {"interp": "profile", "thickness": 3 * fraction}
    images = [
        resample_to(low, truth.grid, **how).array for how in (*settings, {"interp": "profile"})
    ]
    spline, known, assumed = (psnr(truth.array, image) for image in images)
    assert known > spline + 0.05 and known >= assumed + 0.4 * (fraction < 1)


def test_the_profile_is_known_along_the_thick_axis_alone():
    thick, isotropic = (Volume(noise((9, 9, 5)), (1, 1, size)) for size in (3, 1))
    for volume, spacing in ((thick, (0.5, 0.5, 3)), (isotropic, 0.5)):
        profile, spline = (resample(volume, spacing, how).array for how in ("profile", "scipy"))
        assert np.array_equal(profile, spline)
    assert np.abs(resample(thick, 1, "profile").array - resample(thick, 1).array).max() > 0.05


def test_scale_and_offset_pass_through_the_profile_and_one_slice_is_repeated():
    for size in (6, 1):
        volume = Volume(noise((3, 3, size)), (1, 1, 4))
        linear = Volume(3 * volume.array + 5, volume.spacing)
        first, second = (resample(v, 1, interp="profile").array for v in (volume, linear))
        assert second == pytest.approx(3 * first + 5, rel=2e-2 if size == 1 else 2e-3)
    assert first == pytest.approx(np.repeat(volume.array, 4, axis=2), rel=2e-2)


VOLUME = Volume(noise((4, 4, 4)), (1, 1, 3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: resample(VOLUME, 0), "positive"),
        (lambda: legacy_resample(VOLUME, 0.0005), "coarser"),
        (lambda: resample(VOLUME, 1, "cubic"), "scipy, sitk, profile"),
        (lambda: resample(VOLUME, 1, "sitk", "Cubic"), "Lanczos"),
        (lambda: resample(VOLUME, 1, spline_order=6), "0 to 5"),
        (lambda: degrade(VOLUME, (1, 1, 6), thickness=0), "thickness"),
        (lambda: resample(VOLUME, 1, "profile", thickness=0.0), "positive"),
        (lambda: resample_to(VOLUME, Grid((4, 4, 4), direction=OBLIQUE)), "parallel"),
    ],
)
def test_wrong_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_averages_lie_where_the_image_lies_on_any_grid(direction):
    volume = blob_volume((1.0, 1.0, 1.0), np.eye(3))
    for spacing in ((2.0, 2.0, 5.0), (0.7, 1.0, 1.0)):
        grid = blob_volume(spacing, direction).grid
        moved = average_onto(volume, grid)
        assert moved.array.dtype == np.float32
        np.testing.assert_allclose(centroid(moved), BLOB, atol=0.15)
        before, after = (v.array.sum() * np.prod(v.spacing) for v in (volume, moved))
        assert after == pytest.approx(before, rel=0.02)


def test_averages_are_means_of_whole_voxels_and_labels_are_kept():
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    fine = Volume(values.repeat(4, 2), (1.0, 1.0, 1.0))
    coarse = average_onto(fine, fine.grid.corner_aligned((1.0, 1.0, 8.0)))
    np.testing.assert_allclose(coarse.array[..., 0], values.mean(axis=2), atol=1e-5)
    labels = Volume(np.array([[[3, 3, 7, 7]]], np.int32), (1.0, 1.0, 1.0))
    moved = average_onto(labels, Grid((1, 1, 3), (1.0, 1.0, 2.0)), labels=True)
    assert moved.array.ravel().tolist() == [3, 7, 7] and moved.array.dtype == np.int32
    wide = average_onto(labels, Grid((1, 1, 3), (1.0, 1.0, 3.0)), labels=True)
    assert wide.array.ravel().tolist() == [3, 7, 0]  # far beyond the field of view


def test_averages_need_a_common_place():
    thin = Volume(np.ones((60, 60, 4), np.float32), (1.0, 1.0, 1.0), (90, 90, 101))
    assert average_onto(thin, Grid((256, 256, 256))).array.sum() > 0
    volume = blob_volume((1.0, 1.0, 1.0), np.eye(3))
    with pytest.raises(ValueError, match="the grid lies elsewhere than the image"):
        average_onto(volume, Grid((4, 4, 4), origin=(500, 0, 0)))
