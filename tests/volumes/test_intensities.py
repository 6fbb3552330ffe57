# SPDX-License-Identifier: MIT
"""Intensities mapped to [0, 1]; padding, hot voxels and backgrounds of any value."""

import numpy as np
import pytest
from volumes.samples import noise

from segsrgan.volumes import Normalisation, foreground, usual_range
from segsrgan.volumes.intensities import _SAMPLE, alternating_slices, lost_slices


@pytest.mark.parametrize(
    ("array", "expected", "scaled"),
    [
        ([2, 4, 8], (0, 8, 2), [0.25, 0.5, 1]),
        ([-2, 0, 6], (-2, 8, -2), [0, 0.25, 1]),  # negative values: shifted first
        ([-8, -6, -4], (-8, 4, -8), [0, 0.5, 1]),
    ],
)
def test_images_are_divided_by_their_maximum_above_zero(array, expected, scaled):
    array = np.array(array, float)
    assert Normalisation.of(array) == Normalisation(*expected)
    assert Normalisation.of(array).apply(array).tolist() == scaled


@pytest.mark.parametrize("offset", [-500, 0, 200])
def test_invert_undoes_apply_and_never_falls_below_the_minimum(offset):
    array = noise((4, 5, 6)) * 1000 + np.float32(offset)
    before, normalisation = array.copy(), Normalisation.of(array)
    scaled = normalisation.apply(array)
    assert scaled.dtype == np.float32
    assert scaled.min() >= 0 and scaled.max() == pytest.approx(1)
    assert normalisation.invert(scaled) == pytest.approx(array, abs=1e-3)
    assert normalisation.invert(scaled - 1).min() == array.min()
    assert normalisation.invert(scaled + 1).max() > array.max()
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        *(([0, bad, bad, 1], "2 of 4 NaN or infinite") for bad in (np.nan, np.inf, -np.inf)),
        *(([value, value], "all equal") for value in (0, 5, -5)),
        ([0, 1e-42], "scale it"),
        ([-3.3e38, 3.3e38], "1e-38 to 1e38 upwards, received 6.6e.38; scale it"),
    ],
)
def test_images_without_numbers_contrast_or_a_usable_scale_are_refused(values, match):
    with pytest.raises(ValueError, match=f"^t2.nii: .*{match}"):
        Normalisation.of(np.array(values, float), "t2.nii")


def head(shape=(24, 26, 20)):
    """Tissue of 100 to 800 in a ball that fills a sixth of a field of zeros."""
    squares = sum(
        np.square(index - size / 2) for index, size in zip(np.indices(shape), shape, strict=True)
    )
    return np.where(squares < 64, 100 + 700 * noise(shape), 0).astype(np.float32)


def with_spikes(value, number=1):
    array = head()
    array[2, 3, :number] = value
    return array


def padded(value):
    array = head()
    array[:, :, :5] = value
    return array


STRANGE = {
    "overflow": with_spikes(32767),
    "vessels": with_spikes(1e6, 4),
    "12 bits": with_spikes(4095),
    "padding": padded(-32768),
    "CT padding": padded(-2000),
    "one dark voxel": with_spikes(-32768),
    "both": np.maximum(padded(-3024), with_spikes(32767) - 4000),
}


@pytest.mark.parametrize("kind", [kind for kind in STRANGE if kind != "both"])
def test_isolated_extremes_and_padding_do_not_set_the_range(kind, caplog):
    array, plain = STRANGE[kind], Normalisation.of(head())
    found = Normalisation.of(array, "a.nii")
    assert (found.shift, found.scale, found.floor) == (plain.shift, plain.scale, plain.floor)
    usual = (array >= 0) & (array <= 800)
    scaled = found.apply(array)
    assert np.array_equal(scaled[usual], plain.apply(array)[usual])
    assert scaled.min() == 0 and scaled.max() == 1
    assert found.invert(scaled).max() <= 800.001 and found.invert(scaled).min() == 0
    (record,) = caplog.records
    assert record.message.startswith("a.nii: ")
    number = np.count_nonzero(~usual)
    expected = f"{number} of its voxels are up to" if array.max() > 800 else "taken for padding"
    assert expected in record.message


@pytest.mark.parametrize("kind", STRANGE)
def test_scaling_and_shifting_intensities_commute(kind):
    low, high = usual_range(STRANGE[kind])
    array = Normalisation.of(STRANGE[kind]).apply(STRANGE[kind])
    for factor in (1e-9, 0.37, 1e12):
        moved = (STRANGE[kind] * np.float64(factor)).astype(np.float32)
        assert usual_range(moved) == pytest.approx((low * factor, high * factor), rel=1e-6)
        assert Normalisation.of(moved).apply(moved) == pytest.approx(array, abs=1e-5)
    if low == 0:  # a negative minimum becomes 0, a positive one does not
        moved = STRANGE[kind] - 300
        assert Normalisation.of(moved).apply(moved) == pytest.approx(array, abs=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        head(),
        head() - 500,
        head()[:, :, ::3] + 1,
        np.where(head() > 0, 700 + head() / 10, -3.2),  # tissue of little contrast
        noise((20, 20, 20)) ** 3,
        np.random.default_rng(0).rayleigh(20, (20, 20, 20)) + head()[:20, :20],  # a noisy scan
        np.random.default_rng(0).normal(size=(20, 20, 20)),
        np.where(head() > 0, 1.0, 0),
        np.array([1.0, 1000]),
    ],
)
def test_ordinary_images_keep_their_extremes(array, caplog):
    assert usual_range(array, "a.nii") == (array.min(), array.max())
    assert not Normalisation.of(array).clips and not caplog.records


@pytest.mark.parametrize("times", [5, 20])
@pytest.mark.parametrize(("axis", "slices"), [(2, [9]), (2, [10, 11]), (0, [8, 12])])
def test_slices_far_brighter_than_those_beside_them_do_not_set_the_range(
    axis, slices, times, caplog
):
    array = head() + 10 * noise(head().shape)
    moved = np.moveaxis(array, axis, 0)
    expected = usual_range(np.delete(array, slices, axis))
    moved[slices] *= times
    assert usual_range(array, "a.nii") == expected and expected[1] < 811
    numbers = ", ".join(str(number + 1) for number in slices)
    subject = f"slices {numbers}" if len(slices) > 1 else f"slice {numbers}"
    assert f"a.nii: {subject} of {len(moved)} along axis {axis + 1} " in caplog.text
    assert Normalisation.of(array).apply(array).max() == 1


def test_one_or_two_empty_slices_beside_others_are_pointed_out(caplog):
    array = head()
    array[:, :, [9, 10]] = array[12] = 0
    assert usual_range(array, "a.nii") == (0, array.max())
    expected = ("slice 13 of 24 along axis 1 is", "slices 10, 11 of 20 along axis 3 are")
    assert [record.message for record in caplog.records] == [
        f"a.nii: {slices} empty beside others: if anything was lost, give the whole scan"
        for slices in expected
    ]
    caplog.clear()
    array[8:16] = 0  # a gap between two objects
    array[:, :, 8:12] = 0
    usual_range(array, "a.nii")
    assert not caplog.records


def test_empty_slices_inside_a_stack_are_pointed_out_however_many(caplog):
    array = head()
    array[:, :, 7:12] = array[:, :, 13] = 0
    array[8:, :, :7] = 0  # little is left before the gap
    usual_range(array, "a.nii", 2)
    (record,) = caplog.records
    assert "slices 8-12, 14 of 20 along axis 3 are empty beside others" in record.message
    ((axis, indices),) = lost_slices(array, 2)
    assert (axis, *indices) == (2, 7, 8, 9, 10, 11, 13)
    assert not list(lost_slices(head(), 2))


@pytest.mark.parametrize(
    ("lost", "numbers"),
    [([-1], "slice 18"), ([0, 1], "slices 1, 2"), ([0, -2, -1], "slices 1, 17, 18")],
)
def test_an_empty_slice_at_the_end_of_a_stack_is_pointed_out_beside_a_full_one(
    lost, numbers, caplog
):
    array = np.where(head()[:, :, [10] * 18] > 0, 100 + 700 * noise((24, 26, 18)), 0)
    array[:, :, lost] = 0
    for across in (None, 0, 1):
        usual_range(array, "a.nii", across)
    ball = head()[4:21]  # it ends gradually
    assert not ball[[0, -1]].any() and ball[[1, -2]].any(axis=(1, 2)).all()
    usual_range(ball, "a.nii", 0)
    assert not caplog.records
    usual_range(array, "a.nii", 2)
    (record,) = caplog.records
    assert f"{numbers} of 18 along axis 3 " in record.message
    assert "empty beside others" in record.message


@pytest.mark.parametrize("offset", [0, -1024])
def test_slices_that_are_alternately_bright_and_dark_are_pointed_out(caplog, offset):
    array = head()[:, :, 4:16] + 10 * noise((24, 26, 12))
    for times in (1, 1.5, 3):
        assert not caplog.records
        gained = array.copy()
        gained[:, :, 1::2] *= times
        usual_range(gained + offset, "a.nii")
    (record,) = caplog.records
    expected = "every second slice along axis 3 has about 3 times the contrast of those beside it"
    assert record.message.startswith(f"a.nii: {expected}")
    ((axis, ratio),) = alternating_slices(gained + offset)
    assert axis == 2 and ratio == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("value", [-1500, -2000, -3024, -3.4e38])
def test_padding_below_the_air_of_a_ct_is_background(value, caplog):
    plain = np.where(head() > 0, head() - 100, 10 * noise(head().shape) - 1005).astype(np.float32)
    array = plain.copy()
    array[:4, :5] = array[-4:, :5] = value
    assert usual_range(array, "a.nii") == pytest.approx((-1005, 700), abs=1)
    assert f"of its voxels lie far below all others ({value:g}; others from -100" in caplog.text
    assert "that is not dark" not in caplog.text
    assert Normalisation.of(array).apply(array).min() == 0
    even = np.where((array > -900) | (array < -1100), array, -1000)
    assert np.array_equal(foreground(even), even > -900)


def test_what_interpolation_leaves_between_padding_and_tissue_is_padding():
    array = padded(-32768)
    array[:12, :, 5] = np.linspace(-32768, 0, 26)
    array[3, 3, 5] = -700
    assert usual_range(array) == (0, head().max())


def test_the_range_of_a_large_image_needs_few_of_its_voxels():
    array = np.tile(head(), (3, 3, 4))
    assert array.size > _SAMPLE
    array[0, 0, 0] = 1e5
    assert usual_range(array) == (0, head().max())


def test_a_background_that_is_not_dark_is_pointed_out(caplog):
    tissue = head()[head() > 0]
    scored = np.where(head() > 0, (head() - tissue.mean()) / tissue.std(), 0)
    assert usual_range(scored, "a.nii") == (scored.min(), scored.max())
    (record,) = caplog.records
    assert "a.nii: 83% of its voxels are 0, a background that is not dark (50%" in record.message
    for array in (np.where(head() > 0, head(), 1000), head() + 1000):  # darker, brighter than it
        caplog.clear()
        usual_range(array + 10 * noise(array.shape), "a.nii")
        assert "% of its voxels are about 1005" in caplog.text
    caplog.clear()
    corner = with_spikes(65535)
    corner[:2, :2, :10] = 65535  # fewer than a hundredth of the voxels
    for white, fraction in ((padded(65535), "25.00%"), (corner, "0.33%")):
        assert usual_range(white, "a.nii") == (0, 65535)
        expected = f"{fraction} of its voxels are 65535, far above all others"
        assert expected in caplog.records[-1].message
    caplog.clear()
    usual_range(np.where(head() > 0, head(), 3), "a.nii")  # brighter than no tissue
    usual_range(scored + 3 * (head() > 0), "a.nii")
    assert not caplog.records


@pytest.mark.parametrize("offset", [0, 1e-7, -3.2, 0.5, -900])
def test_the_foreground_is_what_is_not_background(offset):
    array = head() + np.float32(offset)
    assert np.array_equal(foreground(array), head() > 0)
    ringing = np.random.default_rng(0).uniform(-0.3, 0.3, array.shape)
    near = np.where(head() > 0, array, array + ringing)
    assert np.array_equal(foreground(near), head() > 0)


def test_padding_is_background_and_noise_is_not():
    assert np.array_equal(foreground(padded(-2000)), padded(-2000) > 0)
    assert foreground(noise((9, 9, 9)) + 1).all()
