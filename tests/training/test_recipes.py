# SPDX-License-Identifier: MIT
"""The recipes of the weights that ship, a few updates each on volumes of a few voxels."""

from pathlib import Path

import keras
import numpy as np
import pytest
from training.heads import head, write_map, write_maps
from training.samples import ball, rows, write_table

from benchmarks.weights import HELD_OUT
from segsrgan.cli.train import settings_of
from segsrgan.networks import describe
from segsrgan.SegSRGAN_training import main
from segsrgan.tables import read_table
from segsrgan.training.run import Loop
from segsrgan.volumes import write_volume

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "weights" / "recipes"
STAGES = ("1_image", "2_both")

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


def train(data, stage, *flags):
    run = data / stage
    words = ["--csv", data / "data.csv", "--synthetic", data / "maps.csv", "--base_path", data]
    words += ["-sf", run, "-dice", run / "dice.csv", "-mse", run / "mse.csv", "--epoch", 1]
    words += ["--patch_size", 16, "--steps", 2, "--tensorboard", "False", *flags]
    assert main(["--config", str(RECIPES / f"{stage}.toml"), *map(str, words)]) == 0


def test_both_stages_train_what_ships(data, monkeypatch):
    first, second = (data / stage / "SegSRGAN_epoch_1" for stage in STAGES)
    with monkeypatch.context() as patch:
        # Updates minimise the same in either stage, and tracing them takes seconds.
        patch.setattr(Loop, "run", lambda loop: loop.save_weights(first, {}))
        train(data, STAGES[0], "--kernel_gen", 2, "--growth_gen", 1, "--blocks_gen", 1)
    train(data, STAGES[1], "--weights", first)
    (row,) = rows(second.parent / "history.csv")
    assert all(np.isfinite(float(row[name])) for name in ("generator_loss", "psnr", "dice"))
    expected = describe(ROOT / "weights" / "synthetic_unet_8.h5")["generator"]
    small = {**expected, "kernel": 2, "growth": 1, "blocks": 1}
    assert describe(second)["generator"] == small


def test_the_recipes_say_what_the_card_says():
    files = "-sf r -dice d -mse m".split()
    first, second = (
        settings_of(["--config", str(RECIPES / f"{stage}.toml"), *files, *weights])
        for stage, weights in zip(STAGES, ((), ("-w", "first")), strict=True)
    )
    for ours, rate, weights in ((first, 2e-3, (400, 0.3, 0.3)), (second, 1.5e-3, (60, 0.3, 0.6))):
        assert (ours.lrgen, ours.batch_size, ours.epoch * ours.steps) == (rate, 2, 3200)
        assert (ours.lambda_image, ours.lambda_entropy, ours.lambda_dice) == weights
        assert (ours.nu, ours.patch_size, ours.precision) == (0.03, 64, "mixed_bfloat16")
    known = describe(ROOT / "weights" / "synthetic_unet_8.h5")["generator"]
    ours = (first.kernel_gen, first.blocks_gen, first.growth_gen, first.head_gen)
    assert ours == tuple(known[name] for name in ("kernel", "blocks", "growth", "head"))


def test_what_is_left_out_for_the_scores_is_never_trained_on():
    images = read_table(RECIPES / "images.csv", "").rows
    maps = read_table(RECIPES / "maps.csv", "").rows
    trained = [row.get("HR_image") for row in images if row.get("Base") == "Train"]
    trained += [row.get("Label_map") for row in maps]
    assert len(trained) == 12 + 12 + 17
    assert not [name for name in trained if any(word in name for word in HELD_OUT)]
    fractions = {"fetal": 0.0, "freesurfer": 0.0}
    for row in maps:
        fractions[row.get("Tissues")] += float(row.get("Fraction"))
    # 40 % of all patches are real, 15 % and 45 % painted on either kind of map.
    assert fractions == pytest.approx({"fetal": 0.25, "freesurfer": 0.75}, abs=1e-4)
