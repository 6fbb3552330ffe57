# SPDX-License-Identifier: MIT
"""A result whose slices, blurred and decimated again, are those of the scan."""

import tracemalloc

import numpy as np
import pytest
from volumes.samples import rotation

from segsrgan.inference.consistency import make_consistent, noise_of
from segsrgan.inference.measures import scan_measures
from segsrgan.inference.predictor import Predictor
from segsrgan.inference.settings import PredictorSettings
from segsrgan.volumes import Volume, degrade, resample

SHAPE = (36, 36, 36)


def anatomy(shape=SHAPE):
    """A smooth image with sharp objects, of about 0 to 2, at 1 mm, turned."""
    values = np.random.default_rng(0).uniform(0, 1, [n // 4 for n in shape])
    image = resample(Volume(values.astype(np.float32), (4, 4, 4)), (1, 1, 1)).array.copy()
    image[5:12, 6:18, 8:25] += 1
    return Volume(image, (1, 1, 1), (3, -40, 7), rotation((0.3, -0.5, 1.1)))


def thick(axis, distance):
    return tuple(distance if k == axis else 1.0 for k in range(3))


def with_noise(volume, deviation, seed=1):
    noise = np.random.default_rng(seed).normal(0, deviation, volume.array.shape)
    return volume.with_array((volume.array + noise).astype(np.float32))


def slices_of(image, scan, width=1.0):
    """What a scan of an image would be; rms of its difference from the scan."""
    again = degrade(image, scan.spacing, width * np.array(scan.spacing))
    return float(np.sqrt(np.mean((again.array - scan.array) ** 2)))


def error(image, truth):
    return float(np.sqrt(np.mean((image.array - truth.array) ** 2)))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("distance", [2, 3.6, 4])
def test_the_slices_come_back_and_no_error_grows(axis, distance):
    truth = anatomy()
    scan = degrade(truth, thick(axis, distance))
    image = with_noise(truth, 0.2)
    found = make_consistent(image, scan, width=1.0, noise=0.0)
    assert slices_of(image, scan) > 0.02
    assert slices_of(found.volume, scan) < 1e-5
    assert error(found.volume, truth) < error(image, truth)
    assert found.residual == pytest.approx(slices_of(image, scan), rel=1e-3)
    assert found.correction == pytest.approx(1, abs=1e-4)


def test_slices_come_back_in_plane_too_where_the_result_is_finer():
    truth = anatomy()
    scan = degrade(truth, (1.5, 1.5, 4))
    found = make_consistent(with_noise(truth, 0.2), scan, width=1.0, noise=0.0)
    assert slices_of(found.volume, scan) < 1e-5


def test_where_the_result_is_coarser_the_scan_is_interpolated():
    truth = anatomy()
    scan = degrade(truth, (1, 1, 4))
    start = resample(scan, (1.5, 1.5, 1))
    found = make_consistent(start, scan, width=1.0, noise=0.0)
    assert found.contradiction.grid.is_close(scan.grid.corner_aligned((1.5, 1.5, 4)))
    seen = resample(scan, (1.5, 1.5, 4))
    assert slices_of(found.volume, seen) < 1e-5 < slices_of(start, seen)


def test_scale_and_shift_of_the_intensities_commute_with_it():
    truth = anatomy()
    scan, image = with_noise(degrade(truth, (1, 1, 4)), 0.01), with_noise(truth, 0.2)
    found = make_consistent(image, scan)
    other = make_consistent(
        image.with_array(300 * image.array - 50), scan.with_array(300 * scan.array - 50)
    )
    np.testing.assert_allclose(other.volume.array, 300 * found.volume.array - 50, atol=0.02)
    assert other.noise == pytest.approx(300 * found.noise, rel=1e-3)
    assert other.width == pytest.approx(found.width, abs=1e-3)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 4), (2, 2, 5)])
def test_it_is_the_identity_where_nothing_is_finer(spacing):
    scan = degrade(anatomy(), (1, 1, spacing[2]))
    image = resample(scan, spacing)
    found = make_consistent(image, scan)
    assert found.volume is image
    assert (found.contradiction, found.residual, found.correction) == (None, 0, 0)


@pytest.mark.parametrize("width", [0.5, 0.8, 1.2])
@pytest.mark.parametrize("thickness", [None, 3.0])
def test_the_likeliest_width_of_the_profile_is_taken(width, thickness):
    truth = anatomy()
    scan = degrade(truth, (1, 1, 4), (1, 1, width * (thickness or 4)))
    assert make_consistent(truth, scan, thickness).width == pytest.approx(width, abs=0.05)


def test_more_noise_than_contradiction_changes_nothing():
    truth = anatomy()
    scan = with_noise(degrade(truth, (1, 1, 4)), 0.05)
    found = make_consistent(truth, scan, noise=0.2)
    assert found.volume is truth and found.correction == 0
    assert found.residual == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("deviation", [0.05, 0.2])
def test_the_noise_is_estimated(axis, deviation):
    scan = with_noise(degrade(anatomy(), thick(axis, 4)), deviation)
    assert noise_of(scan) == pytest.approx(deviation, rel=0.2)


def test_large_scans_are_measured_in_less_memory_than_they_take():
    array = np.random.default_rng(0).normal(0.5, 0.02, (160, 300, 200)).astype(np.float32)
    array[:, :60] = 0
    scan = Volume(array, (1.5, 0.4, 0.4))
    tracemalloc.start()
    try:
        noise = noise_of(scan)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes
        measures = scan_measures(scan)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes
    finally:
        tracemalloc.stop()
    assert measures["noise_fraction"] == noise == pytest.approx(0.02, rel=0.01)


def test_ramps_and_images_of_few_voxels_have_no_noise():
    ramp = np.add.outer(np.add.outer(np.arange(8.0), 3 * np.arange(9.0)), np.arange(5.0))
    assert noise_of(Volume(ramp.astype(np.float32), (1, 1, 4))) == pytest.approx(0, abs=1e-5)
    assert noise_of(Volume(ramp[:2].astype(np.float32), (1, 1, 4))) == 0


def test_a_result_contains_the_scan_unless_told_otherwise(echo, tmp_path):
    truth = anatomy()
    scan = degrade(truth, (1, 1, 4))
    on, off, legacy = (
        Predictor(model=echo, interp="scipy", **options).predict(scan, 16, new_resolution=1)
        for options in ({}, {"consistency": "off"}, {"geometry": "legacy"})
    )
    width = on.measures["profile_width"]
    assert slices_of(on.sr, scan, width) < 0.2 * slices_of(off.sr, scan, width)
    assert on.measures["residual"] == pytest.approx(slices_of(off.sr, scan, width), rel=0.1)
    assert not {"noise", "residual", "correction"} & {*off.measures, *legacy.measures}
    np.testing.assert_array_equal(on.cortex.array, off.cortex.array)
    coarse = Predictor(model=echo, interp="scipy", maps=True).predict(scan, 8, new_resolution=4)
    assert coarse.measures["noise"] >= 0 and coarse.invented is None
    assert not {"residual", "residual_fraction", "profile_width"} & {*coarse.measures}
    assert all(np.isfinite(value) for value in coarse.measures.values())
    assert PredictorSettings(geometry="legacy").record()["consistency"] == "off"


class Painter:
    """An engine that paints a block into the image."""

    block = np.s_[..., 20:26, 12:16, 8:14]

    def predict_batch(self, patches, resolution=None):
        image = patches[..., 0].copy()
        image[self.block] += 0.4
        return np.stack([image, 0 * image], axis=-1)


def test_the_map_shows_what_the_network_invented(identity, tmp_path):
    # As the network is shown it.
    truth = Volume(anatomy().array, (1, 1, 1), direction=np.diag([-1, -1, 1]))
    scan = with_noise(degrade(truth, (1, 1, 4)), 0.02)
    predictor = Predictor(identity, interp="profile", maps=True)
    plain = predictor.predict(scan, None, new_resolution=1)
    predictor.engine = Painter()
    painted = predictor.predict(scan, None, new_resolution=1)
    inside = np.zeros(SHAPE, bool)
    inside[Painter.block] = True
    assert painted.invented.grid.is_close(painted.sr.grid)
    assert painted.invented.array[inside].mean() > 10 > 3 > painted.invented.array[~inside].mean()
    assert painted.measures["invented"] > plain.measures["invented"] + 0.003
    # And most of it is taken back.
    added = painted.sr.array - plain.sr.array
    assert added[inside].mean() < 0.5 * 0.4 * scan.array.max()
    assert Predictor(identity).predict(scan, 16, new_resolution=1).invented is None
