# SPDX-License-Identifier: MIT
"""The legacy geometry against files written by the released SegSRGAN 2.2.4."""

import numpy as np
import pytest

from segsrgan.inference import Predictor, segmentation
from segsrgan.volumes.reading import read_volume
from segsrgan.volumes.volume import Volume

OUTPUT = "G_kernel8_patch_64_step_20_{}.nii.gz"


@pytest.fixture(scope="module")
def original(data_dir):
    return data_dir / "original"


def test_legacy_reproduces_the_released_original(original, tmp_path):
    paths = {kind: tmp_path / f"{kind}.nii.gz" for kind in ("SR", "Cortex")}
    segmentation(
        original / "lr.nii.gz",
        20,
        (1, 1, 1),
        64,
        paths["Cortex"],
        paths["SR"],
        original / "G_kernel8",
        geometry="legacy",
    )
    for kind, path in paths.items():
        ours, theirs = read_volume(path), read_volume(original / OUTPUT.format(kind))
        assert ours.grid.is_close(theirs.grid)
        difference = np.abs(ours.array - theirs.array).max()
        assert difference < 1e-3 * theirs.array.max()


def test_exact_differs_from_legacy_in_place_and_numbers(original, identity):
    exact, legacy = (
        Predictor(identity, geometry=geometry).predict(
            original / "lr.nii.gz", patch=32, new_resolution=1
        )
        for geometry in ("exact", "legacy")
    )
    assert legacy.sr.origin == read_volume(original / "lr.nii.gz").origin
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
    assert (legacy.resolution, legacy.axis) == (1.2, 2)
    exact = Predictor(model=echo).prepare(volume, new_resolution=1)
    assert (exact.resolution, exact.axis) == (3.0, 0)
