# SPDX-License-Identifier: MIT
"""The verdict on a result: what is measured, what is judged, and where it is told."""

import json

import numpy as np
import pytest
from scipy import ndimage
from training.samples import rows as read_rows
from volumes.samples import write_series

from segsrgan.inference import verdict
from segsrgan.inference.measures import mask_measures, scan_measures
from segsrgan.inference.predictor import Predictor
from segsrgan.inference.summary import Outcome, write_summary
from segsrgan.inference.verdict import CHECKS, FAIL, LOOK, PASS, judge
from segsrgan.volumes.nifti import write_volume
from segsrgan.volumes.reading import read_with_source
from segsrgan.volumes.volume import Volume

SPACING = (2.0, 2.0, 4.0)
IDS = {"ids": lambda value: getattr(value, "measure", None)}


def depth(shape=(70, 60, 32), radii=(60.0, 50.0, 55.0)):
    """How deep each voxel (x, y, z) lies in an ellipsoid: 1 in its middle, 0 on its surface."""
    places = np.indices(shape).transpose(1, 2, 3, 0) - (np.array(shape) - 1) / 2
    return 1 - np.sqrt(((places * SPACING / radii) ** 2).sum(-1))


def brain():
    """A stripped brain, so to speak: an ellipsoid of 690 ml with some texture."""
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(70, 60, 1)), 2)
    array = (depth() > 0) * (0.5 + texture / texture.std() * 0.15)
    return Volume(np.clip(array, 0, 1).astype(np.float32), SPACING)


def changed(scan, change):
    return scan.with_array(np.clip(change(scan.array), 0, 1).astype(np.float32))


def shifted(array):
    """Every second slice 3 pixels, that is 6 mm, off."""
    array = array.copy()
    array[..., ::2] = np.roll(array[..., ::2], 3, 0)
    return array


def shelled(array):
    """A skull 10 to 16 mm below the surface."""
    inside = ndimage.distance_transform_edt(depth() > 0, SPACING)
    return np.where((inside > 10) & (inside < 16), 0.01, array)


def with_noise(deviation):
    draw = np.random.default_rng(1).normal(0, deviation, depth().shape)
    return lambda array: array + draw


SPOILT = {
    "values": lambda scan: changed(scan, lambda array: np.round(3 * array) / 3),
    "noise_fraction": lambda scan: changed(scan, with_noise(0.1)),
    "background": lambda scan: changed(scan, lambda array: np.where(array == 0, 0.3, array)),
    "background_constant": lambda scan: changed(scan, lambda a: np.abs(with_noise(0.01)(a))),
    "head_volume": lambda scan: Volume(scan.array, tuple(3 * size for size in SPACING)),
    "head_elongation": lambda scan: Volume(scan.array, (6.0, 2.0, 4.0)),
    "head_cut": lambda scan: Volume(scan.array[:, :, 14:], SPACING),
    "head_dark": lambda scan: changed(scan, shelled),
    "slice_shift": lambda scan: changed(scan, shifted),
}


def reasons(measures, name):
    """The reasons that a verdict has for one measure."""
    return judge({name: measures[name]}).reasons


def test_a_scan_of_a_brain_alone_passes():
    measures = scan_measures(brain())
    assert judge(measures) == (PASS, ())
    assert measures["head_volume"] == pytest.approx(4 / 3 * np.pi * 6 * 5 * 5.5, rel=0.03)
    assert measures["head_length"] == pytest.approx(120, abs=4)
    assert measures["head_elongation"] == pytest.approx(1.2, abs=0.1)
    assert measures["slice_shift"] < 0.5


@pytest.mark.parametrize("name", SPOILT)
def test_what_spoils_a_scan_is_seen_in_its_measure(name):
    measures = scan_measures(SPOILT[name](brain()))
    (reason,) = reasons(measures, name)
    assert not reasons(scan_measures(brain()), name)
    check = next(check for check in CHECKS if check.measure == name)
    assert check.form.format(measures[name], check.digits) in reason


def test_measures_have_the_size_of_what_was_done():
    assert scan_measures(SPOILT["noise_fraction"](brain()))["noise_fraction"] == pytest.approx(
        0.1, rel=0.15
    )
    assert scan_measures(SPOILT["slice_shift"](brain()))["slice_shift"] == pytest.approx(6, abs=0.5)
    assert scan_measures(SPOILT["background"](brain()))["background"] == pytest.approx(0.3)
    assert scan_measures(brain().with_array(np.zeros((70, 60, 32), np.float32)))["head_volume"] == 0


def test_a_mask_is_measured_by_hand():
    """A slab of 20 x 20 x 2 voxels and an island of one."""
    mask, small = np.zeros((2, 30, 30, 30), bool)
    mask[5:25, 5:25, 10:12] = True
    mask[1, 1, 1] = small[1, 1, 1] = True
    probability = np.where(mask, 0.9, 0.0)
    probability[5:25, 5:25, 12] = 0.5
    found = mask_measures(probability, mask, small, 1, (0.5, 0.5, 0.5))
    assert found["volume"] == pytest.approx(0.1)  # 800 voxels of 1/8 mm^3
    # 100 mm^3, and 960 faces of 1/4 mm^2, of which two thirds are surface.
    assert found["thickness"] == pytest.approx(2 * 100 / 160)
    assert (found["islands"], found["in_islands"]) == (1, pytest.approx(1 / 801))
    assert found["unsure"] == pytest.approx(400 / 1201)
    assert "folding" not in found
    for head, usual in ((100, 10), (400, 10), (900, 15), (2000, 19)):
        found = mask_measures(probability, mask, small, 1, (0.5, 0.5, 0.5), head)
        assert found["folding"] == pytest.approx(1.6 / head ** (2 / 3) / usual)
    coarse = mask_measures(probability, mask, small, 1, (3.5, 0.5, 0.5), 900)
    assert coarse.keys() == {"volume", "islands", "unsure"}
    nothing = mask_measures(np.zeros((4, 4, 4)), *np.zeros((2, 4, 4, 4), bool), 0, (1.0, 1.0, 1.0))
    assert nothing == dict.fromkeys(("volume", "islands", "in_islands", "unsure"), 0)
    assert judge({"cortex_volume": 0.0}) == (FAIL, ("no cortex was found (fail)",))


@pytest.mark.parametrize("check", CHECKS, **IDS)
def test_values_beyond_the_bounds_are_named_with_the_bound(check):
    for level, (low, high) in ((LOOK, check.look), (FAIL, check.fail)):
        for bound, step in ((low, -1), (high, 1)):
            if not np.isfinite(bound):
                continue
            value = bound + step * (abs(bound) * 0.01 + 1e-6)
            found = judge({check.measure: value})
            assert found.level == level
            (reason,) = found.reasons
            assert f"({level}" in reason
            if "{}" in check.text:
                shown = check.form.format(abs(bound) if check.negative else bound, check.digits)
                assert shown in reason
            assert judge({check.measure: bound}).level != level
    assert np.isfinite((*check.look, *check.fail)).any()


@pytest.mark.parametrize(
    ("measure", "value", "reason"),
    [
        (
            "thickness_mismatch",
            -0.79,
            "its slices look 79% thinner than stated, or than they are apart (look above 40%)",
        ),
        (
            "thickness_mismatch",
            0.7,
            "its slices look 70% thicker than stated, or than they are apart (look above 60%)",
        ),
        ("missing_slices", 1, "slices that are missing or empty: 1 (look above 0)"),
        ("clipped", 1, "it has voxels far beyond all others, which were clipped (look)"),
        ("noise_fraction", 0.02504, "its noise is 2.504% of the range (look above 2.5%)"),
        ("noise_fraction", 0.05999, "its noise is 5.999% of the range (look above 2.5%)"),
        ("cortex_thickness", 1.04, "the cortex found is 1.0 mm thick (look below 1.4 mm)"),
        ("cortex_thickness", 0.499, "the cortex found is 0.499 mm thick (fail below 0.5 mm)"),
    ],
)
def test_reasons_say_what_was_found_in_as_many_digits_as_it_takes(measure, value, reason):
    assert judge({measure: value}).reasons == (reason,)


def test_the_worst_reason_makes_the_verdict_and_what_is_unknown_none():
    assert judge({}) == (PASS, ())
    assert judge({"noise": 1e6, "missing_slices": 0}) == (PASS, ())
    found = judge({"noise_fraction": 0.05, "head_volume": 9000.0, "head_cut": 0.7})
    assert found.level == FAIL and len(found.reasons) == 3
    assert judge({"noise_fraction": 0.05, "head_cut": 0.7}).level == LOOK


def test_lost_slices_and_two_voxel_sizes_are_known_to_the_verdict(tmp_path, echo):
    positions = [3.0 * k for k in range(12) if k not in (4, 7)]
    write_series(tmp_path / "lost", positions)
    uneven = [3.0 * k + 0.5 * (k == 4) for k in range(12)]
    write_series(tmp_path / "uneven", uneven)
    assert read_with_source(tmp_path / "lost")[1][4:6] == (2, False)
    assert read_with_source(tmp_path / "uneven")[1][4:6] == (0, True)
    path = tmp_path / "sizes.nii"
    write_volume(brain(), path)
    assert not read_with_source(path)[1].is_repaired
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([1, 1, 1], "<f4").tobytes()  # pixdim
    path.write_bytes(raw)
    assert read_with_source(path)[1].is_repaired
    prepared = Predictor(model=echo).prepare(tmp_path / "lost", 3)
    assert prepared.measures["missing_slices"] == 2
    assert any("missing or empty: 2" in reason for reason in judge(prepared.measures).reasons)


def test_slices_of_two_images_and_many_lost_ones_are_known_to_the_verdict(echo):
    array = brain().array.copy()
    array[..., ::2] *= 0.3
    predictor = Predictor(model=echo)
    measures = predictor.prepare(Volume(array, SPACING), 3).measures
    assert (measures["alternating"], measures["missing_slices"]) == (1, 0)
    assert judge({"alternating": 1}).level == LOOK
    array = brain().array.copy()
    array[..., 12:17] = 0
    measures = predictor.prepare(Volume(array, SPACING), 3).measures
    assert (measures["alternating"], measures["missing_slices"]) == (0, 5)


def test_a_prediction_has_a_verdict_with_either_geometry(echo):
    array = brain().array * 700
    array[..., 15] = 0
    for geometry in ("exact", "legacy"):
        scan = Volume(array, SPACING)
        result = Predictor(model=echo, geometry=geometry).predict(scan, 32, 16, 2)
        assert result.measures["missing_slices"] == 1
        assert result.measures["cortex_volume"] == pytest.approx(
            result.cortex_mask.array.sum() * 8e-3, rel=0.01
        )
        assert result.verdict == judge(result.measures)
        assert any("missing or empty: 1" in reason for reason in result.verdict.reasons)


def test_the_verdict_is_told_everywhere_and_strict_makes_it_the_status(
    tmp_path, table, job_model, identity, capsys, monkeypatch
):
    # The network finds no cortex in what is no brain.
    checks = [check for check in CHECKS if not check.measure.startswith("cortex")]
    monkeypatch.setattr(verdict, "CHECKS", checks)
    for name, scan in (("good", brain()), ("bad", SPOILT["head_volume"](brain()))):
        (tmp_path / name).mkdir()
        write_volume(scan, tmp_path / name / "t2.nii.gz")
    csv_path = table("good/t2.nii.gz", "bad/t2.nii.gz")
    flags = {"weights": identity, "patch": "32", "resolution": "6"}
    assert job_model(csv_path, **flags) == 0
    printed = capsys.readouterr()
    found = [row.split()[-1] for row in printed.out.splitlines()[2:]]
    rows = read_rows(csv_path.with_name("data_summary.csv"))
    assert found == [row["verdict"] for row in rows] and found[1] == FAIL != found[0]
    for row, folder in zip(rows, ("good", "bad"), strict=True):
        record = tmp_path / folder / "Result_with_identity" / "results.json"
        entry = json.loads(record.read_text())["results"]["patch_32_step_16"]
        assert (entry["verdict"], "; ".join(entry["reasons"])) == (row["verdict"], row["reasons"])
        assert judge(entry["measures"]) == (entry["verdict"], tuple(entry["reasons"]))
        line = next(line for line in printed.err.splitlines() if f"{folder}/t2.nii.gz, " in line)
        assert line.endswith(f"{row['verdict']}: {row['reasons']}" if row["reasons"] else PASS)
    # Results that are there already are judged, too.
    capsys.readouterr()
    assert job_model(csv_path, "--strict", **flags) == 1
    again = capsys.readouterr().err
    for row, folder in zip(rows, ("good", "bad"), strict=True):
        line = next(line for line in again.splitlines() if f"{folder}/t2.nii.gz, " in line)
        assert line.endswith(f"{row['verdict']}: {row['reasons']}" if row["reasons"] else PASS)
    assert [row["verdict"] for row in read_rows(csv_path.with_name("data_summary.csv"))] == found
    assert job_model(csv_path, "--strict", "--overwrite", **flags) == 1
    assert job_model(table("good/t2.nii.gz", name="one.csv"), "--strict", **flags) == 0
    record = tmp_path / "good" / "Result_with_identity" / "results.json"
    made = json.loads(record.read_text())
    del made["results"]["patch_32_step_16"]["verdict"]
    record.write_text(json.dumps(made))
    assert job_model(tmp_path / "one.csv", "--strict", **flags) == 0
    assert "has no verdict" in capsys.readouterr().err


def test_a_summary_of_version_3_0_is_replaced(tmp_path):
    old = tmp_path / "data_summary.csv"
    old.write_text("image,patch,step,result,seconds,peak_memory_MB,folder,detail\n")
    outcome = Outcome(tmp_path, 64, 32, "finished", tmp_path, verdict=LOOK, reasons=("a", "b"))
    assert write_summary([outcome], tmp_path / "data.csv") == old
    assert old.read_text().splitlines()[1].endswith(",look,a; b")
