# SPDX-License-Identifier: MIT
"""One image through the whole chain: intensities, axes, classes, odd sizes, legacy numbers."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from scipy import ndimage
from volumes.samples import texture

from segsrgan.errors import UserError
from segsrgan.inference.one_call import segmentation
from segsrgan.inference.predictor import Predictor
from segsrgan.inference.results import result_files
from segsrgan.memory import GIB, resident_memory
from segsrgan.networks import load_generator, outputs
from segsrgan.volumes.reading import read_volume
from segsrgan.volumes.resampling import degrade, resample
from segsrgan.volumes.volume import Volume

MAPS = ("invented", "sr_disagreement", "cortex_disagreement", "brain_disagreement")


# Towards right, front and top, as networks are shown all scans.
UPRIGHT = np.diag([-1, -1, 1])


def random_volume(shape=(16, 12, 8), spacing=(1.0, 1.0, 1.0), low=10, high=200, seed=0):
    array = np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)
    return Volume(array, spacing, direction=UPRIGHT)


def axis_probe(kernel):
    """A model whose channels are differences along one axis of the patch: 0 x, 1 y, 2 z."""
    image = keras.Input((None, None, None, 1))
    moved = keras.ops.roll(image, 1, axis=1 + kernel)
    return keras.Model(image, keras.layers.Concatenate()([image, image - moved]))


def of_slices(weights):
    """A model for slices of 4 voxels."""
    model = load_generator(weights)
    model.spec = replace(model.spec, slice_voxels=4, interp="scipy")
    return model


def test_the_identity_network_gives_intensities_back(identity):
    volume = random_volume(low=-40, high=160)
    result = Predictor(identity).predict(volume, patch=8, step=3, new_resolution=1)
    np.testing.assert_allclose(result.sr.array, volume.array, atol=2e-4)
    assert result.sr.array.dtype == result.cortex.array.dtype == np.float32
    assert result.cortex_mask.array.dtype == np.uint8
    np.testing.assert_allclose(result.cortex.array, 0.5)
    assert result.mask is None


def test_weights_say_what_patches_are_divisible_by(weights):
    folded = weights("folded", head="zeros", levels=(2, 2, 2), scaled=True)
    predictor, volume = Predictor(folded, consistency="off"), random_volume((20, 24, 9))
    for patch in (16, 24, None):  # 9 voxels are fewer than the network can take
        found = predictor.predict(volume, patch=patch, new_resolution=1)
        np.testing.assert_allclose(found.sr.array, volume.array, atol=2e-4)
    for patch, near in ((12, 16), (8, 16), (60, 64)):
        with pytest.raises(UserError, match=f"by 8 and at least 16 for these.*try {near}"):
            predictor.predict(volume, patch=patch)
    prepared = predictor.prepare(volume, 1)
    with pytest.raises(UserError, match="patch must be divisible by 8"):
        predictor.predict_prepared(prepared, 12, 6)


@pytest.mark.parametrize("thick", [1.0, 3.0])
def test_the_last_slice_of_a_stack_is_missed(identity, thick, caplog):
    volume = random_volume(spacing=(1.0, 1.0, thick), low=0)
    volume.array[..., -1] = 0
    Predictor(identity).predict(volume, patch=8, new_resolution=1)
    expected = "the image: slice 8 of 8 along axis 3 is empty beside others"
    assert (expected in caplog.text) == (thick > 1)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_mask_is_the_thresholded_probability(echo, threshold):
    volume = random_volume(low=0, high=1)
    result = Predictor(model=echo, threshold=threshold).predict(volume, patch=8, new_resolution=1)
    np.testing.assert_array_equal(result.cortex_mask.array, result.cortex.array >= threshold)


@pytest.mark.parametrize("axis, thick", [(0, 3), (1, 3), (2, 3), (2, 1)])
def test_the_network_sees_the_thick_axis_last(axis, thick):
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(
        [-1 if k == axis else 1 for k in range(3)]
    )
    spacing = [thick if k == axis else 1 for k in range(3)]
    array = np.zeros((12, 12, 12), np.float32) + ramp
    volume = Volume(array, spacing, direction=UPRIGHT)
    for seen, expected in enumerate([0, 0, 1 / 11]):
        result = Predictor(model=axis_probe(seen)).predict(volume, None, new_resolution=spacing)
        inner = result.cortex.array[2:-2, 2:-2, 2:-2]
        assert inner.max() == pytest.approx(expected, rel=1e-4)


class SlicePhase:
    """An engine that says where in its slice, 4 voxels, each voxel lies."""

    def predict_batch(self, patches, resolution=None):
        self.slices = patches[0, 0, 0, :, 0]
        phase = np.broadcast_to(np.arange(patches.shape[3]) % 4, patches.shape[:4])
        return np.stack([patches[..., 0], phase / 4], axis=-1).astype(np.float32)


@pytest.mark.parametrize("patch, step", [(8, 5), (16, 3), (64, None), (None, None)])
def test_every_patch_begins_with_a_slice(patch, step, identity):
    predictor = Predictor(model=of_slices(identity), spline_order=0)
    predictor.engine = SlicePhase()
    volume = random_volume((10, 9, 7), (1.0, 1.0, 2.0))  # 28 voxels of 0.5 mm
    fine = predictor.predict(volume, patch, step, new_resolution=(1.0, 1.0, 0.5))
    expected = np.tile(np.arange(4) / 4, 7)
    np.testing.assert_allclose(fine.cortex.array, np.broadcast_to(expected, (10, 9, 28)), atol=1e-6)
    # And the nearest neighbour repeats each slice four times.
    assert (np.diff(predictor.engine.slices.reshape(-1, 4)) == 0).all()


@pytest.mark.parametrize("axis, new", [(0, 1.0), (1, (1.0, 1.0, 0.7)), (2, (1.0, 1.0, 0.7))])
def test_results_lie_on_the_grid_asked_for_whatever_the_network_sees(axis, new, identity):
    shape, spacing = [12, 12, 12], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 8, 3.0
    volume = random_volume(shape, spacing, low=40)
    smooth = volume.with_array(ndimage.gaussian_filter(volume.array, 2))
    for predictor in (Predictor(model=of_slices(identity)), Predictor(identity)):
        result = predictor.predict(smooth, patch=16, new_resolution=new)
        assert result.sr.grid.is_close(volume.grid.corner_aligned(new), 1e-9)
        assert result.cortex.array.shape == result.cortex_mask.array.shape == result.sr.array.shape
        expected = resample(smooth, new).array
        np.testing.assert_allclose(result.sr.array, expected, atol=0.05 * np.ptp(expected))
        np.testing.assert_allclose(result.cortex.array, 0.5, atol=1e-6)


def test_the_thickness_of_the_slices_is_that_of_their_profile(identity):
    volume = random_volume((10, 9, 7), (1.0, 1.0, 4.0), low=40)
    predictor = Predictor(identity, thickness=2.0)
    assert predictor.settings.record()["interp"] == "profile"
    prepared = predictor.prepare(volume, 1.0)
    scaled = volume.with_array(prepared.normalisation.apply(volume.array))
    expected, assumed = (resample(scaled, 1.0, "profile", thickness=mm).array for mm in (2.0, 4.0))
    np.testing.assert_allclose(prepared.volume.array, expected, atol=1e-5)
    assert np.abs(expected - assumed).max() > 0.05


class Uneven:
    """An engine whose output depends on the direction: the image, and ramps along the axes."""

    def predict_batch(self, patches, resolution=None):
        index = np.indices(patches.shape[1:4], dtype=np.float32)
        ramp = np.broadcast_to(index[0] + 10 * index[1] + 100 * index[2], patches.shape[:4])
        return np.stack([patches[..., 0], ramp / 5000], axis=-1)


@pytest.mark.parametrize("flips", [1, 2, 4, 8])
def test_flips_take_the_mean_over_mirrored_inputs(flips, identity):
    calls, volume = [], random_volume((16, 16, 16))
    predictor = Predictor(identity, flips=flips)
    predictor.engine = Uneven()
    result = predictor.predict(volume, 16, 16, 1, progress=lambda *call: calls.append(call))
    np.testing.assert_allclose(result.sr.array, volume.array, atol=1e-3)
    assert (calls[0], calls[-1]) == ((0, flips), (flips, flips))
    # Along mirrored axes a ramp becomes its mean, 7.5.
    index = np.indices((16, 16, 16))
    weights = np.array([1, 10, 100])
    mirrored = [7.5 if k < flips.bit_length() - 1 else index[k] for k in range(3)]
    ramp = sum(w * m for w, m in zip(weights, mirrored, strict=True)) / 5000
    np.testing.assert_allclose(result.cortex.array, np.broadcast_to(ramp, (16, 16, 16)), atol=1e-4)


def test_patches_and_flips_that_disagree_are_measured(identity):
    volume = random_volume((16, 16, 16))
    predictor = Predictor(identity, flips=2, maps=True)
    predictor.engine = Uneven()
    result = predictor.predict(volume, 16, 16, 1)
    # x and 15 - x: the deviation of the two is half of their difference.
    expected = np.broadcast_to(np.abs(np.arange(16) - 7.5)[:, None, None] / 5000, (16, 16, 16))
    np.testing.assert_allclose(result.cortex_disagreement.array, expected, atol=2e-4)
    possible = result.cortex.array >= 0.05
    measured = result.measures["cortex_disagreement"]
    assert measured == pytest.approx(expected[possible].mean(), rel=0.1)
    assert result.sr_disagreement.array.max() < 0.1  # of 200
    one = Predictor(identity, maps=True)
    one.engine = Uneven()
    overlapping = one.predict(random_volume((24, 16, 16)), 16, 8, 1).cortex_disagreement.array
    np.testing.assert_allclose(overlapping[:8], 0, atol=3e-4)
    np.testing.assert_allclose(overlapping[8:16], 4 / 5000, atol=3e-4)
    assert one.predict(volume, 16, 16, 1).mask is None


def test_small_parts_of_the_mask_are_dropped_unless_told_otherwise(echo):
    array = np.zeros((24, 24, 24), np.float32)
    array[4:14, 4:14, 4:14] = 1  # 1000 voxels
    array[20, 18:20, 2:12] = 1  # 20, 2 % of them
    array[20:23, 2:5, 20:22] = 1  # 18
    volume = Volume(array, (1, 1, 1))
    kept = {"drop": 1020, "keep": 1038, "legacy": 1038}
    for choice, voxels in kept.items():
        options = {"geometry": "legacy"} if choice == "legacy" else {"islands": choice}
        result = Predictor(model=echo, **options).predict(volume, 24, 24, 1)
        assert np.count_nonzero(result.cortex_mask.array) == voxels
        assert np.count_nonzero(result.cortex.array > 0.5) == 1038


def test_slices_hardly_thicker_than_the_result_stay_where_they_are(identity):
    cases = ("exact", 1.9, 19), ("exact", 2.0, 40), ("exact", 6.0, 40), ("legacy", 6.0, 60)
    for geometry, spacing, voxels in cases:
        volume = random_volume((12, 12, 10), (1.0, 1.0, spacing))
        prepared = Predictor(model=of_slices(identity), geometry=geometry).prepare(volume, 1.0)
        assert prepared.volume.array.shape == (12, 12, voxels)


def test_a_further_head_needs_an_entry_in_the_list_alone(monkeypatch, tmp_path, weights):
    further = outputs.Head(
        "brain", "sigmoid", outputs.optional("brain"), "Brain_image", "charbonnier", "Brain", 1
    )
    monkeypatch.setattr(outputs, "HEADS", (*outputs.HEADS, further))
    path = weights("further", mask_classes=2, heads=("brain",))
    volume = random_volume()
    result = Predictor(path, threshold=0.4).predict(volume, patch=8, new_resolution=1)
    names = [name for name in result_files() if name not in MAPS]
    assert names == ["sr", "cortex", "cortex_mask", "mask", "brain", "brain_mask"]
    assert set(result.volumes) == set(names)
    np.testing.assert_array_equal(result.brain_mask.array, result.brain.array >= 0.4)
    assert result.measures["brain_disagreement"] >= 0
    assert 0 < result.brain.array.min() < result.brain.array.max() < 1
    with pytest.raises(AttributeError, match="has no result or attribute 'skull'"):
        _ = result.skull


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_conditional_network_gets_the_slice_resolution(axis):
    image, resolution = (keras.Input((None, None, None, 1)) for _ in range(2))
    both = keras.layers.Concatenate()([image, resolution / 10])
    model = keras.Model([image, resolution], both)
    spacing = [4.5 if k == axis else 0.8 for k in range(3)]
    volume = random_volume((8, 8, 8), spacing)
    result = Predictor(model=model).predict(volume, patch=8, new_resolution=1)
    np.testing.assert_allclose(result.cortex.array, 0.45, rtol=1e-5)


def test_one_patch_equals_the_model_and_its_classes_become_numbers(weights):
    path = weights("classes", mask_classes=3)
    volume = random_volume((16, 16, 16))
    result = Predictor(path).predict(volume, patch=16, new_resolution=1)
    scale, floor = volume.array.max(), volume.array.min()
    (expected,) = load_generator(path)((volume.array / scale)[None, ..., None]).numpy()
    image = np.maximum(expected[..., 0] * scale, floor)
    np.testing.assert_allclose(result.sr.array, image, atol=1e-3 * scale)
    np.testing.assert_allclose(result.cortex.array, expected[..., 1], atol=1e-4)
    assert result.mask.array.dtype == np.uint8
    assert (result.mask.array == expected[..., 2:].argmax(axis=-1)).mean() > 0.999
    assert len(np.unique(result.mask.array)) > 1


@pytest.fixture(scope="module")
def predictor(tiny):
    return Predictor(tiny)


@pytest.mark.parametrize("patch", [8, 32, None])
@pytest.mark.parametrize("shape", [(12, 12, 1), (1, 9, 20), (3, 2, 5), (1, 1, 2)])
def test_thin_images_work(predictor, shape, patch):
    sr = predictor.predict(random_volume(shape), patch=patch, new_resolution=1).sr.array
    assert sr.shape == shape and np.isfinite(sr).all()


def test_a_batch_is_as_large_as_the_memory_allows(tiny, monkeypatch):
    volume = random_volume((48, 48, 48))
    sizes = []

    def spy(*arguments, **options):
        sizes.append(arguments[4])
        return np.zeros((*arguments[1].shape, 2), np.float32)

    monkeypatch.setattr("segsrgan.inference.predictor.predict_tiled", spy)
    for free in (10**9, 13 * 10**6, 10 * 10**6):
        monkeypatch.setattr("segsrgan.memory.available_memory", lambda n=free: n)
        Predictor(tiny).predict(volume, patch=16, new_resolution=1)
    assert sizes[0] == 32 and sizes[0] > sizes[1] > sizes[2] >= 1
    with pytest.raises(UserError, match="a smaller patch or a coarser resolution"):
        Predictor(tiny, batch_size=32).predict(volume, patch=16, new_resolution=1)


def test_max_memory_is_kept_to(tiny, monkeypatch):
    volume = random_volume((16, 16, 16))
    here = resident_memory() / GIB
    Predictor(tiny, max_memory=here + 1).predict(volume, patch=8, new_resolution=1)
    with pytest.raises(UserError, match=r"GiB are free within max_memory; ask for a smaller"):
        Predictor(tiny, max_memory=here / 2).predict(volume, patch=8, new_resolution=1)


@pytest.mark.parametrize("thick", [0, 2])
@pytest.mark.parametrize(
    "settings", [{}, {"flips": 4}, {"geometry": "legacy"}, {"interp": "profile"}], ids=str
)
def test_an_estimate_is_what_is_made(settings, thick, identity):
    spacing = np.roll([1.1, 1.1, 3.3], thick + 1)
    predictor, calls = Predictor(model=of_slices(identity), **settings), []
    volume = random_volume((11, 13, 12), tuple(map(float, spacing)))
    for patch, step in ((8, 5), (16, 8), (None, None)):
        resident = resident_memory()
        found = predictor.estimate(volume, patch, step, new_resolution=1)
        calls.clear()
        result = predictor.predict(
            volume, patch, step, 1, progress=lambda *call: calls.append(call)
        )
        assert found.grid.shape == result.sr.array.shape
        assert found.grid.spacing == result.sr.spacing
        assert (found.patches, found.patches) == calls[-1]
        size = patch or np.prod(found.grid.shape) ** (1 / 3)
        assert found.voxels >= 0.9 * found.patches * size**3 and found.memory > resident
    with pytest.raises(UserError, match="step must be between 1"):
        predictor.estimate(volume, 8, 9)


def test_arguments_are_checked_before_the_image_is_read(predictor):
    for options, words in (
        ({"patch": 10}, "divisible by 4"),
        ({"patch": 8, "step": 9}, "step must be"),
        ({"new_resolution": (1, 1)}, "three positive numbers"),
        ({"new_resolution": -1}, "positive"),
    ):
        with pytest.raises(UserError, match=words):
            predictor.predict("no such image.nii", **options)


def test_legacy_reproduces_the_released_original(data_dir, tmp_path):
    image, weights = (data_dir / "original" / name for name in ("lr.nii.gz", "G_kernel8"))
    cortex, sr = tmp_path / "Cortex.nii.gz", tmp_path / "SR.nii.gz"
    segmentation(image, 20, (1, 1, 1), 64, cortex, sr, weights, geometry="legacy")
    for path in (cortex, sr):
        theirs = read_volume(image.with_name(f"G_kernel8_patch_64_step_20_{path.name}"))
        ours = read_volume(path)
        assert ours.grid.is_close(theirs.grid)
        difference = np.abs(ours.array - theirs.array).max()
        assert difference < 1e-3 * theirs.array.max()


def test_exact_differs_from_legacy_in_place_and_numbers(data_dir, identity):
    volume = read_volume(data_dir / "original" / "lr.nii.gz")
    exact, legacy = (
        Predictor(identity, geometry=geometry).predict(volume, patch=32, new_resolution=1)
        for geometry in ("exact", "legacy")
    )
    assert legacy.sr.origin == volume.origin
    # 3 mm slices cut in three: the first thin one lies 1 mm below the first thick one's centre.
    shift = np.subtract(exact.sr.origin, legacy.sr.origin)
    np.testing.assert_allclose(shift, [0, 0, -1], atol=1e-6)
    assert np.abs(exact.sr.array - legacy.sr.array).max() > 1


def test_legacy_divides_by_the_maximum_which_must_be_positive(echo):
    array = np.random.default_rng(0).uniform(-50, 100, (8, 8, 8)).astype(np.float32)
    predictor = Predictor(model=echo, geometry="legacy")
    prepared = predictor.prepare(Volume(array, (1, 1, 1)), new_resolution=1)
    np.testing.assert_allclose(prepared.volume.array, array / array.max(), rtol=1e-6)
    result = predictor.predict_prepared(prepared, 8, 4)
    np.testing.assert_allclose(result.sr.array, array, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="positive maximum"):
        predictor.predict(Volume(array - 101, (1, 1, 1)), patch=8)


def test_legacy_takes_the_resolution_of_the_third_axis_and_moves_none(echo):
    array = np.random.default_rng(0).uniform(1, 100, (4, 12, 12)).astype(np.float32)
    volume = Volume(array, (3.0, 1.0, 1.2))
    legacy = Predictor(model=echo, geometry="legacy").prepare(volume, new_resolution=1)
    assert (legacy.resolution, legacy.order) == (1.2, ([0, 1, 2], []))
    exact = Predictor(model=echo).prepare(volume, new_resolution=1)
    assert (exact.resolution, exact.order) == (3.0, ([1, 2, 0], [0, 2]))


def test_the_thickness_is_seen_without_padding_and_spikes_and_recorded(echo):
    scan = degrade(texture(), (1, 1, 4), (1, 1, 2))
    padded, spiky = scan.array.copy(), scan.array.copy()
    padded[:4] = padded[-4:] = -32768
    spiky[40, 40, 10] = 1e5
    predictor = Predictor(model=echo, interp="profile")
    for array in (scan.array, padded, spiky):
        prepared = predictor.prepare(scan.with_array(array), 2)
        assert prepared.thickness == pytest.approx(2, rel=0.15)
        assert prepared.measures["thickness"] == prepared.thickness
        assert prepared.measures["thickness_mismatch"] == pytest.approx(-0.5, abs=0.08)
    stated = Predictor(model=echo, gap=0).prepare(scan, 2).measures
    assert stated["thickness"] == 4
    assert stated["thickness_mismatch"] == pytest.approx(-0.5, abs=0.08)
    unused = Predictor(model=echo, interp="scipy").prepare(scan, 2)
    assert unused.thickness is None and "thickness_mismatch" not in unused.measures
