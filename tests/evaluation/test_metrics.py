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
    row = measure({**labels, **images}, metrics=("mba_3d", "ssim", "dsc"))
    columns = EvaluationSettings(metrics=("mba_3d", "ssim", "dsc")).columns([row.case])
    assert [metric.name for metric in columns] == ["boundary_agreement_3d", "ssim", "dice"]
    assert set(row.values) == {"boundary_agreement_3d", "ssim", "dice"}


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
    empty = {"prediction empty": not prediction, "reference empty": not reference}
    assert row.notes == tuple(note for note, is_true in empty.items() if is_true)
    assert row.values["dice"] == (prediction == reference)
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


def test_progress_counts_the_cases(labels):
    calls = []
    evaluate([Case(**labels), Case(**labels, name="b")], progress=lambda *call: calls.append(call))
    assert calls == [("cases", 0, 2, "truth"), ("cases", 1, 2, "b"), ("cases", 2, 2)]
