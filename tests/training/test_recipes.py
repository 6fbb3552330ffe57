# SPDX-License-Identifier: MIT
"""The recipes of the weights that ship, a few updates of each on volumes of a few voxels."""

import math
import shlex
import shutil
import subprocess
import sys
from inspect import signature
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from training.heads import head, write_map, write_maps
from training.samples import ball, rows, write_table

from benchmarks.weights import HELD_OUT
from segsrgan import Predictor
from segsrgan.cli.train import settings_of
from segsrgan.networks import GeneratorSpec, describe, generator_shapes
from segsrgan.SegSRGAN_training import main
from segsrgan.tables import read_table
from segsrgan.volumes import write_volume

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "weights" / "recipes"
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="by default the training is TensorFlow's"
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two images whose labels have several values, two label maps, and the CSVs of both."""
    monkeypatch.chdir(ROOT)
    ball_of = {"shape": (32, 32, 32), "radius": 12, "spacing": (0.8,) * 3}
    write_table(tmp_path, **ball_of)
    _, label = ball(**ball_of)
    for index in range(2):
        labels = label.with_array(np.where(label.array > 0, 5, 3).astype("float32"))
        write_volume(labels, tmp_path / f"label{index}.nii.gz")
    fetal = np.select([head() == 2, head() == 3, head() == 24], [1, 5, 4], 0)
    write_map(tmp_path / "fetal.nii.gz", fetal, (0.8,) * 3)
    rows = ["head0.nii.gz,3 42,freesurfer,0.5,1.3,0.75", "fetal.nii.gz,5,fetal,0.7,1.2,0.25"]
    header = "Label_map,Cortex,Tissues,Scale_min,Scale_max,Fraction"
    write_maps(tmp_path, 1, header, rows)
    yield tmp_path
    keras.config.set_dtype_policy("float32")


def recipe(name, *flags):
    return ["--config", str(RECIPES / f"{name}.toml"), *map(str, flags)]


@pytest.mark.parametrize(("name", "labels", "voxels"), [("cortex", (), 4), ("brain", (5,), 0)])
def test_a_recipe_trains_the_network_it_describes(data, name, labels, voxels):
    run = data / "run"
    words = ["--csv", data / "data.csv", "--synthetic", data / "maps.csv", "--base_path", data]
    words += ["-sf", run, "-dice", run / "dice.csv", "-mse", run / "mse.csv", "--epoch", 1]
    words += ["--levels_gen", "2,2,2", "--patch_size", 16, "--steps", 2, "--tensorboard", "False"]
    words += ["--label_values", *labels] if labels else []
    assert main(recipe(name, *words)) == 0
    (row,) = rows(run / "history.csv")
    assert all(np.isfinite(float(row[name])) for name in ("generator_loss", "psnr", "dice"))
    spec = describe(run / "SegSRGAN_epoch_1")["generator"]
    assert spec["levels"] == [2, 2, 2]
    assert (spec["interp"], spec.get("slice_voxels"), spec["scaled"]) == ("profile", voxels, True)


def test_the_recipe_says_what_the_documents_say():
    ours = settings_of(recipe("cortex", *"-sf r -dice d -mse m".split()))
    spec = GeneratorSpec(levels=ours.levels_gen)
    assert sum(map(math.prod, generator_shapes(spec).values())) == 4869760
    assert (ours.optimizer, ours.lrgen, ours.batch_size, ours.patch_size) == ("muon", 4e-3, 2, 64)
    assert ours.epoch * ours.steps == 16000
    assert (ours.lambda_image, ours.lambda_entropy, ours.lambda_dice, ours.nu) == (3, 1, 1, 1)


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_weights_ends_with_the_patches_of_applying(monkeypatch):
    command = ["make", "-n", "weights", "data=data", f"python={sys.executable}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    lines = [shlex.split(line) for line in printed.stdout.splitlines() if "segsrgan train" in line]
    monkeypatch.chdir(ROOT)
    stages = [settings_of(line[2:]) for line in lines]
    applying = signature(Predictor.predict).parameters["patch"].default
    assert [stage.patch_size for stage in stages] == [64, 96, applying]
    assert len({stage.seed for stage in stages}) == 3
    assert len({stage.snapshot_folder for stage in stages}) == 3
    for before, stage in pairwise(stages):
        assert f"{before.snapshot_folder}/SegSRGAN_epoch" in stage.weights
        assert not stage.zero_head


def test_what_is_left_out_for_the_scores_is_never_trained_on():
    images = read_table(RECIPES / "images.csv", "").rows
    maps = read_table(RECIPES / "maps.csv", "").rows
    trained = [row.get("HR_image") for row in images if row.get("Base") == "Train"]
    trained += [row.get("Label_map") for row in maps]
    heads, scored = (
        [row.get("Label_map") for row in read_table(RECIPES / name, "").rows]
        for name in ("heads.csv", "heads_test.csv")
    )
    assert (len(heads), len(scored)) == (12 + 17, 6)
    assert all(any(word in name for word in HELD_OUT) for name in scored)
    assert not [name for name in heads if any(word in name for word in HELD_OUT)]
    assert len(trained) == 12 + 8 + 12 + 17 + 5
    assert not [name for name in trained if any(word in name for word in HELD_OUT)]
    fractions = {"fetal": 0.0, "freesurfer": 0.0}
    for row in maps:
        fractions[row.get("Tissues")] += float(row.get("Fraction"))
    # 25 % of all patches are real, 27 % and 48 % painted on either kind of map.
    assert fractions == pytest.approx({"fetal": 0.36, "freesurfer": 0.64}, abs=1e-4)
