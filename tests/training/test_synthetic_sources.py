# SPDX-License-Identifier: MIT
"""Images painted on label maps, and the endless patch sources."""

import numpy as np
import pytest
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
    surround,
    thin,
)
from segsrgan.training.sources import Acquisition, ImageSource, SyntheticSource


def head():
    """FreeSurfer numbers: white matter in a cortex shell in fluid in a skull."""
    grid = np.stack(np.meshgrid(*(np.arange(40),) * 3, indexing="ij"), -1)
    distance = np.linalg.norm(grid - 19.5, axis=-1)
    labels = np.zeros((40, 40, 40), "int32")
    for radius, value in ((18, 515), (15, 24), (13, 3), (10, 2)):
        labels[distance < radius] = value
    return labels


def test_labels_are_numbered_and_sorted_into_tissues():
    label_map = prepare_labels(head(), (3, 42))
    assert set(np.unique(label_map.labels)) == {0, 1, 2, 3, 4}  # 0, 2, 3, 24, 515
    assert label_map.cortex == (2,)
    assert label_map.brain.tolist() == [False, True, True, True, False]
    assert (head()[tuple(label_map.points.T)] == 3).all()
    assert len(label_map.points) == (head() == 3).sum()


def test_left_and_right_are_one_tissue():
    label_map = prepare_labels(np.array([0, 2, 41, 3, 42]).reshape(5, 1, 1), (3, 42))
    assert label_map.tissue[1] == label_map.tissue[4 - 1]  # sorted: 0, 2, 3, 41, 42
    assert label_map.tissue[2] == label_map.tissue[4]


def test_a_map_without_cortex_is_refused():
    with pytest.raises(ValueError, match="has no cortex"):
        prepare_labels(np.ones((2, 2, 2)), (3,))


def test_frames_are_rotations_times_a_scale_without_stretch():
    for seed in range(20):
        matrix = random_frame(np.random.default_rng(seed), scale=(0.5, 2.0), stretch=0)
        gram = matrix @ matrix.T
        np.testing.assert_allclose(gram, np.eye(3) * gram[0, 0], atol=1e-12)
        assert 0.25 <= gram[0, 0] <= 4


def test_frames_turn_flip_and_permute_the_axes():
    rng = np.random.default_rng(0)
    frames = [random_frame(rng, (1, 1), angle=0, stretch=0) for _ in range(300)]
    assert len({tuple(np.rint(frame).astype(int).ravel()) for frame in frames}) == 48
    stretched = random_frame(rng, (1, 1), stretch=0.1)
    assert np.abs(stretched @ stretched.T - np.eye(3)).max() > 0.02


def test_points_of_a_flip_and_a_permutation():
    array = np.arange(27).reshape(3, 3, 3)
    matrix = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]])  # x <- y, y <- -x
    box = nearest(array, sample_points((1, 1, 1), matrix, (3, 3, 3)))
    np.testing.assert_array_equal(box, array.transpose(1, 0, 2)[::-1])


def test_outside_the_map_is_background():
    box = nearest(np.ones((3, 3, 3), "uint8"), sample_points((1, 1, 1), np.eye(3), (5, 3, 3)))
    np.testing.assert_array_equal(box[:, 0, 0], [0, 1, 1, 1, 0])


def test_a_deformation_moves_up_to_its_bound_and_never_folds():
    shape = (40, 40, 40)
    rigid = sample_points((20, 20, 20), np.eye(3), shape)
    moved = sample_points((20, 20, 20), np.eye(3), shape, np.random.default_rng(0), elastic=8.0)
    largest = np.abs(moved - rigid).max()
    assert 2 < largest <= 8
    jacobian = np.stack([np.stack(np.gradient(axis)) for axis in moved])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant.min() > 0


def test_a_thin_cortex_loses_a_voxel_to_the_white_matter():
    line = np.array([0, 2, 2, 1, 1, 1, 0], "uint8").reshape(7, 1, 1)  # 1: white, 2: cortex
    assert thin(line, (2,), (1,)).ravel().tolist() == [0, 2, 1, 1, 1, 1, 0]
    assert thin(line, (2,), ()).ravel().tolist() == line.ravel().tolist()


def test_surroundings_fill_the_background_alone_and_differ():
    label_map = prepare_labels(np.where(head() < 24, head(), 0), (3, 42))
    count = len(label_map.tissue)
    results = [
        surround(label_map.labels, label_map.brain, count, np.random.default_rng(seed))
        for seed in range(3)
    ]
    inside = label_map.labels > 0
    for labels in results:
        assert labels.dtype == np.uint8 and labels.max() < count + EXTRA
        np.testing.assert_array_equal(labels[inside], label_map.labels[inside])
        assert len(np.unique(labels[~inside])) >= 3
        paint(labels, label_map, np.random.default_rng(0), strip=False)
    assert (results[0] != results[1]).any() and (results[1] != results[2]).any()


def test_an_image_is_no_label_map():
    with pytest.raises(ValueError, match=r"up to 250 values, received 300; is it an image"):
        prepare_labels(np.arange(300).reshape(3, 10, 10), (3,))


def test_the_cortex_can_be_told_from_what_it_touches():
    label_map = prepare_labels(head(), (3, 42))
    white, cortex, fluid = 1, 2, 3
    means = [_tissues(label_map, np.random.default_rng(seed))[0] for seed in range(200)]
    contrast = [min(abs(m[cortex] - m[white]), abs(m[cortex] - m[fluid])) for m in means]
    assert np.percentile(contrast, 5) > 0.05  # of independent draws it would be 0.02


def test_painting_gives_every_sample_another_contrast_and_repeats_with_the_seed():
    label_map = prepare_labels(head(), (3, 42))

    def means(seed):
        image = paint(label_map.labels, label_map, np.random.default_rng(seed))
        assert image.min() >= 0 and image.max() <= 1
        return [image[label_map.labels == n].mean() for n in (1, 2, 3)]

    np.testing.assert_array_equal(means(0), means(0))
    orders = {tuple(np.argsort(means(seed))) for seed in range(30)}
    assert len(orders) >= 5  # of the six orders of three tissues


def test_stripping_removes_what_is_not_brain():
    label_map = prepare_labels(head(), (3, 42))
    outside = np.isin(label_map.labels, (0, 4))
    stripped, whole = (
        paint(label_map.labels, label_map, np.random.default_rng(3), strip)
        for strip in (True, False)
    )
    shell = label_map.labels == 4
    assert stripped[outside].std() < whole[outside].std()
    assert abs(stripped[shell].mean() - stripped[~shell & outside].mean()) < 0.05


def arrays(patch):
    return patch.lr, patch.truth["sr"], patch.truth["cortex"]


def sources(**how):
    label_map = prepare_labels(head(), (3, 42))
    image = (head() == 2).astype("float32")
    cortex = head() == 3
    acquisition = Acquisition(noise=0.0)
    return (
        SyntheticSource(label_map, 16, acquisition=acquisition, **how),
        ImageSource(((image, cortex, label_map.points),), 16, acquisition=acquisition),
    )


@pytest.mark.parametrize("source", sources(), ids=["synthetic", "image"])
def test_draws_have_the_patch_shape_differ_and_repeat(source):
    first, again, other = (source.draw(np.random.default_rng(seed)) for seed in (0, 0, 1))
    for a, b in zip(arrays(first), arrays(again), strict=True):
        assert a.shape == (16, 16, 16) and a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    assert first.resolution == again.resolution != other.resolution
    assert np.abs(first.lr - other.lr).max() > 1e-3
    assert set(np.unique(first.truth["cortex"])) <= {0.0, 1.0}


@pytest.mark.parametrize("source", sources(), ids=["synthetic", "image"])
def test_only_the_last_axis_is_thick(source):
    lost = np.zeros(3)
    for seed in range(12):
        lr, hr, _ = arrays(source.draw(np.random.default_rng(seed)))
        lost += [np.abs(np.diff(hr - lr, axis=k)).mean() for k in range(3)]
    assert lost[2] > 1.15 * lost[:2].max()


def test_typical_contrasts_order_the_tissues_as_common_sequences_do():
    label_map = prepare_labels(head(), (3, 42))
    white, cortex, fluid = 1, 2, 3
    orders = set()
    for seed in range(100):
        means = _tissues(label_map, np.random.default_rng(seed), typical=1.0)[0]
        orders.add(tuple(np.argsort(means[[white, cortex, fluid]])))
    # T1: fluid, cortex, white; T2: white, cortex, fluid; FLAIR: fluid, white, cortex;
    # T2 of a newborn: cortex, white, fluid. Never: fluid in the middle.
    assert {(2, 1, 0), (0, 1, 2), (2, 0, 1), (1, 0, 2)} <= orders
    assert not orders & {(0, 2, 1), (1, 2, 0)}


@pytest.mark.parametrize("name", ["strip", "thin", "elastic", "scale", "typical"])
def test_every_attribute_of_the_synthetic_source_reaches_the_sample(name):
    usual = {"strip": 0.0, "thin": 0.0, "elastic": 0.0, "scale": (0.8, 0.8), "typical": 0.0}
    other = {"strip": 1.0, "thin": 1.0, "elastic": 8.0, "scale": (1.3, 1.3), "typical": 1.0}
    first = sources(**usual)[0].draw(np.random.default_rng(0))
    second = sources(**{**usual, name: other[name]})[0].draw(np.random.default_rng(0))
    assert np.abs(first.truth["sr"] - second.truth["sr"]).max() > 1e-3
    if name == "thin":
        assert second.truth["cortex"].sum() < first.truth["cortex"].sum()
        coarse = {**usual, "scale": (1.2, 1.2)}  # no voxel to spare
        plain, same = (sources(**how)[0] for how in (coarse, {**coarse, "thin": 1.0}))
        labels = [arrays(source.draw(np.random.default_rng(0)))[2] for source in (plain, same)]
        np.testing.assert_array_equal(*labels)


def test_the_interpolation_of_the_acquisition_reaches_the_sample():
    def lr(interp):
        acquisition = Acquisition((4.0, 4.0), noise=0.0, interp=interp)
        label_map = prepare_labels(head(), (3, 42))
        source = SyntheticSource(label_map, 16, acquisition=acquisition)
        return source.draw(np.random.default_rng(0)).lr

    assert np.abs(lr("profile") - lr("scipy")).max() > 1e-3


@pytest.mark.parametrize("distance", [2.0, 5.0])
def test_a_patch_tells_its_slice_distance(distance):
    acquisition = Acquisition(ratio=(distance, distance))
    source = SyntheticSource(prepare_labels(head(), (3, 42)), 16, acquisition=acquisition)
    patches = [source.draw(np.random.default_rng(seed)) for seed in range(3)]
    np.testing.assert_allclose([patch.resolution for patch in patches], distance, rtol=1e-6)


def test_a_fetal_map_has_its_own_numbers_and_a_cortex_that_does_not_thin():
    values = np.array([0, 1, 5, 4, 8, 9], "int32").reshape(6, 1, 1)
    label_map = prepare_labels(values, (5,), NUMBERINGS["fetal"])  # sorted: 0, 1, 4, 5, 8, 9
    assert label_map.brain.tolist() == [False, True, True, True, True, False]
    assert label_map.tissue[1] == label_map.tissue[4]  # white matter and corpus callosum
    assert (label_map.white, label_map.fluid, label_map.numbering.thin) == ((1, 4), (2,), 0.0)


def test_images_are_drawn_from_in_cubic_voxels(tmp_path):
    cases = read_cases(write_table(tmp_path, spacing=(1.0, 1.0, 2.0))).train
    ((image, label, _),) = ImageSource.of(cases, patch=16).images
    assert image.shape == label.shape == (24, 24, 48) and label.dtype == bool


def test_a_source_of_the_images_of_a_table(tmp_path):
    cases = read_cases(write_table(tmp_path)).train
    source = ImageSource.of(cases, patch=16)
    ((image, label, points),) = source.images
    assert image.dtype == np.float32 and (image.min(), image.max()) == (0, 1)
    np.testing.assert_array_equal(points, np.argwhere(ball()[1].array > 0))
    np.testing.assert_array_equal(label, ball()[1].array > 0)
    assert source.draw(np.random.default_rng(0)).truth["cortex"].any()


@pytest.mark.parametrize("distance", [2.0, 3.0, 4.0, 7.0])
def test_the_slices_of_aligned_patches_begin_with_the_patch(distance):
    bounds = {"ratio": (distance, distance), "gap": (0.01, 0.01), "in_plane": (1.0, 1.0)}
    acquisition = Acquisition(**bounds, noise=0.0, slice_voxels=4)
    slices = acquisition.slices(np.random.default_rng(0))
    assert slices == pytest.approx((distance, distance / 4))
    # Of a ramp thin slices see the middle of their four voxels, which splines give back exactly.
    ramp = np.broadcast_to(np.arange(48, dtype=np.float32), (8, 8, 48))
    lr, resolution = acquisition.simulate(ramp, slices, np.random.default_rng(0))
    assert resolution == pytest.approx(distance)
    np.testing.assert_allclose(lr[4, 4, 16:32], ramp[4, 4, 16:32], atol=0.6)
    steps = np.where(np.arange(48) // 4 % 2, 1.0, 0.0).astype(np.float32)
    lr, _ = acquisition.simulate(
        np.broadcast_to(steps, (8, 8, 48)), slices, np.random.default_rng(0)
    )
    means = lr[4, 4].reshape(-1, 4)[:, 1:3].mean(axis=1)
    assert (means[1::2] > 0.9).all() and (means[::2] < 0.1).all()


def test_slices_close_together_are_not_aligned():
    acquisition = Acquisition((1.2, 1.9), slice_voxels=4)
    distance, height = acquisition.slices(np.random.default_rng(0))
    assert 1.2 <= distance <= 1.9 and height == 1.0


def test_real_images_are_interpolated_to_the_slices():
    image = np.zeros((40, 40, 40), np.float32)
    x, y, z = np.indices(image.shape)
    inside = (x - 20) ** 2 + (y - 20) ** 2 + (z - 20) ** 2 < 12**2
    image[inside] = 1.0
    volumes = []
    for distance in (4.0, 6.0):
        acquisition = Acquisition((distance, distance), noise=0.0, slice_voxels=4)
        source = ImageSource(
            ((image, inside, np.array([[20, 20, 20]])),), 48, (1.0, 1.0), 0.0, acquisition
        )
        patch = source.draw(np.random.default_rng(0))
        _, hr, label = arrays(patch)
        assert patch.resolution == pytest.approx(distance, rel=1e-6)
        assert hr.min() >= 0
        volumes.append([hr.sum(), label.sum()])
    # A voxel half as high again: two thirds of the voxels.
    np.testing.assert_allclose(volumes[1], np.multiply(volumes[0], 2 / 3), rtol=0.02)
