# SPDX-License-Identifier: MIT
"""What is measured of a case, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from evaluation.conftest import cube, scan

from segsrgan.cli.evaluate import build_parser
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
    names = ("mba_3d", "ssim", "dsc", "us", "os")
    row = measure({**labels, **images}, metrics=names)
    columns = [metric.name for metric in EvaluationSettings(metrics=names).columns([row.case])]
    assert columns == ["boundary_agreement_3d", "ssim", "dice", "false_share", "missed_share"]
    assert set(row.values) == set(columns)


def test_more_than_the_reference_is_a_positive_difference(save):
    two = cube() | cube(0)[::-1]
    two[0, 0, 9] = 1
    row = measure(pair(save, two, cube()))
    extra = np.count_nonzero(two) - 64
    assert row.values["volume_difference"] == pytest.approx(100 * extra / 64)
    assert row.values["volume"] == pytest.approx((64 + extra) * 2 / 1000)
    assert row.values["reference_volume"] == pytest.approx(0.128)
    assert (row.values["components"], row.values["reference_components"]) == (2, 1)


def test_images_are_compared_in_the_mask_or_else_where_the_reference_is_not_0(save, images):
    row = measure(images)
    assert (row.region, row.values["psnr"]) == ("mask", pytest.approx(20, abs=1e-5))
    arrays = [read_volume(images[name]).array for name in ("reference_image", "image", "mask")]
    assert row.values["ssim"] == ssim(*arrays)
    reference = np.where(cube() > 0, scan(), 0)
    row = measure(
        {"image": save("p.nii", reference + 5), "reference_image": save("r.nii", reference)}
    )
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


@pytest.mark.parametrize(("prediction", "reference"), [(0, 0), (1, 0), (0, 1)])
def test_empty_segmentations_have_no_distance(save, prediction, reference):
    row = measure(pair(save, cube(value=prediction), cube(value=reference)))
    notes = {(0, 0): "class in neither", (1, 0): "reference empty", (0, 1): "prediction empty"}
    assert row.notes == (notes[prediction, reference],)
    dice = math.nan if prediction == reference else 0  # which the mean leaves out
    assert row.values["dice"] == pytest.approx(dice, nan_ok=True)
    assert math.isnan(row.values["hd95"]) and math.isnan(row.values["assd"])
    assert math.isnan(row.values["volume_difference"]) == (not reference)


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


def test_large_labels_are_told_apart_and_ignored_ones_pointed_out(save):
    truth = np.where(cube(), 576073732, 576073728).astype(np.uint32)
    files = pair(save, np.where(cube(4), 576073732, 0).astype(np.uint32), truth)
    labels = {"labels": (576073732,), "predicted_labels": (576073732,)}
    assert measure(files, **labels).values["dice"] == 0.75
    ignored = cube().astype(np.int16)
    ignored[0, 0] = -1
    row = measure(pair(save, cube(), ignored))
    assert row.notes == ("reference -1 counts",)
    assert row.values["dice"] == 2 * 64 / (64 + 74)
    row = measure(pair(save, cube() * 2 - np.int16(1), cube()))  # of -1 and 1 the larger
    assert (row.notes, row.values["dice"]) == ((), 1)
    (row,) = evaluate(
        [Case(**pair(save, cube(), truth.astype(np.float32)))], EvaluationSettings(labels=(2**25,))
    )
    assert "cannot be told apart" in row.error
    files = {"label": files["label"], "reference_label": files["label"]}
    assert measure(files).notes == ("label is its own reference",)


def test_a_reference_has_a_background_of_any_value(save):
    head = np.where(cube() > 0, scan(), 0)
    image = np.where(cube() > 0, head + 5, 60)  # which is measured in the head alone
    plain = measure({"image": save("p.nii", image), "reference_image": save("r.nii", head)})
    for offset in (-3.2, 0.4, -900):
        files = {"reference_image": head + offset, "image": image + offset}
        row = measure({role: save(f"{role}.nii", array) for role, array in files.items()})
        assert row.region == "reference not background"
        expected = ssim(*(array.astype(np.float32) for array in files.values()), cube())
        assert row.values["ssim"] == pytest.approx(expected, abs=1e-5)
        if offset == -900:  # as in a CT
            assert math.isnan(row.values["psnr"])
            assert row.notes[0].startswith("psnr undefined: the reference's largest value must be")
        else:
            assert row.values["psnr"] == pytest.approx(plain.values["psnr"], abs=0.2)


def test_progress_counts_the_cases(labels):
    calls = []
    evaluate([Case(**labels), Case(**labels, name="b")], progress=lambda *call: calls.append(call))
    assert calls == [("cases", 0, 2, "truth"), ("cases", 1, 2, "b"), ("cases", 2, 2)]
