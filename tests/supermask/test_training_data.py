# SPDX-License-Identifier: MIT
"""What a training of SuperMask sees: poses, pairs, turns, files, painted images."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from patients import augmentation, patient

from segsrgan.errors import UserError
from segsrgan.networks.spatial import SpatialTransformer3D
from segsrgan.volumes import Grid, Volume, dice, write_volume
from supermask.geometry import ORIENTATIONS, Rigid
from supermask.simulation import Simulation, make_case, plan_cases, write_table
from supermask.training import paint
from supermask.training.dataset import Dataset, Pairs, Singles
from supermask.training.examinations import gather, true_transforms
from supermask.training.poses import PlacedExamination, oriented
from supermask.training.settings import TrainingSettings


def both(epoch):
    return [Singles, Pairs]


def ball(shape=(24, 24, 24), spacing=(2.0, 2.0, 2.0), radius=14.0):
    grid = Volume(np.zeros(shape, np.float32), spacing).grid
    points = grid.index_to_physical(np.moveaxis(np.indices(shape), 0, -1))
    middle = points.reshape(-1, 3).mean(axis=0)
    stretched = (points - middle) * (1, 1.4, 1)
    return Volume((np.linalg.norm(stretched, axis=-1) < radius).astype(np.uint8), spacing)


def batches(dataset, first=0, epochs=range(1, 2)):
    return list(dataset.stream(epochs, both, first))


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_true_motion_brings_the_moving_view_onto_the_fixed_one():
    case = PlacedExamination.of(patient(fine=4.0, thick=4.0), augmentation())
    rows = []
    for seed, (fixed, moving) in enumerate(itertools.permutations(range(3), 2)):
        rng = np.random.default_rng(seed)
        rows.append(case.pair(fixed, moving, augmentation(), rng))
    image_i, image_j, mask_i, mask_j, matrix, known = map(np.stack, zip(*rows, strict=True))
    move = SpatialTransformer3D()
    moved = np.asarray(move([mask_i[..., None], matrix]))[..., 0]
    after = [dice(a >= 0.5, b > 0.5) for a, b in zip(moved, mask_j, strict=True)]
    before = [dice(a > 0.5, b > 0.5) for a, b in zip(mask_i, mask_j, strict=True)]
    assert min(after) > 0.87 and np.mean(before) < 0.8
    images = np.asarray(move([image_i[..., None], matrix]))[..., 0]
    middle = (slice(None), *(slice(4, 12),) * 3)
    assert np.corrcoef(images[middle].ravel(), image_j[middle].ravel())[0, 1] > 0.95
    assert known.tolist() == [1.0] * 6


def test_where_the_patients_motion_is_not_known_the_middles_lie_on_each_other():
    still = augmentation(rotation=0.0, shift=0.0)
    case = PlacedExamination.of(patient(known=False), still)
    *_, mask_i, mask_j, matrix, known = case.pair(0, 1, still, np.random.default_rng(0))
    assert known == 0
    np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-6)
    middles = [np.argwhere(mask > 0.5).mean(axis=0) for mask in (mask_i, mask_j)]
    np.testing.assert_allclose(*middles, atol=0.5)


def test_contrast_and_noise_change_images_and_nothing_else():
    plain = PlacedExamination.of(patient(), augmentation())
    image, mask = plain.single(0, augmentation(), np.random.default_rng(3))
    other, other_mask = plain.single(
        0, augmentation(contrast=0.5, noise=0.05), np.random.default_rng(3)
    )
    assert np.array_equal(mask, other_mask)
    assert np.abs(image - other).max() > 0.05 and 0 <= other.min() and other.max() <= 1


def test_every_view_has_its_turn_once_in_an_epoch():
    dataset = Dataset([patient(0), patient(1, planes=("axial",))], augmentation(), 1)
    assert dataset.cycles(1) == 4
    assert sorted(dataset._turn(Singles, 5, cycle)[0] for cycle in range(4)) == dataset.singles
    assert sorted(dataset._turn(Pairs, 5, cycle)[0] for cycle in range(3)) == [
        (0, 0),
        (0, 1),
        (0, 2),
    ]
    turns = {tuple(dataset._turn(Singles, e, c)[0] for c in range(4)) for e in range(1, 9)}
    assert len(turns) > 1


def test_an_epoch_may_be_entered_anywhere_and_another_seed_is_another_epoch():
    cases = [patient(0)]
    dataset = Dataset(cases, augmentation(), 2, seed=1, steps=3)
    whole = batches(dataset)
    assert [type(batch) for batch in whole] == [Singles, Pairs] * 3
    rest = batches(Dataset(cases, augmentation(), 2, seed=1, steps=3), first=1)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    other = batches(Dataset(cases, augmentation(), 2, seed=2, steps=3))
    assert not same(whole[0], other[0])
    assert whole[0].image.shape == (2, 16, 16, 16, 1) and whole[1].matrix.shape == (2, 3, 4)


def test_what_was_drawn_is_seen_in_several_orientations():
    cases = [patient(0)]
    dataset = Dataset(cases, augmentation(), 2, seed=1, steps=4, orientations=2)
    assert Dataset(cases, augmentation(), 2, orientations=3).cycles(1) == 6
    whole = batches(dataset)
    first, again, other = (batch.fixed for batch in whole[1:6:2])
    assert not np.array_equal(first, again)
    assert np.array_equal(*(np.sort(x.reshape(2, -1)) for x in (first, again)))
    assert not np.array_equal(*(np.sort(x.reshape(2, -1)) for x in (first, other)))
    rest = Dataset(cases, augmentation(), 2, seed=1, steps=4, orientations=2)
    assert all(same(a, b) for a, b in zip(whole[2:], batches(rest, first=1), strict=True))


@pytest.mark.parametrize("orientation", ORIENTATIONS[5::7])
def test_in_another_orientation_the_motion_is_still_the_true_one(orientation):
    volume = np.random.default_rng(0).random((12, 12, 12), np.float32)
    grid = Grid((12, 12, 12), (2.0,) * 3, (0.0,) * 3)
    motion = Rigid.in_grid(np.array([0.3, -0.4, 0.2, 2.0, 1.0, -3.0]), grid)
    matrix = motion.voxel_matrix(grid).astype(np.float32)

    def moved(volume, matrix):
        return np.asarray(SpatialTransformer3D()([volume[None, ..., None], matrix[None]]))[
            0, ..., 0
        ]

    turned, after, known = oriented((volume, matrix, np.float32(1)), orientation)
    (expected,) = oriented((moved(volume, matrix),), orientation)
    assert known == 1 and not np.allclose(turned, volume)
    np.testing.assert_allclose(moved(np.ascontiguousarray(turned), after), expected, atol=1e-4)


def test_workers_share_a_batch():
    cases = [patient(0)]
    whole = batches(Dataset(cases, augmentation(), 4, steps=1))
    parts = [
        batches(Dataset(cases, augmentation(), 4, steps=1, shard=(index, 2))) for index in range(2)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        joined = (np.concatenate(columns) for columns in zip(*shares, strict=True))
        assert same(batch, joined)


def test_validation_is_the_same_every_time():
    dataset = Dataset([patient(0), patient(1)], augmentation(), 4)
    first, again = list(dataset.fixed_pairs()), list(dataset.fixed_pairs())
    assert [len(batch.known) for batch in first] == [4, 2]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert [len(batch.image) for batch in dataset.fixed_singles()] == [4, 2]


def test_views_without_an_object_are_named():
    whole, broken = patient(0), patient(1)
    empty = broken.views[1]
    mask = empty.mask.with_array(np.zeros_like(empty.mask.array))
    views = (broken.views[0], type(empty)(empty.volume, mask), broken.views[2])
    with pytest.raises(UserError, match="1 view.*patient 1, coronal"):
        Dataset([whole, type(broken)(views, name="patient 1")], augmentation(), 2)
    with pytest.raises(UserError, match="one examination at least"):
        Dataset([], augmentation(), 2)


@pytest.fixture
def simulated(tmp_path):
    """A table of three simulated patients, the last one for testing."""
    masks = []
    for index in range(3):
        masks.append(tmp_path / f"ball{index}.nii.gz")
        write_volume(ball(radius=12.0 + index), masks[-1])
    simulation = Simulation((6.0,), spacing=3.0, angle=20.0, shift=1.0)
    plans = plan_cases(masks, None, tmp_path / "cases", test=0.34)
    for plan in plans:
        assert make_case(plan, simulation)
    return write_table(tmp_path / "cases")


def test_simulated_cases_bring_their_true_transforms_along(simulated):
    train, test = gather(TrainingSettings(csv=simulated))
    assert [item.name for item in train] == ["ball0", "ball1"]
    assert [item.name for item in test] == ["ball2"]
    case = PlacedExamination.of(train[0], augmentation(spacing=3.0, rotation=0, shift=0))
    assert case.known
    rows = case.pair(0, 2, augmentation(spacing=3.0, rotation=0, shift=0), np.random.default_rng(0))
    assert dice(rows[2] > 0.5, rows[3] > 0.5) > 0.75
    (simulated.parent / "ball0" / "true_sagittal_to_axial.tfm").unlink()
    assert true_transforms([view.path for view in train[0].views]) is None


def test_all_problems_of_a_table_are_told_at_once(simulated):
    (simulated.parent / "ball0" / "axial_mask.nii.gz").unlink()
    (simulated.parent / "ball2" / "coronal.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"(?s)2 problem.*ball0.*ball2"):
        gather(TrainingSettings(csv=simulated))


def synthetic(folder, lines):
    path = folder / "masks.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_patients_are_made_of_masks(tmp_path):
    for index in range(2):
        write_volume(ball(), tmp_path / f"mask{index}.nii.gz")
    (tmp_path / "._mask0.nii.gz").write_bytes(b"of an archive")
    options = {"spacing": 3.0, "slices": 6.0, "repeats": 2, "test_share": 0.5, "shift": 2.0}
    train, test = gather(TrainingSettings(synthetic_cases=tmp_path, **options))
    assert [item.name for item in train] == ["mask0_1", "mask0_2"]
    assert [item.name for item in test] == ["mask1_1", "mask1_2"]
    assert [view.thickness for view in train[0].views] == [6.0] * 3
    first, second = (item.views[0].volume.array for item in train)
    assert first.shape != second.shape or not np.array_equal(first, second)
    again, _ = gather(TrainingSettings(synthetic_cases=tmp_path, **options))
    assert np.array_equal(first, again[0].views[0].volume.array)

    path = synthetic(tmp_path, ["mask,base", "mask0.nii.gz,Test", "mask1.nii.gz,Train"])
    train, test = gather(TrainingSettings(synthetic_cases=path, **{**options, "repeats": 1}))
    assert [item.name for item in train + test] == ["mask1_1", "mask0_1"]


@pytest.mark.parametrize("name", ["mask.nhdr", "mask.hdr"])
def test_masks_of_any_format_are_found_in_a_folder(tmp_path, name):
    image = sitk.GetImageFromArray(ball().array.T.copy())
    image.SetSpacing(ball().spacing)
    sitk.WriteImage(image, str(tmp_path / name))
    settings = TrainingSettings(synthetic_cases=tmp_path, repeats=1, spacing=2.0, test_share=0)
    train, _ = gather(settings)
    assert [examination.name for examination in train] == ["mask_1"]


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
    path = synthetic(tmp_path, lines)
    with pytest.raises(UserError, match=f"(?s){message}"):
        gather(TrainingSettings(synthetic_cases=path))


def test_a_painted_object_is_brighter_than_what_it_lies_in():
    mask = ball(spacing=(1.0, 1.0, 2.0))
    images = [paint(mask, np.random.default_rng(seed), 2.0) for seed in (0, 0, 1)]
    assert np.array_equal(images[0].array, images[1].array)
    assert not np.array_equal(images[0].array, images[2].array)
    assert images[0].spacing == (2.0,) * 3
    from scipy import ndimage

    from supermask.geometry import sample

    inside = sample(mask.with_array(mask.array.astype(np.float32)), images[0].grid) > 0.5
    shell = ndimage.binary_dilation(inside, iterations=2) & ~inside
    core = ndimage.binary_erosion(inside)
    for image in images:
        assert image.array[core].mean() > image.array[shell].mean() + 0.1
        assert image.array[0, 0, 0] == 0 and image.array.min() >= 0
    with pytest.raises(UserError, match="mask is empty"):
        paint(mask.with_array(mask.array * 0), np.random.default_rng(0))


def test_painted_patients_of_one_anatomy_are_alike_but_not_the_same():
    def alike(first, second):
        shape = np.minimum(first.array.shape, second.array.shape)
        a, b = (x.array[tuple(map(slice, shape))] for x in (first, second))
        tissue = (np.minimum(a, b) > 0.1) & (np.maximum(a, b) < 0.6)
        return np.corrcoef(a[tissue], b[tissue])[0, 1]

    mask, rng = ball(radius=10.0), np.random.default_rng(0)
    strangers = [paint(mask, rng, 2.0) for _ in range(2)]
    patients = [paint(mask, rng, 2.0, anatomy=7) for _ in range(2)]
    assert alike(*strangers) < 0.3 and 0.5 < alike(*patients) < 0.95


def test_poses_and_motions_have_bounds_of_their_own():
    quiet = augmentation(rotation=20.0, pose=0.0, shift=0.0)
    case = PlacedExamination.of(patient(), quiet)
    rng = np.random.default_rng(0)
    assert same(case.single(0, quiet, rng), case.single(0, quiet, rng, still=True))
    grid = case.views[0].grid
    angles = np.array([quiet.motion(grid, rng).angles for _ in range(50)])
    assert 15 < np.rad2deg(np.abs(angles)).max() < 40
    wide = augmentation(rotation=0.0, pose=90.0)
    assert wide.motion(grid, rng).angle() < 1e-6
    assert max(wide.placement(grid, rng).angle() for _ in range(20)) > 60
