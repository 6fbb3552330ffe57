# SPDX-License-Identifier: MIT
"""From the views of a patient to one mask: laws, and what is wrong with views."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from examinations import (
    MOTION,
    acquire,
    apart,
    examination,
    intensity,
    object_points,
    points_of,
    reordered,
    same,
    stack_grid,
    truth_on,
)

from segsrgan.errors import UserError
from segsrgan.volumes import Volume, dice
from supermask.geometry import Rigid, sample
from supermask.networks import (
    AlignNetSpec,
    Networks,
    SegmentorSpec,
    align_by_network,
    without_islands,
)
from supermask.prediction import predict_views
from supermask.settings import FUSIONS, PredictionSettings
from supermask.views import View

ALIGNED, CLASSICAL = (PredictionSettings(alignment=name) for name in ("none", "classical"))


def stored(view, order, flips):
    """The same view, its voxels in another order and direction."""
    return View(*(reordered(volume, order, flips) for volume in (view.volume, view.mask)))


def turned(view, motion):
    """The same view of a patient and scanner that were turned together."""
    origin, direction = motion.apply(view.grid.origin), motion.rotation @ view.grid.direction
    volumes = view.volume, view.mask
    return View(*(Volume(v.array, v.spacing, origin, direction) for v in volumes))


def bare(views):
    """The views without their masks."""
    return [View(view.volume) for view in views]


def shuffled(volume):
    return volume.with_array(np.random.default_rng(0).permuted(volume.array))


def masked(view, array):
    """The view with another mask."""
    return View(view.volume, view.mask.with_array(array))


def score(result):
    return dice(result.mask.array, truth_on(result.mask.grid))


@pytest.fixture(scope="module")
def views():
    return examination()


@pytest.fixture(scope="module")
def moved():
    return examination({"sagittal": MOTION}, planes=("axial", "sagittal"), fine=3.0)


@pytest.fixture(scope="module")
def result(views):
    return predict_views(views, ALIGNED)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_three_views_beat_two_and_two_beat_one(views, fusion):
    settings = replace(ALIGNED, fusion=fusion)
    scores = [score(predict_views(views[:count], settings)) for count in (1, 2, 3)]
    assert scores[0] + 0.01 < scores[1] < scores[2] and scores[2] > 0.95


def test_the_result_has_all_its_parts(result):
    names = ["axial", "coronal", "sagittal"]
    assert result.mask.spacing == (2.0, 2.0, 2.0) and set(np.unique(result.mask.array)) == {0, 1}
    np.testing.assert_array_equal(result.mask.array, result.probability.array >= 0.5)
    assert [view.name for view in result.views] == names
    assert all(view.mask.array.shape == result.mask.array.shape for view in result.views)
    pairs = [(item.first, item.second) for item in result.agreements]
    assert pairs == list(itertools.combinations(names, 2))
    assert min(item.dice for item in result.agreements) > 0.85
    assert result.lost == result.warnings == ()


def test_the_result_is_in_the_space_of_the_reference(views):
    stacks = [View(replace(views[0].volume, space=4), views[0].mask), *views[1:]]
    found = predict_views(stacks, ALIGNED)
    assert (found.mask.space, found.image.space, found.views[1].mask.space) == (4, 4, 4)


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), (True, False, True)), ((2, 0, 1), (False, True, False))]
)
def test_however_voxels_are_stored_the_mask_is_the_same(views, result, order, flips):
    found = predict_views([stored(view, order, flips) for view in views], ALIGNED)
    assert found.mask.grid.is_close(result.mask.grid, 1e-6)
    np.testing.assert_allclose(found.probability.array, result.probability.array, atol=1e-4)
    np.testing.assert_allclose(found.image.array, result.image.array, atol=1e-2)


def test_the_order_of_the_views_does_not_matter(views, result):
    found = predict_views([views[2], views[0], views[1]], ALIGNED)
    np.testing.assert_array_equal(found.mask.array, result.mask.array)


@pytest.mark.parametrize("degrees", [25, 70])
def test_oblique_headers_give_the_same_mask_in_patient_space(views, result, degrees):
    motion = Rigid(np.deg2rad((degrees, 10, -degrees)), (30, -20, 10))
    found = predict_views([turned(view, motion) for view in views], ALIGNED)
    # Asked at the places of the first result, moved along; beyond 45 degrees axes change roles.
    there = sample(found.probability, result.mask.grid, motion)
    assert dice(there >= 0.5, result.mask.array) > (0.999 if degrees < 45 else 0.985)


def test_moved_views_of_any_header_are_brought_together_alike(moved):
    turn = Rigid(np.deg2rad((25, 10, -25)), (30, -20, 10))
    changed = [
        stored(turned(moved[0], turn), (0, 1, 2), (True, False, False)),  # left-handed
        stored(turned(moved[1], turn), (2, 0, 1), (False, True, True)),
    ]
    found = predict_views(changed, CLASSICAL).views[1].transform
    true = turn @ MOTION @ turn.inverse()
    assert apart(found, true, turn.apply(object_points())) < 1


def test_moved_views_are_brought_together():
    views = examination({"sagittal": MOTION})
    before, after = (predict_views(views, settings) for settings in (ALIGNED, CLASSICAL))
    assert after.agreements[1].dice > before.agreements[1].dice + 0.1
    assert score(after) > score(before) + 0.03 and score(after) > 0.94
    assert apart(after.views[2].transform, MOTION) < 1


def test_the_reference_gives_the_pose(moved):
    found = predict_views(moved, replace(CLASSICAL, reference="sagittal"))
    assert found.reference == "sagittal"
    assert apart(found.views[1].transform.inverse(), MOTION) < 1


def test_the_fused_image_is_nearer_to_the_truth_than_one_view(views, result):
    grid = result.image.grid
    truth = intensity(points_of(grid))
    errors = [
        np.abs(sample(image, grid) - truth)[truth_on(grid)].mean()
        for image in (views[0].volume, predict_views(views[:1], ALIGNED).image, result.image)
    ]
    assert errors[2] < 0.8 * min(errors[:2])
    strange = [view.volume.array.copy() for view in views]
    for array in strange:
        array[:3], array[5, 5, 5] = -32768, 1e6  # padding, a hot voxel
    strange = [View(v.volume.with_array(a), v.mask) for v, a in zip(views, strange, strict=True)]
    found = predict_views(strange, ALIGNED).image.array
    assert np.abs(found - result.image.array)[truth_on(grid)].mean() < 2.5
    vast = [View(v.volume.with_array(v.volume.array * np.float32(1e27)), v.mask) for v in views]
    found = predict_views(vast, ALIGNED).image.array / 1e27
    np.testing.assert_allclose(found, result.image.array, rtol=1e-3, atol=0.1)


class Thresholding:
    """A segmentor that sees what is bright, and counts its calls."""

    spec, calls = SegmentorSpec(kernel=1, levels=2, spacing=2.0), 0

    def predict_on_batch(self, batch):
        self.calls += 1
        return (batch > 0.4).astype(np.float32)


class Knowing:
    """An AlignNet that always gives the same answer."""

    spec = AlignNetSpec(size=32, spacing=2.5, kernels=(2, 2), antisymmetric=False)

    def __init__(self, parameters):
        self.parameters = np.array(parameters, np.float32)

    def predict_on_batch(self, batches):
        assert all(batch.shape == (1, 32, 32, 32, 1) for batch in batches)
        return self.parameters[None]


@pytest.mark.parametrize(("order", "calls"), [("align", 4), ("segment", 2)])
def test_missing_masks_are_made_by_the_segmentor_alike_in_patches_of_any_size(views, order, calls):
    networks, mixed = Networks(segmentor=Thresholding()), [views[0], *bare(views[1:])]
    found = predict_views(mixed, replace(ALIGNED, order=order), networks)
    assert score(found) > 0.85 and not found.lost
    assert networks.segmentor.calls == calls
    patches = predict_views(mixed, replace(ALIGNED, order=order, patch=20), networks)
    assert networks.segmentor.calls > 2 * calls
    np.testing.assert_allclose(patches.probability.array, found.probability.array, atol=1e-6)


@pytest.mark.parametrize("order", ["align", "segment"])
def test_islands_far_from_the_object_do_not_say_where_it_is(views, order):
    def island(view):
        array = view.volume.array.copy()
        array[:2, :2, :2] = array.max()
        return View(view.volume.with_array(array))

    wrong = [island(view) for view in views]
    networks = Networks(Thresholding(), Knowing(np.zeros(6)))
    settings = PredictionSettings(refine=False, order=order)
    expected, found = (predict_views(v, settings, networks) for v in (bare(views), wrong))
    assert found.mask.grid.is_close(expected.mask.grid, 0.5)
    for one, other in zip(found.views, expected.views, strict=True):
        assert apart(one.transform, other.transform) < 0.2
    assert score(found) > score(expected) - 0.01


def test_parts_of_an_object_are_no_islands():
    view = acquire(stack_grid())
    array = np.zeros_like(view.mask.array)
    array[4:10, 4:10, 2:5], array[20:24, 20:23, 5:7], array[30, 30, 9] = 0.7, 0.9, 1
    kept = without_islands(masked(view, array)).mask.array
    array[30, 30, 9] = 0
    np.testing.assert_array_equal(kept, array)


def test_masks_that_are_given_decide_how_fine_the_result_is():
    networks = Networks(segmentor=Thresholding())  # of 2 mm
    first, second = examination(fine=1.5, planes=("axial", "coronal"))
    for view, spacing in ((second, 1.5), (View(second.volume), 2.0)):
        assert predict_views([first, view], ALIGNED, networks).mask.spacing == (spacing,) * 3


def test_an_object_that_is_nowhere_is_an_empty_mask_and_a_warning(views):
    networks = Networks(segmentor=Thresholding())
    networks.segmentor.predict_on_batch = np.zeros_like
    found = predict_views(bare(views), ALIGNED, networks)
    assert not found.mask.array.any()
    assert any("the object is seen in no view" in text for text in found.warnings)


def test_passes_of_alignnet_are_composed_and_begin_at_the_middles_of_masks(views):
    network, pair = Knowing((0.1, -0.05, 0.2, 1, 2, -3)), bare(views[::2])
    once, thrice = (align_by_network(network, *pair, passes) for passes in (1, 3))
    assert once.angle() > 10 and same(thrice, once @ once @ once, 1e-9)
    moved = acquire(stack_grid("coronal"), Rigid(translation=(9, -6, 4)))
    found = align_by_network(Knowing(np.zeros(6)), views[0], moved)
    np.testing.assert_allclose(found.translation, (9, -6, 4), atol=1)


def test_alignnets_answer_is_refined_unless_that_is_unwanted(moved):
    near = Rigid(tuple(np.array(MOTION.angles) + 0.05), (0, 0, 0), MOTION.centre)
    networks = Networks(alignnet=Knowing([*near.angles, 0, 0, 0]))
    settings = [PredictionSettings(refine=refine) for refine in (False, None)]
    found = [predict_views(moved, item, networks).views[1].transform for item in settings]
    errors = [apart(transform, MOTION) for transform in found]
    assert errors[1] < 1 and errors[1] < errors[0] / 2


def test_stacks_may_be_super_resolved_first(views, result):
    asked = []

    def super_resolved(volume, patch, new_resolution):
        asked.append((patch, new_resolution))
        grid = volume.grid.corner_aligned(new_resolution)
        return SimpleNamespace(sr=Volume.from_grid(sample(volume, grid, order=3), grid))

    sharpener = SimpleNamespace(predict=super_resolved)
    found = predict_views(views, replace(ALIGNED, patch=32), None, sharpener)
    assert asked == [(32, 2.0)] * 3
    # What was acquired is known still: the confidences, and so the mask, are the same.
    assert score(found) == pytest.approx(score(result), abs=1e-6)


def test_a_view_without_a_mask_or_with_an_empty_one_is_named_as_lost(views):
    empty = masked(views[2], np.zeros_like(views[2].mask.array))
    for third, what in ((bare(views)[2], "has no mask"), (empty, "its mask is empty")):
        found = predict_views([*views[:2], replace(third, path="s.nii")], ALIGNED)
        assert found.lost == (f"s.nii: {what}; it is left out, and its detail with it",)
        assert [view.name for view in found.views] == ["axial", "coronal"]


def test_without_any_mask_there_is_no_result(views):
    with pytest.raises(UserError, match="none have masks; give masks of the object, or wei"):
        predict_views(bare(views), ALIGNED)
    empty = [masked(view, np.zeros_like(view.mask.array)) for view in views]
    with pytest.raises(UserError, match="none have masks with voxels"):
        predict_views(empty, ALIGNED)
    with pytest.raises(UserError, match="received none"):
        predict_views([], ALIGNED)


@pytest.mark.parametrize(
    ("change", "settings", "warning"),
    [
        (lambda views: views[1:2], {}, "is the only view; between its slices nothing is known"),
        (list, {"size": 16}, "lie beyond the result of 16 voxels of 2 mm and are cut off"),
        # More than two views are sure of.
        (lambda views: views[:2], {"least": 2.5}, "nowhere enough of them: the mask is empty"),
        (
            lambda views: [views[0], masked(views[2], np.roll(views[2].mask.array, 10, axis=1))],
            {},
            "axial and sagittal agree badly once they are aligned",
        ),
        (
            lambda views: [views[0], View(shuffled(views[2].volume), views[2].mask)],
            {},
            "their images hardly resemble each other",
        ),
        (lambda views: [views[0], views[0]], {}, "along that axis the result is as coarse"),
    ],
)
def test_what_is_doubtful_is_pointed_out(views, change, settings, warning):
    found = predict_views(change(views), replace(ALIGNED, **settings))
    assert any(warning in text for text in found.warnings)
    if "least" in settings:
        assert not found.mask.array.any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_a_threshold_says_what_a_view_votes_for_not_how_many_it_takes(views, threshold):
    found = predict_views(views, replace(ALIGNED, fusion="vote", threshold=threshold))
    votes = sum(view.mask.array for view in found.views)
    np.testing.assert_array_equal(found.mask.array, votes >= 2)


def test_a_result_beyond_all_memory_is_refused(views, monkeypatch):
    with pytest.raises(UserError, match="too large; take a larger spacing"):
        predict_views(views, replace(ALIGNED, spacing=0.01))
    monkeypatch.setattr("supermask.prediction.available_memory", lambda: 1000)
    with pytest.raises(UserError, match="GiB are free; take a larger spacing"):
        predict_views(views, ALIGNED)


@pytest.mark.parametrize("spacing", [0.99, 0.993])
def test_the_segmentors_mask_may_lie_between_the_voxels_of_its_stack(spacing):
    array = np.pad(np.ones((24, 24, 24), np.float32), 20)
    segmentor = SimpleNamespace(spec=SegmentorSpec(1, 2), predict_on_batch=lambda batch: batch)
    view = View(Volume(array, (spacing,) * 3))
    found = predict_views([view], ALIGNED, Networks(segmentor=segmentor))
    assert found.mask.array.sum() == pytest.approx((24 * spacing) ** 3, rel=0.1)


def test_a_low_threshold_makes_the_result_as_large_as_the_object():
    view = acquire(stack_grid())
    far = np.linalg.norm(points_of(view.grid) - points_of(view.grid).mean(axis=(0, 1, 2)), axis=-1)
    for height, threshold in ((0.9, 0.05), (0.9, 0.3), (0.45, 0.3)):
        soft = masked(view, (height * np.exp(-0.5 * (far / 8) ** 2)).astype(np.float32))
        found = predict_views([soft], replace(ALIGNED, threshold=threshold)).mask
        radius = 8 * np.sqrt(2 * np.log(height / threshold))
        volume = found.array.sum() * np.prod(found.spacing)
        assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.2)
        assert not any(np.take(found.array, (0, -1), axis).any() for axis in range(3))
