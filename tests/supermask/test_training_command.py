# SPDX-License-Identifier: MIT
"""The command `supermask-train`: its flags, files, messages and exit statuses."""

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from patients import write_masks

from segsrgan.cli.train import SUPERMASK, build_parser, settings_of
from segsrgan.cli.train import supermask_main as main
from segsrgan.tables import read_table
from segsrgan.volumes import Volume, write_volume
from supermask.networks import load_networks
from supermask.training.learners import build_learners
from supermask.training.settings import TrainingSettings

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
TINY = (
    "--grid_size 16 --spacing 4 --slices 8 --kernel 2 --levels 1 --alignnet_kernels 2 --hidden 4 "
    "--window 5 --rotation 20 --shift 1 --steps 1 --repeats 1 --stage1_epochs 1 "
    "--stage2_epochs 0 --tensorboard False"
).split()
NAMED = ["--synthetic_cases", "masks", "-sf", "run"]


@pytest.fixture
def eager():
    """Updates that are not traced, which takes longer than a few of them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def masks(tmp_path):
    return write_masks(tmp_path / "masks")


def test_a_training_from_masks_to_weights_and_the_same_again(masks, eager, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    flags = ["--synthetic_cases", str(masks), "--test_share", "0.5", *TINY]
    assert main([*flags, "-sf", str(run)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("epoch 1: dice") and f"results in {run}" in shown.out
    assert "1 training and 1 test patients with 3 and 3 views; 1 cycles" in shown.err
    assert {"SuperMask_epoch_1", "SuperMask_best", "settings.toml", "epoch_1.png"} <= set(
        os.listdir(run)
    )
    assert main(["--config", str(run / "settings.toml"), "-sf", str(again)]) == 0
    pair = (load_networks(folder / "SuperMask_epoch_1")[:2] for folder in (run, again))
    first, second = ([w for model in models for w in model.get_weights()] for models in pair)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    capsys.readouterr()

    assert main([*flags, "-sf", str(run)]) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main([*flags, "-sf", str(run), "--resume", "--lr1", "1e-5"]) == 0
    err = capsys.readouterr().err
    assert "resuming with --lr1 1e-05, which was 0.001" in err and "done already" in err
    # Workers of a finished training end, each by itself.
    workers = ["--resume", "--workers", "localhost:9,localhost:19"]
    for index in ("0", "1"):
        assert main([*flags, "-sf", str(run), *workers, "--worker_index", index]) == 0
        assert "done already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--csv or --synthetic_cases, --snapshot_folder: required"),
        (["--csv", "data.csv"], "--snapshot_folder: required"),
        ([*NAMED, "--grid_size", "30"], "halves it 2 times, received 30; try 32"),
        ([*NAMED, "--grid_size", "32"], "take 72 or more, or fewer kernels"),
        ([*NAMED, "--window", "4"], "--window must be odd, received 4; try 5"),
        ([*NAMED, "--rotation", "120"], "--rotation must be a number from 0 to 90, received 120"),
        ([*NAMED, "--lr1", "fast"], "--lr1 must be a number above 0, received 'fast'"),
        ([*NAMED, "--alignnet_kernels", "a,b"], "--alignnet_kernels must be whole numbers"),
        ([*NAMED, "--labels", "x"], "--labels must be whole numbers by comma, received 'x'"),
        ([*NAMED, "--train", "neither"], "argument --train"),
        ([*NAMED, "--train", "segmentor"], "add --stage2_epochs 0"),
        ([*NAMED, "--stage1_epochs", "0", "--stage2_epochs", "0"], "nothing to train"),
        ([*NAMED, "--lambda_sim", "0"], "leaves AlignNet nothing to learn"),
        ([*NAMED, "--slices", "1"], "--slices must be thicker than the grid's --spacing 2"),
        ([*NAMED, "--workers", "a:1,b:2"], "--workers and --worker_index go together"),
        ([*NAMED, "--alpha3", "1"], "unrecognized arguments: --alpha3"),
        ([*NAMED, "--config", "none.toml"], "none.toml: cannot be read"),
    ],
)
def test_bad_flags_are_refused_and_nothing_is_written(
    flags, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("supermask-train: error: ") and message in err
    assert not set(os.listdir(tmp_path))


def test_bad_data_is_reported_and_nothing_is_written(masks, tmp_path, capsys):
    (masks / "m0.nii.gz").write_bytes(b"nothing")
    write_volume(Volume(np.zeros((8, 8, 8), np.uint8), (2.0,) * 3), masks / "m2.nii.gz")
    flags = [*TINY, "--snapshot_folder", str(tmp_path / "run")]
    bad = {"--synthetic_cases": masks, "--csv": tmp_path / "none.csv"}
    expected = ("2 problem(s)", "m0.nii.gz", "m2.nii.gz: the mask is"), ("none.csv: no such file",)
    for (flag, data), messages in zip(bad.items(), expected, strict=True):
        assert main([flag, str(data), *flags]) == 2
        err = capsys.readouterr().err
        assert all(message in err for message in messages)
    assert not (tmp_path / "run").exists()


def test_every_setting_has_a_flag_and_every_flag_a_meaning():
    parser = build_parser(SUPERMASK)
    flags = {action.dest for action in parser._actions} - {"help", "version", "config"}
    assert flags == {item.name for item in fields(TrainingSettings)}
    text = parser.format_help()
    for words in ("(default: 0.05)", "(default: 16,32,64)", "30/256", "Stage 2"):
        assert words in text


def test_the_defaults_are_the_papers():
    s = settings_of(NAMED, SUPERMASK)
    assert (s.lr1, s.lr2, s.decay, s.decay_every) == (1e-3, 1e-4, 0.9, 200)
    assert (s.stage1_epochs, s.stage2_epochs, s.batch_size, s.window) == (40, 60, 2, 15)
    assert (s.lambda1, s.lambda2, s.alpha1, s.alpha2) == (0.1, 0.05, 0.05, 0.05)
    assert (s.grid_size, s.spacing, s.rotation, s.largest_motion) == (128, 2.0, 45.0, 15.0)
    assert (s.kernel, s.levels, s.alignnet_kernels) == (32, 3, (16, 32, 64))


def test_the_recipe_makes_what_is_as_large_as_what_ships():
    s = settings_of(["--config", str(WEIGHTS / "recipes" / "supermask.toml"), *NAMED], SUPERMASK)
    known = load_networks(WEIGHTS / "supermask_fetal_small.h5")
    for name, model in build_learners(s, 1).models.items():
        assert model.spec == getattr(known, name).spec
    rows = read_table(WEIGHTS / "recipes" / "supermask.csv", "").rows
    left_out = [any(word in row.get("mask") for word in known.metadata["held_out"]) for row in rows]
    assert [row.get("base") == "Test" for row in rows] == left_out and sum(left_out) == 3


def test_a_training_that_lacks_memory_names_the_flags_that_save_it(monkeypatch, capsys):
    # Signals and other errors are those of SegSRGAN's command, which is the same code.
    def run(settings, progress, stop):
        stop()
        raise MemoryError

    monkeypatch.setattr("supermask.training.run.run", run)
    assert main([*NAMED, "--stage1_epochs", "1", "--stage2_epochs", "1"]) == 1
    assert "smaller --batch_size or --grid_size" in capsys.readouterr().err
