# SPDX-License-Identifier: MIT
"""The classical alignment finds known motions, and leaves alone what is aligned."""

import numpy as np
import pytest
from examinations import MOTION, acquire, apart, examination, same, stack_grid
from scipy import ndimage

from segsrgan.errors import UserError
from segsrgan.volumes import Grid, Volume, degrade, read_volume, resample
from supermask.geometry import Rigid, middle_of, sample, voxels_of
from supermask.registration import (
    Depth,
    Level,
    Pyramid,
    RegistrationSettings,
    correlation,
    register,
)
from supermask.views import View

QUICK = RegistrationSettings(angle=0, iterations=2)


def error_of(found, true=MOTION, points=None):
    """Degrees and mm between two transforms."""
    return (found.inverse() @ true).angle(), apart(found, true, points)


@pytest.fixture(scope="module")
def moved():
    return examination({"sagittal": MOTION}, planes=("axial", "sagittal"))


@pytest.fixture(scope="module")
def registered(moved):
    return register(*moved)


@pytest.mark.parametrize("on", ["auto", "image", "mask"])
def test_a_known_motion_is_found(moved, registered, on):
    found = registered if on == "auto" else register(*moved, RegistrationSettings(on=on))
    degrees, mm = error_of(found.transform)
    assert (degrees < 7 and mm < 1.7) if on == "mask" else (degrees < 1 and mm < 0.5)
    assert found.score > found.before
    if on == "mask":
        # An ellipsoid turns with little resistance: in slices of 6 mm the masks overlap less at
        # the true pose than where they are found. It is not the search that has failed.
        pyramid = Pyramid(*moved, on)
        level = pyramid.level(pyramid.spacings[-1], found.transform)
        assert level.judge(found.transform) > level.judge(MOTION)


def test_images_alone_suffice_and_the_same_input_gives_the_same_transform():
    views = examination({"sagittal": MOTION}, planes=("axial", "sagittal"), fine=3.0)
    first, second = (register(*(View(view.volume) for view in views)) for _ in range(2))
    degrees, mm = error_of(first.transform)
    assert degrees < 1 and mm < 1 and first == second


def test_a_view_aligned_with_itself_again_and_again_does_not_move():
    view, transform = acquire(stack_grid(fine=3.0)), Rigid()
    for _ in range(5):
        moved = View(view.volume.with_array(sample(view.volume, view.grid, transform)), view.mask)
        transform = transform @ register(view, moved, QUICK).transform
    assert apart(transform, Rigid()) < 0.1


def test_views_of_other_planes_that_are_aligned_hardly_move():
    first, second = examination(planes=("axial", "coronal"))
    degrees, mm = error_of(register(first, second).transform, Rigid())
    assert degrees < 1 and mm < 0.4  # of voxels of 2 x 2 x 6 mm


def test_refining_reaches_as_far_as_a_coarse_network_misses_and_never_ends_worse(moved, registered):
    start = MOTION @ Rigid((0.6, -0.3, 0.3), (4.0, -3.0, 5.0), MOTION.centre)
    assert error_of(start)[0] > 35
    found = register(*moved, start=start)
    # The masks' overlap has its best a little beside the truth.
    assert found.score > max(registered.score - 1e-4, found.before)
    degrees, mm = error_of(found.transform)
    assert degrees < 2.5 and mm < 0.6
    assert register(*moved, QUICK, found.transform).score >= found.score - 1e-6


def test_correlation_by_hand():
    assert correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 1], [3, 2, 1]) == 0
    assert correlation([1e-9, 2e-9, 3e-9], [1, 2, 3]) == pytest.approx(1)
    assert correlation([1e4, 1e4 + 1e-4, 1e4], [3, 2, 1]) == 0


@pytest.mark.parametrize("masked", [True, False])
def test_the_object_of_the_fixed_view_is_turned_about(moved, masked):
    fixed, moving = moved
    off = fixed.mask.with_array(np.roll(fixed.mask.array, 4, axis=0))
    pyramid = Pyramid(View(fixed.volume, off if masked else None), View(moving.volume), "auto")
    middle = voxels_of(off).mean(axis=0) if masked else middle_of(fixed.grid)
    np.testing.assert_allclose(pyramid.centre, middle)


def test_objects_between_the_voxels_of_a_level_are_no_failure(moved):
    tiny = []
    for view in moved:
        mask = np.zeros_like(view.mask.array)
        mask[tuple(np.array(mask.shape) // 2)] = 1
        tiny.append(View(view.volume, view.mask.with_array(mask)))
    assert np.isfinite(register(*tiny, QUICK).score)
    grid = Grid((4, 4, 4))
    image = Volume.from_grid(np.arange(64, dtype=np.float32).reshape(4, 4, 4), grid)
    region, nothing = (image.with_array(np.full_like(image.array, k)) for k in (1, 0))
    level = Level(1.0, region, {"image": (image, image)}, (nothing, nothing))
    assert level.judge(Rigid()) == pytest.approx(1)


def test_views_that_cannot_be_compared_stay_where_they_are_and_are_named(moved, caplog):
    volume = moved[1].volume
    part = View(Volume(volume.array[:3], volume.spacing, volume.origin), path="part.nii")
    found = register(View(moved[0].volume), part, QUICK)
    assert same(found.transform, Rigid()) and found.score == -1
    assert "part.nii: too little of one lies in the field of view of the other" in caplog.text


def test_masks_are_needed_where_they_are_asked_for(moved):
    with pytest.raises(UserError, match="expected masks of both"):
        register(moved[0], View(moved[1].volume), RegistrationSettings(on="mask"))


def test_the_depth_is_the_distance_to_the_surface_everywhere():
    mask = np.zeros((9, 8, 7), np.float32)
    mask[3:6, 3:5, 2:5] = 1
    volume = Volume(mask, (1, 1, 2))
    view = View(volume.with_array(np.arange(mask.size).reshape(mask.shape)), volume)
    depth = Depth(view)
    inside = ndimage.distance_transform_edt(mask, sampling=(1, 1, 2))
    outside = ndimage.distance_transform_edt(1 - mask, sampling=(1, 1, 2))
    expected = np.maximum(inside - outside, -2 * inside.max())
    np.testing.assert_allclose(depth.on(view.grid), expected, atol=1e-5)
    # Far away, also where the mask says nothing, is as far as it goes.
    far = Grid((2, 2, 2), (1, 1, 1), (40, 0, 0))
    np.testing.assert_allclose(depth.on(far), -2 * inside.max(), atol=1e-5)
    full = View(view.volume, view.mask.with_array(np.ones_like(mask)))
    np.testing.assert_allclose(Depth(full).on(view.grid), 2)


def test_the_right_pose_is_judged_best_and_a_fraction_of_the_voxels_judges_as_all_do(moved):
    every, some, again = (Pyramid(*moved, samples=n).level(2.0) for n in (10**5, 200, 200))
    assert np.count_nonzero(every.region.array) > 5000  # of which 2000 are judged
    assert every.judge(MOTION) > every.judge(Rigid((0, 0, 0.3)) @ MOTION) + 0.02
    assert every.judge(Rigid(translation=(500, 0, 0))) == -1
    for pose in (Rigid(), MOTION):
        assert some.judge(pose) == pytest.approx(every.judge(pose), abs=0.03)
    assert some.judge(MOTION) == again.judge(MOTION) != every.judge(MOTION)


@pytest.fixture(params=["fetal", "adult"])
def brain(request):
    """The scan of a brain, the edge of its voxels 3 or 4 mm."""
    if request.param == "fetal":
        folder = request.getfixturevalue("data_dir") / "fetal_templates"
        return resample(read_volume(folder / "GA28_operated_T2w.nii.gz"), 3.0)
    datasets = pytest.importorskip("nilearn.datasets")
    array = datasets.load_mni152_template(resolution=2).get_fdata(dtype="float32")
    return resample(Volume(array, (2.0, 2.0, 2.0)), 4.0)


def test_a_motion_of_a_real_volume_is_found(brain):
    fine, middle = brain.spacing[0], tuple(middle_of(brain.grid))
    true = Rigid(np.deg2rad((20, -25, 30)), (12, -9, 15), middle)
    moved = Volume.from_grid(sample(brain, brain.grid, true.inverse(), order=3), brain.grid)
    axial = View(degrade(brain, (fine, fine, 3 * fine)))
    sagittal = View(degrade(moved, (3 * fine, fine, fine)))
    found = register(axial, sagittal, RegistrationSettings(samples=20_000)).transform
    points = voxels_of(brain.with_array(brain.array / brain.array.max()), 0.1)
    degrees, mm = error_of(found, true, points)
    assert degrees < 1 and mm < 1
