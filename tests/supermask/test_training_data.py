# SPDX-License-Identifier: MIT
"""What a training of SuperMask sees: poses, pairs, turns, files, painted images."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.random import default_rng as rng
from patients import patient, tiny
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.volumes import Grid, Volume, dice, write_volume
from segsrgan.volumes.itk import to_itk
from supermask.geometry import ORIENTATIONS, Rigid, sample
from supermask.simulation import Simulation, make_case, plan_cases, write_table
from supermask.training import paint
from supermask.training.dataset import Dataset, Pairs, PlacedExamination, Singles, oriented
from supermask.training.examinations import gather, true_transforms
from supermask.training.settings import TrainingSettings

STILL = {"rotation": 0.0, "shift": 0.0}


def names(cases):
    return [case.name for case in cases]


def ball(spacing=(2.0, 2.0, 2.0), radius=14.0):
    grid = Volume(np.zeros((24, 24, 24), np.float32), spacing).grid
    points = grid.index_to_physical(np.moveaxis(np.indices(grid.shape), 0, -1))
    stretched = (points - points.reshape(-1, 3).mean(axis=0)) * (1, 1.4, 1)
    return Volume((np.linalg.norm(stretched, axis=-1) < radius).astype(np.uint8), spacing)


def dataset(cases=None, **options):
    return Dataset(cases or [patient(0)], tiny(**{"seed": 1, **options}))


def batches(data, first=0):
    return list(data.stream(range(1, 2), lambda epoch: [Singles, Pairs], first))


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def moved(volumes, matrices):
    """Volumes (b, n, n, n) in the poses that matrices (b, 3, 4) bring them to."""
    return np.asarray(SpatialTransformer3D()([volumes[..., None], matrices]))[..., 0]


def test_the_true_motion_brings_the_moving_view_onto_the_fixed_one():
    case = PlacedExamination(patient(fine=4.0, thick=4.0), tiny())
    places = enumerate(itertools.permutations(range(3), 2))
    rows = [case.pair(fixed, moving, rng(seed)) for seed, (fixed, moving) in places]
    image_i, image_j, mask_i, mask_j, matrix, known = map(np.stack, zip(*rows, strict=True))
    pairs = zip(moved(mask_i, matrix), mask_i, mask_j, strict=True)
    overlaps = np.array([(dice(a >= 0.5, j > 0.5), dice(i > 0.5, j > 0.5)) for a, i, j in pairs])
    assert overlaps[:, 0].min() > 0.87 and overlaps[:, 1].mean() < 0.8
    middle = (slice(None), *(slice(4, 12),) * 3)
    images = moved(image_i, matrix)[middle].ravel(), image_j[middle].ravel()
    assert np.corrcoef(*images)[0, 1] > 0.95
    assert known.tolist() == [1.0] * 6


def test_where_the_patients_motion_is_not_known_the_middles_lie_on_each_other():
    case = PlacedExamination(patient(known=False), tiny(**STILL))
    *_, mask_i, mask_j, matrix, known = case.pair(0, 1, rng(0))
    assert known == 0
    np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-6)
    middles = [np.argwhere(mask > 0.5).mean(axis=0) for mask in (mask_i, mask_j)]
    np.testing.assert_allclose(*middles, atol=0.5)


def test_contrast_and_noise_change_images_and_nothing_else():
    plain, changed = (PlacedExamination(patient(), tiny(**change)).single(0, rng(3))
                      for change in ({}, {"contrast_max": 0.5, "noise": 0.05}))  # fmt: skip
    (image, mask), (other, other_mask) = plain, changed
    assert np.array_equal(mask, other_mask)
    assert np.abs(image - other).max() > 0.05 and 0 <= other.min() and other.max() <= 1


def test_poses_and_motions_have_bounds_of_their_own():
    case = PlacedExamination(patient(), tiny(pose=0.0, shift=0.0))
    assert same(case.single(0, rng(0)), case.single(0, rng(0), still=True))
    angles = np.array([case.motion(case.grids[0], rng(seed)).angles for seed in range(50)])
    assert 15 < np.rad2deg(np.abs(angles)).max() < 40
    wide = PlacedExamination(patient(), tiny(rotation=0.0, pose=90.0))
    assert wide.motion(case.grids[0], rng(0)).angle() < 1e-6
    assert max(wide.pose(case.grids[0], rng(seed)).angle() for seed in range(20)) > 60


def test_every_view_has_its_turn_once_in_an_epoch():
    data = dataset([patient(0), patient(1, planes=("axial",))], batch_size=1, steps=None)
    assert data.cycles(1) == 4
    turns = [[data._turn(Singles, e, c)[0] for c in range(4)] for e in range(1, 9)]
    assert all(sorted(turn) == data.singles for turn in turns) and len(set(map(tuple, turns))) > 1
    assert sorted(data._turn(Pairs, 5, cycle)[0] for cycle in range(3)) == [(0, 0), (0, 1), (0, 2)]


def test_an_epoch_may_be_entered_anywhere_and_another_seed_is_another_epoch():
    whole = batches(dataset(steps=3))
    assert [type(batch) for batch in whole] == [Singles, Pairs] * 3
    rest = batches(dataset(steps=3), first=1)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not same(whole[0], batches(dataset(steps=3, seed=2))[0])
    assert whole[0].image.shape == (2, 16, 16, 16, 1) and whole[1].matrix.shape == (2, 3, 4)


def test_what_was_drawn_is_seen_in_several_orientations():
    assert dataset(orientations=3, steps=None).cycles(1) == 6
    data = dataset(steps=4, orientations=2)
    whole = batches(data)
    first, again, other = (batch.fixed for batch in whole[1:6:2])
    assert not np.array_equal(first, again)
    first, again, other = (np.sort(x.reshape(2, -1)) for x in (first, again, other))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert all(same(a, b) for a, b in zip(whole[2:], batches(data, first=1), strict=True))


@pytest.mark.parametrize("orientation", ORIENTATIONS[5::7])
def test_in_another_orientation_the_motion_is_still_the_true_one(orientation):
    volume, grid = rng(0).random((12, 12, 12), np.float32), Grid((12,) * 3, (2.0,) * 3, (0.0,) * 3)
    motion = Rigid.in_grid(np.array([0.3, -0.4, 0.2, 2.0, 1.0, -3.0]), grid)
    matrix = motion.voxel_matrix(grid).astype(np.float32)
    turned, after, known = oriented((volume, matrix, np.float32(1)), orientation)
    (expected,) = oriented((moved(volume[None], matrix[None])[0],), orientation)
    assert known == 1 and not np.allclose(turned, volume)
    found = moved(np.ascontiguousarray(turned)[None], after[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_workers_divide_a_batch():
    settings = tiny(batch_size=4, steps=1)
    shards = ((0, 1), (0, 2), (1, 2))
    whole, *parts = (batches(Dataset([patient(0)], settings, shard)) for shard in shards)
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert same(batch, (np.concatenate(columns) for columns in zip(*pieces, strict=True)))


def test_validation_is_the_same_every_time():
    data = dataset([patient(0), patient(1)], batch_size=4)
    first, again = list(data.fixed(Pairs)), list(data.fixed(Pairs))
    assert [len(batch.known) for batch in first] == [4, 2]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert [len(batch.image) for batch in data.fixed(Singles)] == [4, 2]


def test_views_without_an_object_are_named():
    broken = patient(1)
    first, empty, last = broken.views
    mask = empty.mask.with_array(np.zeros_like(empty.mask.array))
    views = first, type(empty)(empty.volume, mask), last
    with pytest.raises(UserError, match="1 view.*patient 1, coronal"):
        dataset([patient(0), type(broken)(views, name="patient 1")])
    with pytest.raises(UserError, match="one examination at least"):
        Dataset([], tiny())


@pytest.fixture
def simulated(tmp_path):
    """A table of three simulated patients, the last one for testing."""
    masks = [tmp_path / f"ball{index}.nii.gz" for index in range(3)]
    for index, path in enumerate(masks):
        write_volume(ball(radius=12.0 + index), path)
    simulation = Simulation((6.0,), spacing=3.0, angle=20.0, shift=1.0)
    for plan in plan_cases(masks, None, tmp_path / "cases", test=0.34):
        assert make_case(plan, simulation)
    return write_table(tmp_path / "cases")


def test_simulated_cases_bring_their_true_transforms_along(simulated):
    train, test = gather(TrainingSettings(csv=simulated))
    assert (names(train), names(test)) == (["ball0", "ball1"], ["ball2"])
    case = PlacedExamination(train[0], tiny(spacing=3.0, **STILL))
    rows = case.pair(0, 2, rng(0))
    assert case.known and dice(rows[2] > 0.5, rows[3] > 0.5) > 0.75
    (simulated.parent / "ball0" / "true_sagittal_to_axial.tfm").unlink()
    assert true_transforms([view.path for view in train[0].views]) is None
    # All problems are listed at once.
    (simulated.parent / "ball0" / "axial_mask.nii.gz").unlink()
    (simulated.parent / "ball2" / "coronal.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"(?s)2 problem.*ball0.*ball2"):
        gather(TrainingSettings(csv=simulated))


def made_of(path, lines=None, **options):
    options = {"spacing": 3.0, "slices": 6.0, "repeats": 1, "shift": 2.0, **options}
    if lines:
        path /= "masks.csv"
        path.write_text("\n".join(lines) + "\n")
    return gather(TrainingSettings(synthetic_cases=path, **options))


def test_patients_are_made_of_masks(tmp_path):
    write_volume(ball(), tmp_path / "mask0.nii.gz")
    sitk.WriteImage(to_itk(ball()), str(tmp_path / "mask1.nhdr"))  # any format of images
    (tmp_path / "._mask0.nii.gz").write_bytes(b"of an archive")
    train, test = made_of(tmp_path, repeats=2, test_share=0.5)
    assert names(train + test) == ["mask0_1", "mask0_2", "mask1_1", "mask1_2"]
    assert len(test) == 2
    assert [view.thickness for view in train[0].views] == [6.0] * 3
    first, second = (item.views[0].volume.array for item in train)
    assert first.shape != second.shape or not np.array_equal(first, second)
    again, _ = made_of(tmp_path, repeats=2, test_share=0.5)
    assert np.array_equal(first, again[0].views[0].volume.array)
    train, test = made_of(tmp_path, ["mask,base", "mask0.nii.gz,Test", "mask1.nhdr,Train"])
    assert (names(train), names(test)) == (["mask1_1"], ["mask0_1"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["mask,picture", "a,b"], "expected the columns mask"),
        (["mask,base", "a.nii,Perhaps", ",Test"], "2 problem.*line 2.*line 3: has no mask"),
        (["mask", "none.nii.gz"], "1 problem.*none.nii.gz"),
        (["mask"], "names no mask"),
    ],
)
def test_bad_tables_of_masks_are_refused(lines, message, tmp_path):
    with pytest.raises(UserError, match=f"(?s){message}"):
        made_of(tmp_path, lines)


def test_a_painted_object_is_brighter_than_what_it_lies_in():
    mask = ball(spacing=(1.0, 1.0, 2.0))
    images = [paint(mask, rng(seed), 2.0) for seed in (0, 0, 1)]
    assert np.array_equal(images[0].array, images[1].array)
    assert not np.array_equal(images[0].array, images[2].array)
    assert images[0].spacing == (2.0,) * 3
    inside = sample(mask, images[0].grid) > 0.5
    shell = ndimage.binary_dilation(inside, iterations=2) & ~inside
    for image in images:
        core = image.array[ndimage.binary_erosion(inside)]
        assert core.mean() > image.array[shell].mean() + 0.1
        assert image.array[0, 0, 0] == 0 and image.array.min() >= 0
    with pytest.raises(UserError, match="mask is empty"):
        paint(mask.with_array(mask.array * 0), rng(0))


def test_painted_patients_of_one_anatomy_are_alike_but_not_the_same():
    def likeness(**options):
        generator = rng(0)
        images = [paint(ball(radius=10.0), generator, 2.0, **options).array for _ in range(2)]
        shape = np.minimum(*(image.shape for image in images))
        a, b = (image[tuple(map(slice, shape))] for image in images)
        tissue = (np.minimum(a, b) > 0.1) & (np.maximum(a, b) < 0.6)
        return np.corrcoef(a[tissue], b[tissue])[0, 1]

    assert likeness() < 0.3 and 0.5 < likeness(anatomy=7) < 0.95
