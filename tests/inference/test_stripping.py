# SPDX-License-Identifier: MIT
"""The brain in a head: what is made of a network's answer, and what a result shows of it."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy import ndimage

from segsrgan.cli import strip
from segsrgan.errors import UserError
from segsrgan.inference.predictor import Predictor, brain_finder
from segsrgan.inference.stripping import Brain, find_brain
from segsrgan.volumes import Volume, read_volume, resample_to, write_volume

SHAPE, SPACING = (48, 56, 40), (2.0, 2.0, 3.0)


def distances(centre=0.0):
    """Distances in mm from a point beside the middle, along the first axis."""
    axes = [np.arange(n) - (n - 1) / 2 for n in SHAPE]
    mm = [axis * size for axis, size in zip(axes, SPACING, strict=True)]
    mm[0] = mm[0] - centre
    return np.sqrt(sum(np.square(x) for x in np.meshgrid(*mm, indexing="ij")))


RADIUS, SKIN = 30.0, 45.0
BRAIN, HEAD = distances() < RADIUS, distances() < SKIN
TEXTURE = np.random.default_rng(0).uniform(0.3, 0.6, SHAPE).astype(np.float32)


def volume(array):
    return Volume(np.asarray(array, np.float32), SPACING)


def heads(brain_alone=False):
    """A scan of a head, bright outside the brain, or of a brain."""
    return volume(np.where(BRAIN, TEXTURE, 0 if brain_alone else np.where(HEAD, 1.0, 0.0)))


class Finder:
    """A predictor that finds parts of the phantom, on voxels of the size it is asked for."""

    def __init__(self, *parts):
        self.parts, self.seen = parts or (BRAIN,), None

    def predict(self, image, patch, new_resolution):
        assert patch is None
        self.seen = image
        grid = image.grid.corner_aligned(new_resolution)
        mask = volume(np.any(self.parts, axis=0))
        array = resample_to(mask, grid, spline_order=1).array ** np.log2(5)  # 0.2 at the border
        return SimpleNamespace(cortex=Volume.from_grid(array, grid))


@pytest.fixture
def predictor(echo, monkeypatch):
    """Return a function: a predictor that repeats its input, and finds the brain as it is told."""

    def make(*parts, **settings):
        finder = Finder(*parts)
        monkeypatch.setattr(Predictor, "_stripper", finder)
        return Predictor(model=echo, consistency="off", **settings), finder

    return make


def overlap(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def test_the_brain_is_one_part_without_holes():
    small, hole = distances(-44) < 6, distances() < 8
    brain = find_brain(heads(), Finder((BRAIN & ~hole) | small))
    mask = brain.on(heads().grid)
    assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1
    assert not (ndimage.binary_fill_holes(mask) & ~mask).any()
    assert overlap(mask, BRAIN) > 0.97
    assert brain.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.03)
    assert brain.probability.spacing == (3.0, 3.0, 3.0)


def test_what_is_unsure_of_a_brain_is_a_fraction_of_it():
    probability = np.array([0, 0.1, 0.3, 0.7, 0.9]).reshape(5, 1, 1)
    assert Brain(volume(probability), True).unsure == pytest.approx(2 / 3)
    assert Brain(volume(probability * 0), False).unsure == 0


def test_the_finder_sees_coarse_voxels_without_aliasing():
    finder = Finder()
    fine = np.indices(SHAPE)[0] % 2  # a pattern that 3 mm cannot hold
    find_brain(volume(fine), finder)
    assert finder.seen.spacing == (3.0, 3.0, 3.0)
    assert finder.seen.array[4:-4].std() < 0.1


@pytest.mark.parametrize(("alone", "expected"), [(False, True), (True, False)])
def test_a_head_is_told_from_a_brain(alone, expected):
    assert find_brain(heads(alone), Finder()).is_inside_head is expected


def test_noise_around_a_brain_makes_no_head():
    noise = np.random.default_rng(1).normal(0, 0.02, SHAPE)
    assert not find_brain(
        volume(heads(brain_alone=True).array + abs(noise)), Finder()
    ).is_inside_head


@pytest.mark.parametrize("radius", [0, 15])
def test_nothing_and_little_are_no_brain(radius):
    brain = find_brain(heads(), Finder(distances() < radius))
    assert (brain.volume, brain.is_inside_head) == (0, False)


@pytest.mark.parametrize("strip", ["auto", "yes"])
def test_the_network_sees_the_brain_and_the_result_keeps_the_head(predictor, strip):
    ours, _ = predictor(strip=strip)
    result = ours.predict(heads(), patch=16, new_resolution=SPACING)
    mask = result.brain_mask.array > 0
    assert overlap(mask, BRAIN) > 0.97
    # The network repeats what it sees as the probability, too.
    np.testing.assert_array_equal(result.cortex.array > 0, mask)
    np.testing.assert_allclose(result.sr.array, heads().array, atol=1e-5)
    assert result.measures["brain_volume"] == pytest.approx(113, rel=0.05)
    assert 0 < result.measures["brain_unsure"] < 0.3
    assert result.measures["head_volume"] == pytest.approx(113, rel=0.1)


def test_the_image_is_the_same_with_and_without_stripping(monkeypatch):
    monkeypatch.setattr(Predictor, "_stripper", Finder())
    scan = keras.Input((None, None, None, 1))
    blurred = keras.layers.AveragePooling3D(3, 1, "same")(scan)
    model = keras.Model(scan, keras.layers.Concatenate()([blurred, blurred]))
    yes, no = (
        Predictor(model=model, strip=choice, flips=2, maps=True).predict(
            heads(), patch=16, new_resolution=SPACING
        )
        for choice in ("yes", "no")
    )
    for name in ("sr", "sr_disagreement"):
        np.testing.assert_array_equal(getattr(yes, name).array, getattr(no, name).array)
    assert (yes.cortex.array != no.cortex.array)[BRAIN].any()


@pytest.mark.parametrize("settings", [{}, {"strip": "no"}])
def test_what_needs_no_stripping_gets_none(predictor, settings):
    ours, finder = predictor(**settings)
    scan = heads(brain_alone=not settings)
    result = ours.predict(scan, patch=None, new_resolution=SPACING)
    assert result.brain_mask is None and "brain_volume" not in result.measures
    assert (finder.seen is not None) == (not settings)
    shown = scan.array / scan.array.max()
    np.testing.assert_allclose(result.cortex.array, shown, atol=1e-5)


def test_small_objects_are_not_looked_at_by_themselves(predictor):
    ours, finder = predictor(strip="auto")
    small = Volume(TEXTURE[:16, :16, :12], (1.0, 1.0, 2.0))
    ours.predict(small, patch=8, new_resolution=1)
    assert finder.seen is None


def test_a_brain_that_is_not_found_is_an_error_only_where_it_was_asked_for(predictor):
    nothing = np.zeros(SHAPE, bool)
    ours, finder = predictor(nothing, strip="auto")
    assert ours.predict(heads(), patch=None, new_resolution=3).brain_mask is None
    assert finder.seen is not None
    ours, _ = predictor(nothing, strip="yes")
    with pytest.raises(UserError, match="the image: no brain was found in it; strip=no takes"):
        ours.predict(heads(), patch=None, new_resolution=3)


def test_a_job_writes_the_mask_beside_the_results_and_records_the_choice(
    job_model, identity, table, tmp_path, monkeypatch
):
    monkeypatch.setattr(Predictor, "_stripper", Finder())
    write_volume(heads(), tmp_path / "head.nii.gz")
    for choice, count in (("no", 0), ("yes", 1)):
        flags = "--strip", choice, "--result_folder_name", choice
        assert (
            job_model(table(tmp_path / "head.nii.gz"), *flags, weights=identity, resolution="2")
            == 0
        )
        folder = tmp_path / f"Result_with_{choice}"
        assert len(list(folder.glob("*/Brain_mask_*.nii.gz"))) == count
        (made,) = json.loads((folder / "results.json").read_text())["results"].values()
        assert made["settings"]["strip"] == choice and ("brain_volume" in made["measures"]) == count


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return a function that runs the command, on `head.nii.gz`, in a folder."""
    monkeypatch.chdir(tmp_path)
    write_volume(heads(), tmp_path / "head.nii.gz")
    monkeypatch.setattr("segsrgan.inference.predictor.brain_finder", Finder)
    return lambda *flags: strip.main([str(flag) for flag in flags])


def test_the_command_writes_mask_and_brain_beside_the_image_or_elsewhere(command, capsys):
    assert command("head.nii.gz") == 0
    assert "head_brain_mask.nii.gz: 11" in capsys.readouterr().out
    mask, brain = (read_volume(f"head_brain{end}.nii.gz") for end in ("_mask", ""))
    inside = mask.array > 0
    assert overlap(inside, BRAIN) > 0.97
    np.testing.assert_allclose(brain.array, np.where(inside, heads().array, 0), rtol=1e-6)
    assert command("head.nii.gz", "-o", "new/folder", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert read_volume("new/folder/head_brain_mask.nii.gz").grid.is_close(mask.grid)


def test_the_command_replaces_nothing_by_itself(command, tmp_path, capsys):
    (tmp_path / "head_brain.nii.gz").write_text("precious")
    assert command("head.nii.gz") == 1
    assert "head_brain.nii.gz exists already; --overwrite" in capsys.readouterr().err
    assert (tmp_path / "head_brain.nii.gz").read_text() == "precious"
    assert command("head.nii.gz", "--overwrite") == 0
    assert read_volume("head_brain.nii.gz").array.any()
    first = (tmp_path / "head_brain.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert command(".") == 0, "of a folder, whose results are no scans"
    assert capsys.readouterr().out.count("kept; --overwrite") == 1
    assert (tmp_path / "head_brain.nii.gz").stat().st_mtime_ns == first


def test_the_command_says_what_is_wrong(command, tmp_path, monkeypatch, capsys):
    write_volume(heads(), tmp_path / "head.nii")
    assert command("head.nii*") == 2
    (tmp_path / "head.nii").unlink()
    assert "several images would write it" in capsys.readouterr().err
    nothing = Finder(np.zeros(SHAPE, bool))
    monkeypatch.setattr("segsrgan.inference.predictor.brain_finder", lambda: nothing)
    assert command("head.nii.gz") == 1
    assert "head.nii.gz: no brain was found in it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["head.nii.gz"]


def test_an_image_that_fails_does_not_stop_the_others(command, tmp_path, capsys):
    write_volume(volume(np.where(BRAIN, np.nan, TEXTURE)), tmp_path / "nan.nii.gz")
    assert command("none.nii.gz", "nan.nii.gz", "head.nii.gz") == 1
    said = capsys.readouterr().err
    assert "none.nii.gz" in said
    assert f"nan.nii.gz: voxels must be finite numbers, received {BRAIN.sum()} of" in said
    assert read_volume("head_brain.nii.gz").array.any()


def test_an_interrupted_command_leaves_no_half_of_its_results(command, tmp_path, monkeypatch):
    def interrupted(volume, path):
        if path.name == "head_brain.nii.gz":
            raise KeyboardInterrupt
        write_volume(volume, path)

    monkeypatch.setattr("segsrgan.volumes.write_volume", interrupted)
    assert command("head.nii.gz") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["head.nii.gz"]


def test_a_brain_that_touches_the_borders_is_shown_with_nothing_around_it():
    seen = Finder()
    inner = volume(heads(brain_alone=True).array[12:36, 14:42, 10:30])
    find_brain(inner, seen)
    array = seen.seen.array
    extent = np.array(array.shape) * 3 - np.array(inner.array.shape) * SPACING
    assert (extent / 2 >= 40).all()
    assert not array[:12].any() and not array[..., -12:].any() and array[array.shape[0] // 2].any()


def test_of_the_voxels_that_the_finder_sees_nothing_is_told(predictor, caplog):
    scan = heads(brain_alone=True).array.copy()
    scan[24] = 0
    find_brain(volume(scan), brain_finder())
    assert not caplog.text
    predictor(strip="no")[0].predict(volume(scan), None, None, 3.0)
    assert "the image: slice 25 of 48 along axis 1 is empty" in caplog.text
