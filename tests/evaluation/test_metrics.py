# SPDX-License-Identifier: MIT
"""What is measured of a case, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from evaluation.conftest import cube, scan

from segsrgan.cli.evaluate import build_parser
from segsrgan.errors import UserError
from segsrgan.evaluation import METRICS, Case, EvaluationSettings, evaluate
from segsrgan.volumes import Grid, Volume, degrade, psnr, read_volume, resample_to, ssim


def measure(files, **settings):
    (row,) = evaluate([Case(**files)], EvaluationSettings(**settings))
    assert row.error == ""
    return row


def pair(save, prediction, reference, **place):
    """The columns of a case of two segmentations."""
    prediction = save("p.nii.gz", prediction, **place)
    return {"label": prediction, "reference_label": save("r.nii.gz", reference, **place)}


def test_the_help_lists_the_metrics():
    text = " ".join(build_parser().format_help().split())
    assert f"some of {', '.join(METRICS)} (default: all possible)" in text
    assert all(metric.text for metric in METRICS.values())


def test_labels_by_hand(labels):
    assert measure(labels).values == {
        "dice": 0.75,
        "hd95": 2,
        "assd": pytest.approx(36 / 56),
        "components": 1,
        "reference_components": 1,
        "volume": pytest.approx(0.128),
        "reference_volume": pytest.approx(0.128),
        "volume_difference": 0,
        "false_share": 0.25,
        "missed_share": 0.25,
        "share_rms": 0.25,
        # Radii 3, 3, 3, 2, 2; erosion leaves nothing of a 4 x 4 square or 4^3 cube, dilation makes
        # 84 or 56 pixels in each of four slices, 600 or 312 voxels. In the slices 16 voxels are
        # wrong, in three dimensions 32.
        "boundary_agreement": pytest.approx(1 - (3 * 16 / (4 * 84) + 2 * 16 / (4 * 56)) / 5),
        "boundary_agreement_3d": pytest.approx(1 - (3 * 32 / 600 + 2 * 32 / 312) / 5),
    }


def test_the_papers_names_mean_the_same_and_keep_their_order(labels, images):
    row = measure({**labels, **images}, metrics=("mba_3d", "ssim", "dsc"))
    columns = EvaluationSettings(metrics=("mba_3d", "ssim", "dsc")).columns([row.case])
    assert [metric.name for metric in columns] == ["boundary_agreement_3d", "ssim", "dice"]
    assert set(row.values) == {"boundary_agreement_3d", "ssim", "dice"}
    with pytest.raises(UserError, match="metrics must differ"):
        EvaluationSettings(metrics=("dsc", "dice"))


def test_more_than_the_reference_is_a_positive_difference(save):
    two = cube() | cube(0)[::-1]
    two[0, 0, 9] = 1
    row = measure(pair(save, two, cube()))
    extra = np.count_nonzero(two) - 64
    assert row.values["volume_difference"] == pytest.approx(100 * extra / 64)
    assert row.values["volume"] == pytest.approx((64 + extra) * 2 / 1000)
    assert (row.values["components"], row.values["reference_components"]) == (2, 1)


def test_images_by_hand(images):
    row = measure(images)
    assert (row.region, row.values["psnr"]) == ("mask", pytest.approx(20, abs=1e-5))
    arrays = [read_volume(images[name]).array for name in ("reference_image", "image", "mask")]
    assert row.values["ssim"] == ssim(*arrays)


def test_without_a_mask_images_are_compared_where_the_reference_is_not_0(save):
    reference = np.where(cube() > 0, scan(), 0)
    files = {"image": save("p.nii", reference + 5), "reference_image": save("r.nii", reference)}
    row = measure(files)
    assert row.values["psnr"] == pytest.approx(20 * math.log10(reference.max() / 5), abs=1e-4)
    assert row.region == "reference not 0"


def test_a_baseline_is_interpolated_by_splines_and_measured_beside(save):
    grid = Grid((20, 18, 24), (0.5, 0.5, 0.5), (3, -4, 5))
    reference = Volume.from_grid(scan(shape=grid.shape), grid)
    low = degrade(reference, (0.5, 0.5, 1.5))
    image = save("p.nii", reference.array + 1, grid.spacing, origin=grid.origin)
    truth = save("r.nii", reference.array, grid.spacing, origin=grid.origin)
    baseline = save("b.nii", low.array, low.spacing, origin=low.origin)
    row = measure({"image": image, "reference_image": truth, "baseline": baseline})
    spline, values = resample_to(low, grid).array, row.values
    assert values["psnr_spline"] == pytest.approx(psnr(reference.array, spline), abs=1e-4)
    assert values["psnr"] > values["psnr_spline"] > 0
    for name in ("psnr", "ssim"):
        assert values[f"{name}_gain"] == pytest.approx(values[name] - values[f"{name}_spline"])
    assert set(values) == {metric.name for metric in EvaluationSettings().columns([row.case])}


def test_a_baseline_that_covers_a_part_is_pointed_out(images, save, caplog):
    path = save("b.nii", scan()[:6])
    measure({**images, "baseline": path})
    assert f"{path}: covers only 50 % of the voxels compared" in caplog.text


def test_swapping_prediction_and_reference_swaps_what_is_not_symmetric(save):
    pairs = (cube() | cube(5), cube()), (cube(), cube() | cube(5))
    forth, back = (measure(pair(save, *arrays)).values for arrays in pairs)
    for name in ("dice", "hd95", "assd"):
        assert forth[name] == pytest.approx(back[name])
    assert forth["volume"] == back["reference_volume"] != forth["reference_volume"]


@pytest.mark.parametrize(
    ("prediction", "reference", "dice", "notes"),
    [
        (0, 0, 1, ("prediction empty", "reference empty")),
        (1, 0, 0, ("reference empty",)),
        (0, 1, 0, ("prediction empty",)),
    ],
)
def test_empty_segmentations_have_no_distance(save, prediction, reference, dice, notes):
    arrays = (cube() * np.uint8(prediction), cube() * np.uint8(reference))
    row = measure(pair(save, *arrays))
    assert (row.values["dice"], row.notes) == (dice, notes)
    assert math.isnan(row.values["hd95"]) and math.isnan(row.values["assd"])
    assert math.isnan(row.values["volume_difference"]) == (not reference)


def test_labels_and_thresholds_choose_the_class(save):
    both = cube(0, value=3) + cube(5, value=42)
    probability = np.where(cube(0) > 0, 0.6, 0.4).astype(np.float32)
    files = pair(save, probability, both)
    row = measure(files, labels=(3,))
    assert (row.values["dice"], row.notes) == (1, ("label from probabilities",))
    assert measure(files, labels=(3,), threshold=0.7).values["dice"] == 0
    assert measure(files, labels=(3, 42)).values["dice"] < 1
    files["label"] = files["reference_label"]
    assert measure(files, labels=(3,), predicted_labels=(3,)).values["dice"] == 1
    assert measure(files, labels=(3,), predicted_labels=(1, 2)).values["dice"] == 0


def test_axes_in_another_order_are_reordered(save, labels):
    array = cube(4).transpose(2, 0, 1)[::-1]
    direction = np.eye(3)[:, [2, 0, 1]] * [-1, 1, 1]
    place = {"spacing": (2, 1, 1), "origin": (0, 0, 18), "direction": direction}
    row = measure({**labels, "label": save("p.nii", array, **place)})
    assert (row.values, row.notes) == (measure(labels).values, ("label reordered",))


def test_another_grid_is_resampled_only_if_asked(save, labels, images):
    shifted = {"origin": (0, 0, 2.0)}
    label = save("p.nii", cube(), **shifted)  # one slice higher, now in its header
    image = save("i.nii", read_volume(images["reference_image"]).array, **shifted)
    case = Case(**{**labels, **images, "label": label, "image": image})
    (row,) = evaluate([case])
    assert (row.values, "--resample" in row.error) == ({}, True)
    (row,) = evaluate([case], EvaluationSettings(resample=True))
    assert row.notes == ("label resampled", "image resampled")
    assert row.values["dice"] == 0.75 and row.values["assd"] == pytest.approx(36 / 56)


def test_labels_are_resampled_by_the_nearest_and_probabilities_linearly(save, labels):
    # 0.4 slices higher: the nearest are where they were. Linearly the lowest slice has 0.54.
    place = {"origin": (0, 0, 0.8)}
    values = save("v.nii", cube(value=3), **place)
    row = measure({**labels, "label": values}, predicted_labels=(3,), resample=True)
    assert row.values["dice"] == 1
    chances = save("c.nii", (0.9 * cube()).astype(np.float32), **place)
    row = measure({**labels, "label": chances}, threshold=0.6, resample=True)
    assert row.values["dice"] == 2 * 48 / (48 + 64)
    assert row.notes == ("label resampled", "label from probabilities")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("dice", "iou")}, "metrics must be some of dice, .*, received 'iou'"),
        ({"metrics": ("dice", "dice")}, "metrics must differ"),
        ({"metrics": ("psnr",)}, "psnr compares images, but no case has both image and"),
        ({"threshold": 0}, "threshold must be a number above 0 and up to 1, received 0"),
        ({"threshold": 1.5}, "received 1.5"),
        ({"threshold": math.nan}, "received nan"),
    ],
)
def test_impossible_settings_are_refused(labels, settings, message):
    with pytest.raises(UserError, match=message):
        evaluate([Case(**labels)], EvaluationSettings(**settings))


def test_progress_counts_the_cases(labels):
    calls = []
    evaluate([Case(**labels), Case(**labels, name="b")], progress=lambda *call: calls.append(call))
    assert calls == [("cases", 0, 2, "truth"), ("cases", 1, 2, "b"), ("cases", 2, 2)]
