# SPDX-License-Identifier: MIT
"""The classical alignment finds known motions, and leaves alone what is aligned."""

import numpy as np
import pytest
from examinations import MOTION, acquire, examination, object_points, stack_grid

from segsrgan.volumes import Volume, degrade, read_volume, resample
from supermask.errors import SupermaskError
from supermask.geometry import sample, voxels_of
from supermask.pyramid import Pyramid, correlation
from supermask.registration import Classical, refine, register
from supermask.rigid import Rigid, middle_of
from supermask.views import View


def error_of(found, true, points):
    """Degrees and mm between two transforms."""
    return (found.inverse() @ true).angle(), found.distance(true, points)


@pytest.fixture(scope="module")
def moved():
    return examination({"sagittal": MOTION}, planes=("axial", "sagittal"))


@pytest.mark.parametrize("on", ["auto", "image", "mask"])
def test_a_known_motion_is_found(moved, on):
    found = register(*moved, Classical(on=on))
    degrees, mm = error_of(found.transform, MOTION, object_points())
    # An ellipsoid turns with little resistance: in slices of 6 mm the true pose of its mask has a
    # smaller overlap than others.
    assert (degrees < 7 and mm < 1.7) if on == "mask" else (degrees < 1 and mm < 0.5)
    assert found.score > found.before


def test_the_same_input_gives_the_same_transform(moved):
    quick = Classical(angle=0, iterations=2)
    first, second = (register(*moved, quick).transform for _ in range(2))
    assert first == second


def test_images_alone_suffice(moved):
    bare = [View(view.volume) for view in moved]
    degrees, mm = error_of(register(*bare).transform, MOTION, object_points())
    assert degrees < 1 and mm < 1


def test_a_view_aligned_with_itself_again_and_again_does_not_move():
    view = acquire(stack_grid())
    points, transform = object_points(), Rigid()
    for _ in range(10):
        moved = View(view.volume.with_array(sample(view.volume, view.grid, transform)), view.mask)
        transform = transform @ register(view, moved, Classical(angle=0, iterations=3)).transform
    assert transform.distance(Rigid(), points) < 0.1


def test_views_of_other_planes_that_are_aligned_hardly_move():
    first, second = examination(planes=("axial", "coronal"))
    found = register(first, second)
    degrees, mm = error_of(found.transform, Rigid(), object_points())
    assert degrees < 1 and mm < 0.4  # of voxels of 2 x 2 x 6 mm


def test_refining_ends_nearer_and_never_worse(moved):
    near = Rigid(tuple(np.array(MOTION.angles) + 0.06), MOTION.translation, MOTION.centre)
    found = refine(*moved, near)
    before, after = (error_of(item, MOTION, object_points()) for item in (near, found.transform))
    assert after[0] < before[0] / 3 and found.score > found.before
    again = refine(*moved, found.transform)
    assert again.score >= found.score - 1e-6


def test_the_judgement_knows_the_right_pose(moved):
    pyramid = Pyramid(*moved)
    assert pyramid.spacings[0] > pyramid.spacings[-1] >= 2
    level = pyramid.level(pyramid.spacings[-1])
    wrong = Rigid((0, 0, 0.3)) @ MOTION
    assert level.judge(MOTION) > level.judge(wrong) + 0.02
    assert level.judge(Rigid(translation=(500, 0, 0))) == -1


def test_correlation_by_hand():
    assert correlation([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 1], [3, 2, 1]) == 0


def test_masks_are_needed_where_they_are_asked_for(moved):
    with pytest.raises(SupermaskError, match="expected masks of both"):
        register(moved[0], View(moved[1].volume), Classical(on="mask"))


@pytest.mark.parametrize(
    "change", [{"on": "both"}, {"angle": 90}, {"iterations": 0}, {"samples": 10}]
)
def test_settings_are_checked(change):
    with pytest.raises(SupermaskError, match="received"):
        Classical(**change)


def test_a_motion_of_a_real_volume_is_found(data_dir):
    path = data_dir / "fetal_templates" / "GA28_operated_T2w.nii.gz"
    volume = resample(read_volume(path), 1.6)
    true = Rigid(np.deg2rad((20, -25, 30)), (12, -9, 15), tuple(middle_of(volume.grid)))
    moved = Volume.from_grid(sample(volume, volume.grid, true.inverse(), order=3), volume.grid)
    axial = View(degrade(volume, (1.6, 1.6, 4.8)))
    sagittal = View(degrade(moved, (4.8, 1.6, 1.6)))
    found = register(axial, sagittal).transform
    brain = voxels_of(volume.with_array(volume.array / volume.array.max()), 0.1)
    degrees, mm = error_of(found, true, brain)
    assert degrees < 1 and mm < 1
