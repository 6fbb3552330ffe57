# SPDX-License-Identifier: MIT
"""Patches and their reassembly."""

import numpy as np
import pytest
from volumes.samples import noise

from segsrgan.volumes import Accumulator, plan


def reassemble(array, tiling, channels=2, blend="uniform"):
    """Cut into patches, copy each to all channels (the k-th times k+1), and put together."""
    padded = tiling.pad(array)
    accumulator = Accumulator(tiling, channels, blend)
    for start in tiling.starts:
        patch = padded[tiling.region(start)]
        stack = np.stack([patch * (k + 1) for k in range(channels)], axis=-1)
        accumulator.add(stack, start)
    return accumulator.result()


RNG = np.random.default_rng(7)
PATCHES = 4 * RNG.integers(1, 5, size=(60, 3))
# Sizes, patches and steps of all kinds.
CASES = [
    (tuple(RNG.integers(1, 30, size=3).tolist()), patch.tolist(), RNG.integers(low, patch + 1))
    for patch, low in zip(PATCHES, np.maximum(1, PATCHES // 3), strict=True)
]


@pytest.mark.parametrize("geometry", ["exact", "legacy"])
@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
def test_untouched_patches_give_the_volume_back(geometry, blend):
    for shape, patch, step in CASES:
        array = noise(shape)
        result = reassemble(array, plan(shape, patch, step, geometry), blend=blend)
        assert result.shape == (*shape, 2) and result.dtype == np.float32
        expected = array[..., None] * [1, 2]
        assert np.abs(result - expected).max() < 2e-6, f"{shape} {patch} {step}"


@pytest.mark.parametrize("geometry", ["exact", "legacy"])
def test_the_whole_volume_in_one_patch(geometry):
    for shape, _, _ in CASES[:10]:
        array, tiling = noise(shape), plan(shape, None, None, geometry)
        assert tiling.starts == [(0, 0, 0)] and not np.any(np.mod(tiling.patch, 4))
        assert np.array_equal(reassemble(array, tiling, channels=1)[..., 0], array)


def test_exact_patches_end_with_the_volume():
    for shape, patch, step in CASES:
        tiling = plan(shape, patch, step)
        axes = zip(shape, patch, step, tiling.axis_starts, tiling.padding, strict=True)
        for n, size, stride, starts, pad in axes:
            assert sum(pad) == max(0, size - n)
            assert (starts[0], starts[-1] + size) == (0, n + sum(pad))
            assert all(0 < gap <= stride for gap in np.diff(starts))
            assert pad[0] % 4 == 0 and abs(pad[1] - pad[0]) < 8


def test_exact_plan_by_hand():
    tiling = plan((10, 8, 3), 8, (4, 8, 2))
    assert tiling.axis_starts == ((0, 2), (0,), (0,))
    assert tiling.padding == ((0, 0), (0, 0), (0, 5))
    assert tiling.starts == [(0, 0, 0), (2, 0, 0)]
    mirrored = tiling.pad(np.broadcast_to(np.arange(3), (10, 8, 3)))
    assert mirrored[0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]


def test_legacy_plan_by_hand():
    # 72 voxels, patch 64, step 20: 20 - 8 % 20 = 12 more; 128 voxels: 20 - 64 % 20 = 16 more.
    tiling = plan((72, 128, 64), 64, 20, "legacy")
    assert tiling.padding == ((6, 6), (8, 8), (10, 10))
    assert tiling.axis_starts == ((0, 20), (0, 20, 40, 60, 80), (0, 20))
    assert tiling.mode == "constant"
    # The rest, the larger part, comes after: 7 more are 3 and 4.
    assert plan((65, 64, 64), 64, 8, "legacy").padding[0] == (3, 4)
    # A whole image that is divisible by 4 already gets 4 more.
    assert plan((70, 71, 72), None, None, "legacy").padding == ((1, 1), (0, 1), (2, 2))
    # A volume smaller than the patch is padded to it.
    assert plan((10, 50, 64), 64, 20, "legacy").padded_shape[:2] == (64, 64)


def test_overlaps_are_averaged():
    accumulator = Accumulator(plan((6, 4, 4), 4, (2, 4, 4)), 1)
    accumulator.add(np.full((4, 4, 4, 1), 1.0), (0, 0, 0))
    accumulator.add(np.full((4, 4, 4, 1), 4.0), (2, 0, 0))
    assert accumulator.result()[:, 0, 0, 0].tolist() == [1, 1, 2.5, 2.5, 4, 4]


def test_gaussian_blending_favours_the_centre_and_never_weighs_nothing():
    accumulator = Accumulator(plan((24, 16, 16), 16, (8, 16, 16)), 1, "gaussian")
    accumulator.add(np.zeros((16, 16, 16, 1)), (0, 0, 0))
    accumulator.add(np.ones((16, 16, 16, 1)), (8, 0, 0))
    line = accumulator.result()[:, 8, 8, 0]
    assert line[:8].tolist() == [0] * 8
    assert line[16:] == pytest.approx(1) and np.all(np.diff(line[7:17]) > 0)
    assert line[8] < 0.01 < 0.99 < line[15] and line[8] + line[15] == pytest.approx(1)
    tiling = plan((65, 64, 64), 64, 1)
    assert np.isfinite(reassemble(noise(tiling.shape), tiling, 1, "gaussian")).all()


def test_the_order_of_patches_does_not_matter_and_the_result_can_be_asked_for_twice():
    tiling = plan((13, 9, 8), 8, 4)
    array = noise(tiling.shape)
    padded, accumulator = tiling.pad(array), Accumulator(tiling, 1)
    for start in tiling.starts[::-1]:
        accumulator.add(padded[tiling.region(start)][..., None], start)
    for result in (accumulator.result().copy(), accumulator.result()):
        assert result[..., 0] == pytest.approx(array, abs=1e-6)


def test_a_missing_patch_and_other_shapes_are_refused():
    tiling = plan((12, 8, 8), 8, 4)
    accumulator = Accumulator(tiling, 1)
    accumulator.add(np.ones((8, 8, 8, 1)), tiling.starts[0])
    with pytest.raises(ValueError, match="2 patches must be added once, received 1"):
        accumulator.result()
    with pytest.raises(ValueError, match=r"\(8, 8, 8, 1\), received \(8, 8, 8, 2\)"):
        accumulator.add(np.zeros((8, 8, 8, 2)), (0, 0, 0))
    with pytest.raises(ValueError, match=r"\(12, 8, 8\), received \(8, 8, 12\)"):
        tiling.pad(np.zeros((8, 8, 12)))


@pytest.mark.parametrize(
    ("patch", "step", "match"),
    [
        (62, 31, "divisible by 4.* received 62; try 64"),
        (0, 1, "at least 4, received 0; try 4"),
        (64, 80, "between 1 and the patch size 64, received 80; try 32"),
        (64, 0, "received 0; try 32"),
        (64, None, "step must be one whole number or three"),
        (64.5, 32, "patch must be one whole number or three"),
        ((64, 64), 32, "patch must be one whole number or three"),
        ((64, 64, 30), 16, "received 30"),
    ],
)
def test_impossible_patches_and_steps_are_refused(patch, step, match):
    with pytest.raises(ValueError, match=match):
        plan((100, 100, 100), patch, step)


def test_unknown_geometry_and_blend_are_refused():
    with pytest.raises(ValueError, match="exact, legacy"):
        plan((8, 8, 8), 8, 4, "other")
    with pytest.raises(ValueError, match="uniform, gaussian"):
        Accumulator(plan((8, 8, 8), 8, 4), 1, "other")
