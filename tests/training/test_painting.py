# SPDX-License-Identifier: MIT
"""Images painted on label maps, and the endless sources of patches."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.random import default_rng as rng
from scipy import ndimage
from training.heads import head
from training.samples import ball, write_table

from segsrgan.training.cases import read_cases
from segsrgan.training.painting import (
    EXTRA,
    NUMBERINGS,
    _tissues,
    nearest,
    paint,
    prepare_labels,
    random_frame,
    sample_points,
    share,
    surround,
    thin,
)
from segsrgan.training.sources import Acquisition, ImageSource, SyntheticSource

HEAD = head(40)
MAP = prepare_labels(HEAD, (3, 42))
WHITE, CORTEX, FLUID, SKULL = 1, 2, 3, 4  # its numbers: 2, 3, 24, 515 sorted
QUIET = Acquisition(noise=0.0)
SYNTHETIC = SyntheticSource(MAP, 16, acquisition=QUIET)
IMAGES = ImageSource(
    (((HEAD == 2).astype("float32"), HEAD == 3, MAP.points, False),), 16, acquisition=QUIET
)


def numbers(values):
    return np.array(values).reshape(-1, 1, 1)


def arrays(patch):
    return patch.lr, patch.truth["sr"], patch.truth["cortex"]


def test_labels_are_numbered_and_sorted_into_tissues():
    assert set(np.unique(MAP.labels)) == {0, WHITE, CORTEX, FLUID, SKULL}
    assert MAP.cortex == (CORTEX,)
    assert MAP.brain.tolist() == [False, True, True, True, False]
    assert (HEAD[tuple(MAP.points.T)] == 3).all()
    assert len(MAP.points) == (HEAD == 3).sum()
    tissue = prepare_labels(numbers([0, 2, 41, 3, 42]), (3, 42)).tissue  # 0, 2, 3, 41, 42
    assert tissue[1] == tissue[3] and tissue[2] == tissue[4]  # left and right are one
    # A fetal map has numbers of its own, and a cortex that does not thin.
    label_map = prepare_labels(numbers([0, 1, 5, 4, 8, 9]), (5,), NUMBERINGS["fetal"])
    assert label_map.brain.tolist() == [False, True, True, True, True, False]  # 0, 1, 4, 5, 8, 9
    assert label_map.tissue[1] == label_map.tissue[4]  # white matter and corpus callosum
    assert (label_map.white, label_map.fluid, label_map.numbering.thin) == ((1, 4), (2,), 0.0)


def test_frames_turn_flip_permute_and_scale_the_axes():
    draws = rng(0)
    for _ in range(20):
        matrix = random_frame(draws, scale=(0.5, 2.0), stretch=0)
        gram = matrix @ matrix.T
        np.testing.assert_allclose(gram, np.eye(3) * gram[0, 0], atol=1e-12)
        assert 0.25 <= gram[0, 0] <= 4
    frames = [random_frame(draws, (1, 1), angle=0, stretch=0) for _ in range(300)]
    assert len({tuple(np.rint(frame).astype(int).ravel()) for frame in frames}) == 48
    frames = [random_frame(draws, (1, 1), angle=0, stretch=0, upright=True) for _ in range(100)]
    # Any axis is the last; the others keep their order, right and left are exchanged at times.
    orders = [(0, 1, 2), (0, 2, 1), (1, 2, 0)]
    expected = {
        tuple((np.diag([mirror, 1, 1])[:, order]).ravel()) for order in orders for mirror in (1, -1)
    }
    assert {tuple(np.rint(frame).astype(int).ravel()) for frame in frames} == expected
    stretched = random_frame(draws, (1, 1), stretch=0.1)
    assert np.abs(stretched @ stretched.T - np.eye(3)).max() > 0.02


def test_points_of_a_flip_and_a_permutation_with_background_outside_the_map():
    array = np.arange(27).reshape(3, 3, 3)
    matrix = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])  # x <- y, y <- -x
    box = nearest(array, sample_points((1, 1, 1), matrix, (5, 3, 3)))
    np.testing.assert_array_equal(box[1:4], array.transpose(1, 0, 2)[::-1])
    assert not box[[0, 4]].any()


def test_a_deformation_moves_up_to_its_bound_and_never_folds():
    shape = (40, 40, 40)
    rigid = sample_points((20, 20, 20), np.eye(3), shape)
    moved = sample_points((20, 20, 20), np.eye(3), shape, rng(0), elastic=8.0)
    assert 2 < np.abs(moved - rigid).max() <= 8
    jacobian = np.stack([np.stack(np.gradient(axis)) for axis in moved])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0


def test_the_share_of_a_label_is_interpolated():
    labels = numbers([0, 1, 2, 2, 3]).astype(np.uint8)
    points = np.zeros((3, 5, 1, 1))
    points[0, :, 0, 0] = [0.5, 1.5, 2.4, 3.25, 9]
    assert share(labels, (2,), points).ravel() == pytest.approx([0, 0.5, 1, 0.75, 0])
    whole = np.isin(MAP.labels, (CORTEX,)).astype(np.float32)
    for centre in ([20, 20, 20], [3, 39, 20], [-9, 50, 20], [90, 90, 90]):
        points = rng(0).uniform(-6, 6, (3, 5, 6, 7)) + np.reshape(centre, (3, 1, 1, 1))
        expected = ndimage.map_coordinates(whole, points, order=1)
        np.testing.assert_allclose(share(MAP.labels, (CORTEX,), points), expected, atol=1e-5)


def test_a_thin_cortex_loses_a_voxel_to_the_white_matter():
    line = numbers([0, 2, 2, 1, 1, 1, 0])  # 1: white, 2: cortex
    assert thin(line, (2,), (1,)).ravel().tolist() == [0, 2, 1, 1, 1, 1, 0]
    assert thin(line, (2,), ()).ravel().tolist() == line.ravel().tolist()


def test_surroundings_fill_the_background_alone_and_differ():
    label_map = prepare_labels(np.where(HEAD < 24, HEAD, 0), (3, 42))
    count, inside = len(label_map.tissue), label_map.labels > 0
    results = [surround(label_map.labels, label_map.brain, count, rng(seed)) for seed in range(3)]
    for labels in results:
        assert labels.dtype == np.uint8 and labels.max() < count + EXTRA
        np.testing.assert_array_equal(labels[inside], label_map.labels[inside])
        assert len(np.unique(labels[~inside])) >= 3
        paint(labels, label_map, rng(0), strip=False)
    assert (results[0] != results[1]).any() and (results[1] != results[2]).any()


def test_tissues_are_as_bright_as_in_common_sequences_or_else_the_cortex_can_be_told():
    means = np.array([_tissues(MAP, rng(seed))[0] for seed in range(200)])
    contrast = np.abs(means[:, [WHITE, FLUID]] - means[:, [CORTEX]]).min(axis=1)
    assert np.percentile(contrast, 5) > 0.05  # of independent draws it would be 0.02
    means = [_tissues(MAP, rng(seed), typical=1.0)[0] for seed in range(100)]
    orders = {tuple(np.argsort(m[[WHITE, CORTEX, FLUID]])) for m in means}
    # T1: fluid, cortex, white; T2: white, cortex, fluid; FLAIR: fluid, white, cortex;
    # T2 of a newborn: cortex, white, fluid. Never: fluid in the middle.
    assert {(2, 1, 0), (0, 1, 2), (2, 0, 1), (1, 0, 2)} <= orders
    assert not orders & {(0, 2, 1), (1, 2, 0)}


def test_painting_gives_every_sample_another_contrast_and_strips_what_is_not_brain():
    def means(seed):
        image, _ = paint(MAP.labels, MAP, rng(seed))
        assert image.min() >= 0 and image.max() <= 1
        return [image[MAP.labels == n].mean() for n in (WHITE, CORTEX, FLUID)]

    np.testing.assert_array_equal(means(0), means(0))
    orders = {tuple(np.argsort(means(seed))) for seed in range(30)}
    assert len(orders) >= 5  # of the six orders of three tissues
    outside, shell = np.isin(MAP.labels, (0, SKULL)), MAP.labels == SKULL
    stripped, whole = (paint(MAP.labels, MAP, rng(3), strip)[0] for strip in (True, False))
    assert stripped[outside].std() < whole[outside].std()
    assert abs(stripped[shell].mean() - stripped[~shell & outside].mean()) < 0.05


@pytest.mark.parametrize("source", [SYNTHETIC, IMAGES], ids=["synthetic", "image"])
def test_draws_have_the_patch_shape_differ_and_repeat(source):
    first, again, other = (source.draw(rng(seed)) for seed in (0, 0, 1))
    for a, b in zip(arrays(first), arrays(again), strict=True):
        assert a.shape == (16, 16, 16) and a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    assert first.resolution == again.resolution != other.resolution
    assert np.abs(first.lr - other.lr).max() > 1e-3
    assert 0 <= first.truth["cortex"].min() < first.truth["cortex"].max() <= 1
    # Only the last axis is thick.
    lost = np.zeros(3)
    for seed in range(12):
        lr, hr, _ = arrays(source.draw(rng(seed)))
        lost += [np.abs(np.diff(hr - lr, axis=k)).mean() for k in range(3)]
    assert lost[2] > 1.15 * lost[:2].max()


@pytest.mark.parametrize("name", ["strip", "thin", "elastic", "scale", "typical"])
def test_every_attribute_of_the_synthetic_source_reaches_the_sample(name):
    plain = replace(SYNTHETIC, strip=0.0, thin=0.0, elastic=0.0, scale=(0.8, 0.8), typical=0.0)
    other = {"strip": 1.0, "thin": 1.0, "elastic": 8.0, "scale": (1.3, 1.3), "typical": 1.0}
    first, second = (s.draw(rng(0)) for s in (plain, replace(plain, **{name: other[name]})))
    assert np.abs(first.truth["sr"] - second.truth["sr"]).max() > 1e-3
    if name == "thin":
        assert second.truth["cortex"].sum() < first.truth["cortex"].sum()
        coarse = replace(plain, scale=(1.2, 1.2))  # no voxel to spare
        labels = [arrays(source.draw(rng(0)))[2] for source in (coarse, replace(coarse, thin=1.0))]
        np.testing.assert_array_equal(*labels)


def test_nothing_lies_beyond_a_cropped_field_of_view():
    ended = 0
    for seed in range(12):
        whole = arrays(SYNTHETIC.draw(rng(seed)))
        cropped = arrays(replace(SYNTHETIC, cropped=1.0).draw(rng(seed)))
        beyond = cropped[1] != whole[1]
        assert not any(array[beyond].any() for array in cropped)
        ended += beyond.any()
    assert ended > 6


def test_fluid_that_stripping_takes_away_is_not_to_be_found():
    label_map = prepare_labels(HEAD, (3, 2, 24))
    source = SyntheticSource(label_map, 16, strip=1.0, elastic=0.0, thin=0.0, acquisition=QUIET)
    sizes = [source.draw(rng(seed)).truth["cortex"].sum() for seed in range(12)]
    shown, removed = (paint(label_map.labels, label_map, rng(3), strip) for strip in (False, True))
    assert not shown[1].any() and removed[1][[0, SKULL]].all() and not removed[1][CORTEX]
    assert max(sizes) > 1.2 * min(sizes)


def test_a_source_of_the_images_of_a_table_has_cubic_voxels(tmp_path):
    source = ImageSource.of(read_cases(write_table(tmp_path)).train, patch=16)
    ((image, label, points, upright),) = source.images
    assert upright
    assert image.dtype == np.float32 and (image.min(), image.max()) == (0, 1)
    np.testing.assert_array_equal(points, np.argwhere(ball()[1].array > 0))
    np.testing.assert_array_equal(label, ball()[1].array > 0)
    assert source.draw(rng(0)).truth["cortex"].any()
    cases = read_cases(write_table(tmp_path, spacing=(1.0, 1.0, 2.0))).train
    ((image, label, *_),) = ImageSource.of(cases, patch=16).images
    assert image.shape == label.shape == (24, 24, 48) and label.dtype == bool


@pytest.mark.parametrize("distance", [2.0, 3.0, 4.0, 7.0])
def test_the_slices_of_aligned_patches_begin_with_the_patch(distance):
    bounds = {"ratio": (distance, distance), "in_plane": (1.0, 1.0)}
    bounds |= dict.fromkeys(("usual", "thickness"), (0.01, 0.01))
    acquisition = Acquisition(**bounds, noise=0.0, slice_voxels=4)
    slices = acquisition.slices(rng(0))
    assert slices == pytest.approx((distance, distance / 4))
    close, height = Acquisition((1.2, 1.9), slice_voxels=4).slices(rng(0))
    assert 1.2 <= close <= 1.9 and height == 1.0  # not aligned

    def lr(line):
        image = np.broadcast_to(np.asarray(line, np.float32), (8, 8, 48))
        result, resolution = acquisition.simulate(image, slices, rng(0))
        assert resolution == pytest.approx(distance)
        return result[4, 4]

    # Of a ramp thin slices see the middle of their four voxels, which splines give back exactly.
    np.testing.assert_allclose(lr(np.arange(48))[16:32], np.arange(16, 32), atol=0.6)
    means = lr(np.arange(48) // 4 % 2).reshape(-1, 4)[:, 1:3].mean(axis=1)
    assert (means[1::2] > 0.9).all() and (means[::2] < 0.1).all()


def test_real_images_are_interpolated_to_the_slices():
    inside = sum((axis - 20) ** 2 for axis in np.indices((40, 40, 40))) < 12**2
    points, volumes = np.array([[20, 20, 20]]), []
    images = ((inside.astype("float32"), inside, points, True),)
    for distance in (4.0, 6.0):
        acquisition = Acquisition((distance, distance), noise=0.0, slice_voxels=4)
        patch = ImageSource(images, 48, (1.0, 1.0), 0.0, acquisition).draw(rng(0))
        _, hr, label = arrays(patch)
        assert patch.resolution == pytest.approx(distance, rel=1e-6)
        assert hr.min() >= 0
        volumes.append([hr.sum(), label.sum()])
    # A voxel half as high again: two thirds of the voxels.
    np.testing.assert_allclose(volumes[1], np.multiply(volumes[0], 2 / 3), rtol=0.02)
