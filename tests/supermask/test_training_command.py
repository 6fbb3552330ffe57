# SPDX-License-Identifier: MIT
"""The command `supermask-train`: its flags, files, messages and exit statuses."""

import os
import signal
import sys
import tomllib
import types
from dataclasses import fields

import numpy as np
import pytest
import tensorflow as tf
from patients import tiny

from segsrgan.cli.train import SUPERMASK, build_parser, settings_of
from segsrgan.cli.train import supermask_main as main
from segsrgan.config import from_toml, to_toml
from segsrgan.volumes import Volume, write_volume
from supermask.networks import load_networks
from supermask.training.settings import TrainingSettings

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
    """A folder of two masks."""
    folder = tmp_path / "masks"
    folder.mkdir()
    points = np.indices((20, 20, 20)) - 9.5
    for index in range(2):
        array = np.linalg.norm(points * [[[[1]]], [[[1.3]]], [[[1.6]]]], axis=0) < 6 + index
        write_volume(Volume(array.astype(np.uint8), (2.0,) * 3), folder / f"m{index}.nii.gz")
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_training_from_masks_to_weights_and_the_same_again(masks, eager, tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    flags = ["--synthetic_cases", str(masks), "--test_share", "0.5", *TINY]
    assert main([*flags, "-sf", str(run)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("epoch 1: dice") and f"results in {run}" in shown.out
    assert "1 training and 1 test patients with 3 and 3 views; 1 cycles" in shown.err
    assert {"SuperMask_epoch_1", "SuperMask_best", "settings.toml", "epoch_1.png"} <= names(run)
    assert main(["--config", str(run / "settings.toml"), "-sf", str(again)]) == 0
    first, second = (load_networks(folder / "SuperMask_epoch_1") for folder in (run, again))
    for name in ("segmentor", "alignnet"):
        arrays = (getattr(networks, name).get_weights() for networks in (first, second))
        for a, b in zip(*arrays, strict=True):
            np.testing.assert_array_equal(a, b)
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
def test_bad_flags_are_told_and_nothing_is_written(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("supermask-train: error: ") and message in err
    assert not names(tmp_path)


def test_bad_data_is_told_and_nothing_is_written(masks, tmp_path, capsys):
    (masks / "m0.nii.gz").write_bytes(b"nothing")
    write_volume(Volume(np.zeros((8, 8, 8), np.uint8), (2.0,) * 3), masks / "m2.nii.gz")
    flags = [*TINY, "--snapshot_folder", str(tmp_path / "run")]
    assert main(["--synthetic_cases", str(masks), *flags]) == 2
    err = capsys.readouterr().err
    assert "2 problem(s)" in err and "m0.nii.gz" in err and "m2.nii.gz: the mask is empty" in err
    assert main(["--csv", str(tmp_path / "none.csv"), *flags]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every_setting_has_a_flag_and_every_flag_a_meaning():
    parser = build_parser(SUPERMASK)
    flags = {action.dest for action in parser._actions} - {"help", "config"}
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


def test_settings_come_back_from_their_file(tmp_path):
    path = tmp_path / "settings.toml"
    before = tiny(csv="a b.csv", labels="3,42", shift=None, antisymmetric=False)
    path.write_text(to_toml(before, "supermask-train --config THIS_FILE"), encoding="utf-8")
    assert "#   supermask-train" in path.read_text()
    assert TrainingSettings(**from_toml(path, TrainingSettings)) == before
    assert "shift" not in tomllib.loads(path.read_text())
    path.write_text("lambda_1 = 0.1\n")
    with pytest.raises(ValueError, match="lambda_1 is not a setting; did you mean lambda1"):
        from_toml(path, TrainingSettings)


@pytest.fixture
def train(monkeypatch):
    """Runs the command over a function that stands for `training.run.run`; returns its status."""

    def call(function):
        module = types.ModuleType("supermask.training.run")
        module.run = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return main([*NAMED, "--stage1_epochs", "1", "--stage2_epochs", "1"])

    return call


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_training_after_its_cycle(number, status, train, capsys):
    def run(settings, progress, stop):
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        return {"epoch": 1, "stage": 1, "dice": 0.5}

    assert train(run) == status
    shown = capsys.readouterr()
    assert "the state is saved; go on with the same command and --resume" in shown.err
    assert shown.out == "epoch 1: dice 0.5; results in run\n"


def test_a_training_that_fails_after_its_beginning_has_status_1(train, capsys):
    def run(settings, progress, stop):
        stop()
        raise MemoryError

    assert train(run) == 1
    assert "smaller --batch_size or --grid_size" in capsys.readouterr().err
