# SPDX-License-Identifier: MIT
"""Simulated examinations, their truth and their record; collections as they are unpacked."""

import itertools
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from examinations import CENTRE, inside, intensity, points_of, same, touch_files

from segsrgan.cli.supermask_simulate import main
from segsrgan.errors import UserError
from segsrgan.volumes import Grid, Volume, dice, read_volume, write_volume
from supermask.geometry import Rigid, read_transform, rotation, sample
from supermask.patients import read_patients
from supermask.simulation import (
    Simulation,
    find_pairs,
    plan_cases,
    read_channel,
    simulate,
    write_table,
)

GRID = Grid((30, 26, 22), (2.0, 2.0, 2.0), tuple(CENTRE - (29, 25, 21)))
SMALL = Simulation(slices=(6,), spacing=2.0, angle=20, shift=3)


def scan(grid=GRID):
    points = points_of(grid)
    image = Volume.from_grid(intensity(points).astype(np.float32), grid)
    return image, Volume.from_grid(inside(points).astype(np.uint8), grid)


@pytest.fixture(scope="module")
def case():
    return simulate(*scan(), np.random.default_rng(3), SMALL)


def test_each_view_is_thick_along_its_own_axis(case):
    assert [view.name for view in case.views] == ["axial", "coronal", "sagittal"]
    assert [view.volume.spacing for view in case.views] == [(2, 2, 6), (2, 6, 2), (6, 2, 2)]
    assert all(view.volume.array.min() >= 0 and view.volume.array.max() <= 1 for view in case.views)


def test_the_reference_has_not_moved_and_the_others_within_their_bounds(case):
    assert same(case.transforms[0], Rigid())
    for transform in case.transforms[1:]:
        assert 0 < np.abs(transform.angles).max() <= np.deg2rad(20)
        assert 0 < np.abs(transform.translation).max() <= 3 * 2.0


def test_the_true_transforms_bring_the_views_back(case):
    grid, truth = case.truth.grid, case.truth.array
    for view, transform in zip(case.views, case.transforms, strict=True):
        assert dice(sample(view.mask, grid, transform) >= 0.5, truth) > 0.9
    assert dice(sample(case.views[1].mask, grid) >= 0.5, truth) < 0.9


def test_the_truth_is_a_cube_around_the_object(case):
    shape = case.truth.array.shape
    assert len(set(shape)) == 1 and shape[0] % 4 == 0
    assert dice(case.truth.array, inside(points_of(case.truth.grid))) > 0.97
    ends = [np.flatnonzero(case.truth.array.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    assert all(abs(end[0] + end[-1] - (shape[0] - 1)) <= 2 for end in ends)


def test_the_same_seed_gives_the_same_case(case):
    again = simulate(*scan(), np.random.default_rng(3), SMALL)
    other = simulate(*scan(), np.random.default_rng(4), SMALL)
    np.testing.assert_array_equal(again.views[1].volume.array, case.views[1].volume.array)
    assert again.transforms == case.transforms and other.transforms != case.transforms


@pytest.mark.parametrize("angles", [(0.2, 0.1, -0.1), (-0.7, 0.7, 0.3)])
def test_every_plane_has_an_axis_of_its_own_however_oblique_a_mask_without_image_is(angles):
    # Of the second two axes are nearest to the same one of the patient.
    turn = rotation(angles)
    grid = Grid(GRID.shape, GRID.spacing, tuple(CENTRE - turn @ (29, 25, 21)), turn)
    found = simulate(None, scan(grid)[1], np.random.default_rng(0), SMALL)
    assert sorted(view.axis for view in found.views) == [0, 1, 2]
    if angles[0] > 0:
        np.testing.assert_allclose(found.truth.direction, turn, atol=1e-6)
        assert [view.plane for view in found.views] == ["axial", "coronal", "sagittal"]


def test_noise_is_a_fraction_of_the_views_range():
    settings = (replace(SMALL, contrast=False, noise=noise) for noise in (0, 0.1))
    found = (simulate(*scan(), np.random.default_rng(0), item) for item in settings)
    clean, noisy = (case.views[0].volume.array for case in found)
    assert (noisy - clean).std() == pytest.approx(0.1 * np.ptp(clean), rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": (1,)}, "slices must be one distance or 3, above the spacing"),
        ({"slices": (8, 8)}, "slices must be"),
        ({"planes": ("axial", "axial")}, "planes must differ"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(UserError, match=message):
        Simulation(**change)


def test_beyond_the_field_of_view_is_air(case):
    image, mask = scan()
    air = image.with_array(image.array * 1000 - 1000)
    found = simulate(air, mask, np.random.default_rng(3), SMALL)
    assert found.image.array.min() < -900
    np.testing.assert_allclose(found.image.array, case.image.array * 1000 - 1000, atol=0.1)


def test_cases_never_share_a_folder(tmp_path):
    plans = plan_cases(["x/a_3.nii", "y/a.nii", "z/a.nii", "z/A.nii"], None, tmp_path)
    names = [plan.folder.name for plan in plans]
    assert names[:2] == ["a_3", "a"] and len({name.lower() for name in names}) == 4


@pytest.fixture
def files(tmp_path):
    image, mask = scan()
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        write_volume(image, tmp_path / "imagesTr" / f"{name}.nii.gz")
        write_volume(mask, tmp_path / "labelsTr" / f"{name}.nii.gz")
    return tmp_path


FLAGS = "--slices 6 --spacing 2 --angle 20 --shift 3 --quiet".split()


@pytest.fixture
def run(files):
    """The command for both volumes; its exit status."""

    def command(*flags, source=("--path", files)):
        flags = (*source, "-o", files / "cases", *FLAGS, *flags)
        return main([str(flag) for flag in flags])

    return command


@pytest.fixture
def axial(files):
    """The first stack of the first case."""
    return files / "cases" / "a" / "axial.nii.gz"


def listed(files):
    return read_patients(files / "cases" / "cases.csv")


def test_the_command_writes_cases_that_the_others_read(files, run, axial, capsys):
    assert run("--test", "0.5") == 0
    patients = listed(files)
    found = [(p.name, p.base, len(p.views)) for p in patients]
    assert found == [("a", "Train", 3), ("b", "Test", 3)]
    assert all(path.is_file() for p in patients for path in (*p.views, *p.masks, p.truth))
    transform = read_transform(axial.parent / "true_coronal_to_axial.tfm")
    truth, mask = (read_volume(axial.parent / f"{n}.nii.gz") for n in ("truth", "coronal_mask"))
    assert dice(sample(mask, truth.grid, transform) >= 0.5, truth.array) > 0.85
    before = axial.stat().st_mtime_ns
    assert run("--test", "0.5") == 0
    assert axial.stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""


def test_the_table_lists_the_cases_of_earlier_calls_too(files, run):
    for name, plane in (("a", "coronal"), ("b", "sagittal")):
        source = ("--masks", files / "labelsTr" / f"{name}.nii.gz")
        assert run("--planes", "axial", plane, source=source) == 0
    assert [(p.name, [v.name for v in p.views]) for p in listed(files)] == [
        ("a", ["axial.nii.gz", "coronal.nii.gz"]),
        ("b", ["axial.nii.gz", "sagittal.nii.gz"]),
    ]


def test_a_volume_replaced_while_it_is_simulated_has_changed(files, run, capsys, monkeypatch):
    def replacing(*args):
        os.utime(files / "imagesTr" / "a.nii.gz", (1, 1))
        return simulate(*args)

    monkeypatch.setattr("supermask.simulation.simulate", replacing)
    assert (run(), run()) == (0, 1)
    assert "a: is finished, but with files that have changed since" in capsys.readouterr().err


def test_cases_of_version_3_0_0_are_finished_and_listed(files, run, axial):
    assert run() == 0
    for name in ("a", "b"):
        path = files / "cases" / name / "case.json"
        entry = json.loads(path.read_text())["results"][""]
        path.write_text(json.dumps({"supermask": "3.0.0", "whole": name == "a", **entry}))
    before = axial.stat().st_mtime_ns
    write_table(files / "cases")
    assert [p.name for p in listed(files)] == ["a"]
    assert run() == 0
    assert axial.stat().st_mtime_ns == before and len(listed(files)) == 2


def test_a_finished_case_of_other_settings_is_not_the_one_wanted(run, axial, capsys):
    assert run() == 0
    before = axial.read_bytes()
    for flags, made in (("--slices 8", "slices [6.0, 6.0, 6.0]"), ("--labels 7", "labels None")):
        assert run(*flags.split()) == 1
        assert f"is finished, but with {made}; --overwrite" in capsys.readouterr().err
    assert axial.read_bytes() == before


def image_is_damaged(files):
    (files / "imagesTr" / "a.nii.gz").write_bytes(b"damaged")


def mask_of(change):
    def changed(files):
        path = files / "labelsTr" / "a.nii.gz"
        write_volume(change(read_volume(path)), path)

    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (image_is_damaged, "a.nii.gz"),
        (mask_of(lambda mask: mask.with_array(0 * mask.array)), "the mask is empty"),
        (
            mask_of(lambda mask: mask.with_array(np.where(mask.array, np.float32(np.nan), 0))),
            "a.nii.gz: has voxels that are NaN or inf",
        ),
        (
            mask_of(lambda mask: Volume(mask.array, mask.spacing, (0, 0, 0))),
            "a.nii.gz: its mask has as many voxels but lies up to",
        ),
    ],
)
def test_a_volume_that_fails_is_named_leaves_nothing_and_the_others_go_on(
    files, run, axial, caplog, damage, message
):
    damage(files)
    assert run() == 1 and message in caplog.text and not axial.parent.exists()
    assert [p.name for p in listed(files)] == ["b"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "give either --path or --masks"),
        ("--masks m.nii --images a.nii b.nii", "expected as many images as masks"),
        ("--path . --images a.nii", "--images goes with --masks"),
        ("--masks m.nii --slices 0.5", "slices must be one distance"),
        ("--masks m.nii --repeat 0", "repeat must be at least 1"),
    ],
)
def test_wrong_flags_are_explained(tmp_path, capsys, flags, message):
    assert main([*flags.split(), "-o", str(tmp_path / "cases")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cases").exists()


def test_a_table_of_others_is_never_replaced(files, run, capsys):
    table = files / "cases" / "cases.csv"
    table.parent.mkdir()
    table.write_text("mine,truth\n")
    assert run() == 2 and "is not a table of simulated cases" in capsys.readouterr().err
    assert table.read_text() == "mine,truth\n" and len(list(table.parent.iterdir())) == 1


@pytest.fixture
def found(tmp_path):
    """The pairs, relative to the folder, of a collection of empty files."""

    def pairs(names, modality="flair"):
        touch_files(tmp_path, *names)
        both = find_pairs(tmp_path, modality)
        return [tuple(str(path.relative_to(tmp_path)) for path in pair) for pair in both]

    return pairs


def test_a_task_of_the_decathlon(found):
    parts = [f"{folder}/la_0{k}.nii.gz" for k in (10, 20) for folder in ("imagesTr", "labelsTr")]
    others = "labelsTr/._la_010.nii.gz", "imagesTs/la_001.nii.gz", "dataset.json"
    assert found([*parts[::-1], *others]) == [tuple(parts[:2]), tuple(parts[2:])]


BRATS = {
    "B20_{0}/B20_{0}_{1}.nii": ("seg", "flair", "t1", "t1ce", "t2"),
    "GLI-{0}/GLI-{0}-{1}.nii.gz": ("seg", "t2f", "t1n", "t1c", "t2w"),
    "{0}/X.O.{1}/X.O.{1}.mha": ("OT.6", "MR_Flair.7", "MR_T1.8", "MR_T1c.9", "MR_T2.9"),  # 2015
    "{0}/X.O.{1}.mha": ("OT.6", "MR_Flair.7", "MR_T1.8", "MR_T1c.9", "MR_T2.9"),
}


@pytest.mark.parametrize("pattern", BRATS)
def test_brats_of_all_years(found, pattern):
    patients = [[pattern.format(name, end) for end in BRATS[pattern]] for name in ("p1", "p2")]
    names = list(itertools.chain(*patients))
    for k, modality in enumerate(("flair", "t1", "t1ce", "t2"), start=1):
        assert found(names, modality) == [(patient[k], patient[0]) for patient in patients]


@pytest.mark.parametrize(
    ("names", "modality", "message"),
    [
        ("", "flair", "holds neither labelsTr"),
        ("", "pet", "received 'pet'"),
        ("a/a_seg.nii b/b_seg.nii b/b_flair.nii", "flair", "1 of 2 masks .*, such as .*a_seg.nii"),
        ("a/X.O.OT.1.mha a/X.O.MR_T1.7.mha", "flair", "1 of 1 masks have no image"),
    ],
)
def test_what_is_no_collection_or_an_incomplete_one_is_refused(found, names, modality, message):
    with pytest.raises(UserError, match=message):
        found(names.split(), modality)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_pairs(tmp_path / "nowhere")


def test_one_channel_of_several_is_read(tmp_path):
    channels = np.random.default_rng(0).random((2, 4, 5, 6), np.float32)  # c, z, y, x
    frames = [sitk.GetImageFromArray(channel) for channel in channels]
    for frame in frames:
        frame.SetSpacing((1, 1, 3))
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / "four.nii.gz"))
    found = read_channel(tmp_path / "four.nii.gz", 1)
    np.testing.assert_array_equal(found.array, channels[1].T)
    assert found.spacing == (1, 1, 3)
    with pytest.raises(UserError, match="channel must be from 0 to 1, received 2"):
        read_channel(tmp_path / "four.nii.gz", 2)
    sitk.WriteImage(frames[0], str(tmp_path / "three.nii.gz"))
    np.testing.assert_array_equal(read_channel(tmp_path / "three.nii.gz").array, channels[0].T)
