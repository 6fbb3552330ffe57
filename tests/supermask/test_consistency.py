# SPDX-License-Identifier: MIT
"""A fused image whose slices, blurred and decimated again, are those of all views."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from examinations import acquire, examination, intensity, points_of, stack_grid, truth_on
from scipy import ndimage
from volumes.samples import rotation

from segsrgan.errors import UserError
from segsrgan.inference.consistency import make_consistent as of_one_scan
from segsrgan.volumes import Grid, Volume, degrade, resample
from supermask.consistency import BYTES, Acquisition, make_consistent
from supermask.geometry import Rigid, middle_of
from supermask.prediction import predict_views
from supermask.settings import PredictionSettings
from supermask.views import View

SHAPE = (28, 32, 28)


def anatomy():
    """A smooth image with a sharp object, of about 0 to 2, at 1 mm, turned."""
    values = np.random.default_rng(0).uniform(0, 1, [n // 4 for n in SHAPE])
    image = resample(Volume(values.astype(np.float32), (4, 4, 4)), (1, 1, 1)).array.copy()
    image[8:14, 6:18, 8:22] += 1
    return Volume(image, (1, 1, 1), (3, -40, 7), rotation((0.3, -0.5, 1.1)))


TRUTH = anatomy()
KNOWN = np.ones(TRUTH.array.shape, bool)
MIDDLE = middle_of(TRUTH.grid)
POSES = (
    Rigid(centre=MIDDLE),
    Rigid((0.1, -0.06, 0.2), (1.5, -0.7, 0.4), MIDDLE),
    Rigid((-0.05, 0.2, 0.1), (-1, 2, 0.3), MIDDLE),
)


def thick(axis, distance=4.0):
    return TRUTH.grid.corner_aligned([distance if k == axis else 1.0 for k in range(3)])


def acquired(noise=0.0, count=3, **options):
    """Scans of the truth by A itself, of which the axes differ."""
    scans, rng = [], np.random.default_rng(1)
    for axis, pose in enumerate(POSES[:count]):
        seen = Acquisition(thick(axis), TRUTH.grid, pose, KNOWN, **options)
        array = seen.of_image(TRUTH.array)
        array += np.float32(noise) * rng.standard_normal(array.shape, dtype=np.float32)
        scans.append(Volume.from_grid(array, seen.grid))
    return scans


def with_noise(volume, deviation, seed=1):
    noise = np.random.default_rng(seed).normal(0, deviation, volume.array.shape)
    return volume.with_array((volume.array + noise).astype(np.float32))


def blurred(deviation=0.1):
    """What the truth looks like in a fusion: too smooth, and a little noisy."""
    coarse = resample(degrade(TRUTH, (3, 3, 3)), (1, 1, 1))
    array = coarse.array[tuple(slice(n) for n in TRUTH.array.shape)]
    return with_noise(TRUTH.with_array(array), deviation)


def error(image):
    return float(np.sqrt(np.mean((image.array - TRUTH.array) ** 2)))


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("spacing", [(1, 1, 4), (3.6, 1, 1), (1.2, 4, 1.2), (0.7, 0.7, 3)])
def test_the_transpose_is_exact_and_constants_stay(pose, spacing):
    known, rng = KNOWN.copy(), np.random.default_rng(0)
    known[:4], known[10:12, 5:9, 20:] = False, False
    grid = Grid((40, 40, 12), spacing, TRUTH.origin, TRUTH.direction)
    seen = Acquisition(grid, TRUTH.grid, pose, known)
    image, slices = (rng.standard_normal(n) for n in (SHAPE, seen.grid.shape))
    left = np.vdot(seen.of_image(image.astype("f4")), slices)
    assert np.vdot(image, seen.transposed(slices.astype("f4"))) == pytest.approx(left, abs=1e-3)
    ones = seen.of_image(np.ones(SHAPE, np.float32))
    assert np.count_nonzero(ones) == seen.count > 0.2 * ones.size
    np.testing.assert_allclose(ones[ones > 0], 1, rtol=1e-5)
    assert not seen.transposed(ones)[~known].any()


@pytest.mark.parametrize("known", [slice(None), slice(16, 48)])
def test_memory_is_bounded_by_what_is_known(known, monkeypatch):
    monkeypatch.setattr("supermask.consistency._SLAB", 2**12)
    image, rng = Grid((64, 64, 64), (1, 1, 1)), np.random.default_rng(0)
    turn = Rigid((0.75, 0.4, 0.75), centre=middle_of(image))
    wide = Grid((30, 120, 120), (4, 1, 1), (-30, -30, -30))
    scans = [Volume.from_grid(rng.random(wide.shape, np.float32), wide) for _ in range(2)]
    region = np.zeros(image.shape, bool)
    region[known, known, known] = True
    start = Volume.from_grid(rng.random(image.shape, np.float32), image)
    tracemalloc.start()
    make_consistent(start, scans, [turn, turn.inverse()], region, width=1.0, noises=[0.01] * 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (BYTES if region.all() else BYTES / 3) * region.size * len(scans)


def test_acquired_slices_are_those_that_degrading_makes():
    scan = degrade(TRUTH, (1, 1, 4))
    seen = Acquisition(scan.grid, TRUTH.grid, Rigid(), KNOWN)
    np.testing.assert_allclose(seen.of_image(TRUTH.array), scan.array, atol=1e-5)
    np.testing.assert_allclose(seen.of_scan(scan), scan.array, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_noise_the_slices_come_back_and_no_error_grows(count):
    scans, image = acquired(count=count), blurred()
    given = {"width": 1.0, "noises": [0.0] * count, "tolerance": 1e-6}
    errors, left = [error(image)], []
    for steps in (1, 2, 4, 8, 400):
        found, residuals = make_consistent(image, scans, POSES[:count], KNOWN, steps=steps, **given)
        errors.append(error(found))
        left.append(max(item.after for item in residuals))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]
    assert left[-1] < 1e-4 < 0.02 < min(item.before for item in residuals)


def test_more_views_bring_the_image_nearer_to_the_truth_in_noise_too():
    image = blurred()
    errors = [
        error(make_consistent(image, acquired(0.01, count), POSES[:count], KNOWN)[0])
        for count in (1, 2, 3)
    ]
    assert errors[2] < 0.9 * errors[1] < 0.8 * errors[0] < 0.8 * error(image)


@pytest.mark.parametrize(("gain", "offset"), [(300, -50), (1e27, 0)])
def test_scale_and_shift_of_the_intensities_commute_with_it(gain, offset):
    def changed(volume):
        return volume.with_array(np.float32(gain) * volume.array + np.float32(offset))

    scans, image = acquired(0.02), blurred()
    found, residuals = make_consistent(image, scans, POSES, KNOWN)
    scans = [changed(scan) for scan in scans]
    other, others = make_consistent(changed(image), scans, POSES, KNOWN)
    np.testing.assert_allclose((other.array - offset) / gain, found.array, atol=2e-3)
    for one, two in zip(residuals, others, strict=True):
        np.testing.assert_allclose(np.array(two[:3]) / gain, one[:3], rtol=0.01)
        assert two.width == pytest.approx(one.width, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("spacing", "thickness"), [((1, 1, 4), None), ((1.5, 1.5, 3.6), 3.0)])
def test_one_view_is_corrected_as_by_segsrgan(noise, spacing, thickness):
    scan = with_noise(degrade(TRUTH, spacing, thickness), noise)
    image = resample(scan, (1, 1, 1))
    image = with_noise(image, 0.1)
    options = {"width": 1.0, "noise": noise, "thickness": thickness}
    expected = of_one_scan(image, scan, **options)
    known = np.ones(image.array.shape, bool)
    found, (residual,) = make_consistent(
        image, [scan], [Rigid()], known, [thickness], noises=[noise], steps=200, tolerance=1e-6
    )
    assert residual.before == pytest.approx(expected.residual, rel=1e-4)
    np.testing.assert_allclose(found.array, expected.volume.array, atol=5e-3)
    assert np.abs(found.array - image.array).max() > 0.1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 0.7, 0.9)])
def test_it_is_the_identity_where_nothing_is_finer(spacing):
    scans = [resample(TRUTH, spacing)] * 3
    assert make_consistent(TRUTH, scans, POSES, KNOWN) == (TRUTH, [])


def test_more_noise_than_contradiction_changes_nothing():
    found, residuals = make_consistent(TRUTH, acquired(0.02), POSES, KNOWN, noises=[0.1] * 3)
    assert found is TRUTH
    assert all(item.after == item.before == pytest.approx(0.02, rel=0.1) for item in residuals)
    assert not any(item.kept for item in residuals)


@pytest.mark.parametrize("width", [0.7, 1.0])
@pytest.mark.parametrize("thickness", [None, 3.2])
def test_several_views_tell_how_thick_their_slices_are(width, thickness):
    scans = acquired(0.01, thickness=thickness, width=width)
    found = make_consistent(blurred(), scans, POSES, KNOWN, [thickness] * 3)
    assert [item.width for item in found[1]] == pytest.approx([width] * 3, abs=0.1)


def test_what_no_view_sees_stays():
    known = KNOWN.copy()
    known[20:] = False
    image = blurred()
    found, _ = make_consistent(image, acquired(), POSES, known)
    np.testing.assert_array_equal(found.array[~known], image.array[~known])
    assert np.abs(found.array - image.array)[known].max() > 0.2


def test_views_that_contradict_each_other_leave_the_image_as_it_is():
    scans, image = acquired(), blurred()
    scans[2] = scans[2].with_array(np.random.default_rng(3).permuted(scans[2].array))
    found, residuals = make_consistent(image, scans, POSES, KNOWN)
    assert found is image
    assert all(item.kept and item.after == item.before for item in residuals)
    _, residuals = make_consistent(image, acquired(), POSES, KNOWN)
    assert all(not item.kept and item.after < item.before for item in residuals)


ON, OFF = (PredictionSettings(alignment="none", consistency=c) for c in ("on", "off"))


def distance(result):
    grid = result.image.grid
    return np.abs(result.image.array - intensity(points_of(grid)))[truth_on(grid)].mean()


@pytest.mark.parametrize("fusion", ["gaussian", "vote", "nearest"])
def test_the_predicted_image_is_nearer_to_the_truth_whatever_the_views_gains(fusion):
    views = examination()
    array = views[2].volume.array
    views[2] = View(views[2].volume.with_array(500 - 3 * array), views[2].mask)
    on, off = (
        predict_views(views, PredictionSettings(alignment="none", consistency=c, fusion=fusion))
        for c in ("on", "off")
    )
    assert distance(on) < 0.7 * distance(off)
    assert off.residuals == () and len(on.residuals) == 3
    assert all(item.after < 0.9 * item.before for item in on.residuals)
    np.testing.assert_array_equal(on.mask.array, off.mask.array)
    np.testing.assert_array_equal(on.probability.array, off.probability.array)


def test_of_stacks_super_resolved_first_the_acquired_slices_count():
    def inventing(volume, patch, new_resolution):
        fine = resample(volume, new_resolution)
        return SimpleNamespace(sr=fine.with_array(fine.array + np.float32(8)))

    sharpener = SimpleNamespace(predict=inventing)
    on, off = (predict_views(examination(), item, sharpener=sharpener) for item in (ON, OFF))
    assert distance(on) < 0.5 * distance(off)


def test_contradictions_are_pointed_out():
    views = examination()
    rng = np.random.default_rng(0)
    views[1] = View(views[1].volume.with_array(rng.permuted(views[1].volume.array)), views[1].mask)
    on, off = (predict_views(views, item) for item in (ON, OFF))
    np.testing.assert_array_equal(on.image.array, off.image.array)
    text = "the slices of the views contradict each other"
    assert [any(text in warning for warning in r.warnings) for r in (on, off)] == [True, False]
    assert all(item.kept and item.after == item.before for item in on.residuals)


@pytest.mark.parametrize("thick", [(12.0, 3.0), (3.0, 9.0), (1.5, 6.0)])
@pytest.mark.parametrize("gain", [1.0, -2.0])
def test_views_of_unlike_thickness_come_together_whatever_their_gains(thick, gain):
    planes = zip(("axial", "coronal"), thick, strict=True)
    first, second = (acquire(stack_grid(plane, fine=1.5, thick=mm)) for plane, mm in planes)
    second = View(second.volume.with_array(gain * second.volume.array + 300), second.mask)
    settings = {"alignment": "none", "reference": first.name}
    off, on = (
        predict_views([first, second], PredictionSettings(**settings, consistency=choice))
        for choice in ("off", "on")
    )
    assert distance(on) < 0.8 * distance(off)
    assert not any(item.kept for item in on.residuals)


def test_a_declared_thickness_is_that_of_the_profile_where_there_are_gaps():
    scan = degrade(TRUTH, (1, 1, 4))
    found = [View(scan, declared=mm).profile for mm in (None, 2.5, 4.0, 6.0, 0.0)]
    assert found == [4.0, 2.5, 4.0, 4.0, 4.0]


def test_only_on_and_off_are_choices():
    with pytest.raises(UserError, match="consistency must be one of on, off, received 'yes'"):
        PredictionSettings(consistency="yes")


def test_far_from_the_object_the_image_stays_as_fused():
    views = examination()
    on, off = (predict_views(views, item) for item in (ON, OFF))
    distance = ndimage.distance_transform_edt(on.mask.array == 0, on.mask.spacing)
    change = np.abs(on.image.array - off.image.array)
    assert (distance > 6).mean() > 0.05 and not change[distance > 6].any()
    assert change[(distance > 0) & (distance <= 3)].max() > 1
