# SPDX-License-Identifier: MIT
"""Whole trainings by the command `SegSRGAN_training.py`, on volumes of a few voxels."""

import errno
import os
import shutil

import h5py
import keras
import numpy as np
import pytest
from networks.variants import randomise, write_released
from numpy.testing import assert_equal
from training.command import GAN, PLAIN, Command
from training.samples import free_ports, rows, write_table

from segsrgan import load_generator
from segsrgan.cli.train import settings_of
from segsrgan.files import locked
from segsrgan.networks import (
    DiscriminatorSpec,
    GeneratorSpec,
    build_discriminator,
    build_generator,
    describe,
    load_discriminator,
    save_generator,
)
from segsrgan.SegSRGAN_training import main
from segsrgan.training import losses, session
from segsrgan.training import run as run_module
from segsrgan.training.run import Loop

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="by default the training is TensorFlow's"
)
# A training of nine cycles with all that must be resumed.
WHOLE = f"{PLAIN} --ema 0.9 --clip_gradient 1 --schedule cosine --warm_up 3 --steps 3 --snapshot 2"
EPOCHS = 3


@pytest.fixture(scope="module")
def gan(tmp_path_factory):
    """A training of both networks of two epochs."""
    train = Command(tmp_path_factory.mktemp("gan"))
    assert train(GAN, "--epoch 2") == 0
    return train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished training of a generator."""
    train = Command(tmp_path_factory.mktemp("whole"))
    assert train(WHOLE, f"--epoch {EPOCHS}") == 0
    return train


@pytest.fixture
def finished(whole, tmp_path):
    """The same in a folder of its own."""
    train = Command(tmp_path)
    shutil.copytree(whole.run, train.run)
    train.table = whole.table
    return train


@pytest.fixture
def begin(monkeypatch):
    """Runs a command up to its first cycle and gives the `Loop`; `action(loop)` comes instead."""

    def call(train, *flags, action=lambda loop: None):
        loops = []

        def run(self):
            loops.append(self)
            action(self)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "run", run)
            assert train(*flags) == 0
        return loops[0]

    return call


def arrays(path):
    """All weights of both networks in a snapshot."""
    return load_generator(path).get_weights() + load_discriminator(path).get_weights()


def generator(path):
    return load_generator(path).get_weights()


def check_same(path, other, read=generator):
    assert_equal(read(path), read(other))


def without_states(train):
    for state in train.run.glob("state_*"):
        state.unlink()


def test_a_training_writes_what_it_says(gan):
    assert set(os.listdir(gan.run)) == {
        *("SegSRGAN_epoch_1", "SegSRGAN_epoch_2", "SegSRGAN_best", "epoch_1.png", "epoch_2.png"),
        *("state_00002_0000008.h5", "state_00003_0000000.h5", "settings.toml", "tensorboard"),
        *("history.csv", "dice.csv", "mse.csv"),
    }
    history = rows(gan.run / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    wanted = {"generator_loss", "reconstruction_loss", "adversarial_loss", "generator_gradient"}
    wanted |= {"discriminator_loss", "wasserstein_distance", "gradient_penalty"}
    wanted |= {"discriminator_gradient", "dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse"}
    assert wanted <= history[0].keys()
    assert all(np.isfinite(float(value)) for row in history for value in row.values())
    dice = (gan.run / "dice.csv").read_text().splitlines()
    assert dice == [",Dice", *(f"{row['epoch']},{row['dice']}" for row in history)]
    assert (gan.run / "mse.csv").read_text().startswith(f",MSE\n1,{history[0]['mse']}\n")
    best = min(history, key=lambda row: float(row["val_loss"]))["epoch"]
    check_same(gan.run / "SegSRGAN_best", gan.run / f"SegSRGAN_epoch_{best}", arrays)

    snapshot = gan.run / "SegSRGAN_epoch_1"
    known = describe(snapshot)
    assert known["metadata"]["training"]["kernel_gen"] == 2 and known["metadata"]["epoch"] == 1


@pytest.mark.slow
def test_two_epochs_and_two_more_are_four_bit_for_bit(train, gan):
    assert train(GAN, "--epoch 4", run="whole") == 0
    shutil.copytree(gan.run, train.run)
    assert train(GAN, "--epoch 4 --resume") == 0
    whole = train.folder / "whole"
    for epoch in (3, 4):
        name = f"SegSRGAN_epoch_{epoch}"
        check_same(train.run / name, whole / name, arrays)
    ours, expected = (rows(folder / "history.csv") for folder in (train.run, whole))
    for row in ours + expected:
        del row["seconds"], row["waiting"]
    assert ours == expected
    for name in ("dice.csv", "mse.csv"):
        assert (train.run / name).read_text() == (whole / name).read_text()


def test_a_training_stopped_within_an_epoch_goes_on_bit_for_bit(train, whole):
    done, cache = [], train.folder / "cache"

    def stop():
        done.append(0)
        return len(done) == 5  # asked once before the first cycle

    flags = WHOLE, f"--epoch {EPOCHS} --folder_training_data {cache}"
    run_module.run(settings_of(train.flags(*flags)), stop=stop)
    assert len(done) == 5
    assert not cache.exists() or not set(os.listdir(cache))  # emptied at the end
    assert train(*flags, "--resume") == 0
    check_same(train.run / "SegSRGAN_epoch_3", whole.run / "SegSRGAN_epoch_3")
    histories = (rows(t.run / "history.csv") for t in (train, whole))
    ours, theirs = ([row["generator_loss"] for row in history] for history in histories)
    assert ours == theirs


def test_snapshots_are_as_rare_as_asked_and_have_the_averaged_weights(whole):
    found = {name for name in set(os.listdir(whole.run)) if name.startswith("SegSRGAN_epoch")}
    assert found == {"SegSRGAN_epoch_2", "SegSRGAN_epoch_3"}  # the last epoch always has one
    snapshot = generator(whole.run / "SegSRGAN_epoch_3")
    with h5py.File(max(whole.run.glob("state_*.h5"))) as file:
        average = [v for k, v in sorted(file["generator_optimizer"].items()) if "average" in k]
        assert_equal(snapshot, average)
        weights = file["generator"].values()
        assert not any(np.array_equal(a, b) for a, b in zip(snapshot, weights, strict=True))


def test_a_training_is_repeated_from_its_settings_and_with_a_cache(whole, tmp_path):
    again, cache = tmp_path / "again", tmp_path / "cache"
    flags = ["-sf", str(again), "-dice", str(again / "d.csv"), "-mse", str(again / "m.csv")]
    flags += ["--folder_training_data", str(cache), "--keep_training_data"]
    assert main(["--config", str(whole.run / "settings.toml"), *flags]) == 0
    check_same(again / "SegSRGAN_epoch_3", whole.run / "SegSRGAN_epoch_3")
    assert len(list(cache.glob("image*.image.npy"))) == 3


def test_released_weights_are_trained_on(train, begin, capsys):
    critic = DiscriminatorSpec(2, patch=16)
    networks = randomise(build_generator(GeneratorSpec(2))), randomise(build_discriminator(critic))
    write_released(train.folder / "released", *networks)
    # A released file has as many blocks as its paper, and does not say so.
    flags = GAN.replace("--blocks_gen 1", f"--weights {train.folder / 'released'}")
    loop = begin(train, flags, "--blocks_gen 6 --init_epoch 7 --epoch 8")
    assert loop.progress.epoch == 7
    assert_equal(loop.networks.generator.get_weights(), networks[0].get_weights())
    assert_equal(loop.networks.discriminator.get_weights(), networks[1].get_weights())
    assert "3 levels instead of 5" in capsys.readouterr().err
    assert train(flags, "--blocks_gen 5", run="other") == 2
    expected = "has blocks 6, the flags and images say 5; leave the flag out"
    assert expected in capsys.readouterr().err


def test_a_training_from_weights_of_another_architecture_is_resumed(train, begin):
    spec = GeneratorSpec(3, unet=True, residual=False)
    save_generator(build_generator(spec), train.folder / "start")
    flags = "--patch_size 8 --stride 8 --batch_size 16 --lambadv 0 --tensorboard False"
    weights = f"--weights {train.folder / 'start'}"
    begin(train, flags, weights, action=lambda loop: loop._save_state())
    loop = begin(train, flags, weights, "--resume")
    assert loop.networks.generator.spec == spec and loop.networks.discriminator is None
    assert_equal(loop.networks.generator.get_weights(), generator(train.folder / "start"))


def test_an_epoch_number_goes_on_from_the_snapshot_before(finished, begin, capsys):
    flags = WHOLE, "--epoch 4 --init_epoch 4"
    assert finished(*flags) == 2
    assert "holds the state of a training; go on with --resume" in capsys.readouterr().err
    without_states(finished)
    loop = begin(finished, *flags)
    assert loop.progress.epoch == 4
    expected = generator(finished.run / "SegSRGAN_epoch_3")
    assert_equal(loop.networks.generator.get_weights(), expected)


def test_what_an_earlier_training_left_is_not_replaced(finished, capsys):
    before = (finished.run / "SegSRGAN_epoch_3").read_bytes()
    without_states(finished)
    answers = {"--seed 1": "exists already", "--resume": "there is no state to resume from"}
    for flag, answer in answers.items():
        assert finished(WHOLE, f"--epoch {EPOCHS}", flag) == 2
        assert answer in capsys.readouterr().err
    assert (finished.run / "SegSRGAN_epoch_3").read_bytes() == before


def test_the_scores_of_another_training_are_not_replaced(finished, capsys):
    other = ["-sf", str(finished.folder / "other"), "-mse", str(finished.folder / "mse.csv")]
    assert main(finished.flags(PLAIN, "--epoch 1") + other) == 2
    assert "dice.csv: has a row of epoch 1 already" in capsys.readouterr().err


def test_a_finished_training_stays_as_it_is(finished, capsys):
    before = (finished.run / "settings.toml").read_bytes()
    assert finished(WHOLE, f"--epoch {EPOCHS} --resume --lrgen 0.5") == 0
    err = capsys.readouterr().err
    assert "done already" in err and err.count("resuming with") == 1
    assert "resuming with --lrgen 0.5, which was 0.0001" in err
    assert (finished.run / "settings.toml").read_bytes() == before


@pytest.mark.parametrize("index", [0, 1])
def test_workers_of_a_finished_training_end_and_wait_for_nobody(index, finished, capsys):
    ports = free_ports(2)
    workers = f"--workers localhost:{ports[0]},localhost:{ports[1]} --worker_index {index}"
    assert finished(WHOLE, f"--epoch {EPOCHS} --resume", workers) == 0
    out, err = capsys.readouterr()
    assert "done already" in err and out.count("epoch 3: dice") == 1 - index


def test_a_folder_that_another_training_writes_to_is_refused(train, capsys):
    train.run.mkdir()
    with locked(train.run, wait=False):
        assert train(PLAIN, "--epoch 1") == 2
    assert "another training is writing there" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_ends_the_training(finished, capsys, monkeypatch):
    kept = (finished.run / "state_00004_0000000.h5").read_bytes()
    charbonnier = losses.reconstruct_charbonnier
    nan = {"charbonnier": lambda *images: np.nan * charbonnier(*images)}
    monkeypatch.setitem(losses.RECONSTRUCTIONS, *nan.popitem())
    assert finished(WHOLE, "--epoch 5 --resume") == 1
    err = capsys.readouterr().err
    assert "epoch 4, cycle 1: generator_loss is nan" in err and "smaller --lrgen" in err
    last = generator(finished.run / "SegSRGAN_last_finite")
    with h5py.File(finished.run / "state_00004_0000000.h5") as file:
        before = [array[:] for array in file["generator"].values()]
    # Momentum moves the weights once more, nothing else does.
    for a, b in zip(last, before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3, equal_nan=False)
    assert (finished.run / "state_00004_0000000.h5").read_bytes() == kept
    assert len(rows(finished.run / "history.csv")) == EPOCHS


@pytest.mark.slow
def test_a_full_disk_leaves_a_training_that_can_be_resumed_with_other_settings(
    train, capsys, monkeypatch
):
    assert train(PLAIN, "--epoch 1") == 0
    before = set(os.listdir(train.run))

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        # Flags that have been stated before are written again before the first epoch.
        patch.setattr(session, "write_text", lambda path, text: None)
        assert train(PLAIN, "--epoch 2 --resume") == 1
    err = capsys.readouterr().err
    assert "error: epoch 2: " in err and "No space left on device" in err
    assert "state_00002_0000004.h5'; repair this and go on with --resume" in err
    assert set(os.listdir(train.run)) == before
    assert train(PLAIN, "--epoch 2 --resume --lrgen 1e-12") == 0
    weights = (generator(train.run / f"SegSRGAN_epoch_{epoch}") for epoch in (1, 2))
    assert max(np.abs(a - b).max() for a, b in zip(*weights, strict=True)) < 1e-9


def test_a_segmentation_that_stays_empty_is_reported(caplog, monkeypatch):
    monkeypatch.setattr(run_module, "_PATIENCE", 2)
    names = ("generator_loss", "dice", "psnr", "psnr_input", "seconds", "waiting")
    loop = Loop(networks=None, step=None, data=None, test=None)
    for epoch in (1, 2, 3):
        loop.progress.history.append({"epoch": epoch, **dict.fromkeys(names, 0.0)})
        loop.report(loop.progress.history[-1])
    (found,) = [message for message in caplog.messages if "empty" in message]
    assert "--reconstruction_loss dice" in found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--init_epoch 5 --epoch 6", "needs --weights, or the snapshot"),
        ("--weights nonsense", "nonsense: no such weights"),
        ("--csv none.csv", "none.csv: no such file; expected a CSV file with the columns HR_image"),
        ("--image_cropping_method overlapping_with_mask --patch_size 24", "no patch"),
        ("--dice_file {}/pipe", "pipe: exists and is not an ordinary file"),
    ],
)
def test_what_cannot_be_trained_is_answered_before_anything_is_written(
    flags, message, train, capsys
):
    os.mkfifo(train.folder / "pipe")
    assert train(PLAIN, flags.format(train.folder)) == 2
    assert message in capsys.readouterr().err
    assert not train.run.exists()


def test_images_that_are_hardly_meant_are_pointed_out(train, begin, capsys):
    train.table = write_table(train.folder, ("Train", "Train", "Test"), spacing=(3.0, 3.0, 3.0))
    begin(train, PLAIN, "--epoch 1 --patch_size 40 --stride 50")
    err = capsys.readouterr().err
    assert "3 of 3 images have voxels as large as --new_low_res" in err
    assert "3 of 3 images are smaller than --patch_size 40" in err
    assert "fewer than" not in err
    assert "--stride is larger than --patch_size" in err
    begin(train, PLAIN, "--epoch 1 -n 1 1 30")
    assert "3 of 3 images have fewer than 3 slices at --new_low_res" in capsys.readouterr().err
