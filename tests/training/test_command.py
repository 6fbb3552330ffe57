# SPDX-License-Identifier: MIT
"""Whole trainings by the command `SegSRGAN_training.py`, on volumes of a few voxels."""

import csv
import errno
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from networks.variants import randomise, write_released
from training.command import GAN, PLAIN, Command
from training.samples import free_ports, write_table

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


@pytest.fixture
def train(tmp_path):
    return Command(tmp_path)


@pytest.fixture(autouse=True)
def float32():
    """Whatever precision a training sets is that training's alone."""
    yield
    keras.config.set_dtype_policy("float32")


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def arrays(path):
    """All weights of both networks in a snapshot."""
    return load_generator(path).get_weights() + load_discriminator(path).get_weights()


def same(path, other):
    return all(np.array_equal(a, b) for a, b in zip(arrays(path), arrays(other), strict=True))


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_training_writes_what_it_says(train, capsys):
    assert train(GAN, "--epoch 2") == 0
    assert names(train.run) == {
        *("SegSRGAN_epoch_1", "SegSRGAN_epoch_2", "SegSRGAN_best", "epoch_1.png", "epoch_2.png"),
        *("state_00002_0000008.h5", "state_00003_0000000.h5", "settings.toml", "tensorboard"),
        *("history.csv", "dice.csv", "mse.csv"),
    }
    history = rows(train.run / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    wanted = {"generator_loss", "reconstruction_loss", "adversarial_loss", "generator_gradient"}
    wanted |= {"discriminator_loss", "wasserstein_distance", "gradient_penalty"}
    wanted |= {"discriminator_gradient", "dice", "patch_dice", "psnr", "psnr_input", "ssim", "mse"}
    assert wanted <= history[0].keys()
    assert all(np.isfinite(float(value)) for row in history for value in row.values())
    dice = (train.run / "dice.csv").read_text().splitlines()
    assert dice == [",Dice", *(f"{row['epoch']},{row['dice']}" for row in history)]
    assert (train.run / "mse.csv").read_text().startswith(f",MSE\n1,{history[0]['mse']}\n")
    best = min(history, key=lambda row: float(row["val_loss"]))["epoch"]
    assert same(train.run / "SegSRGAN_best", train.run / f"SegSRGAN_epoch_{best}")
    assert "3 levels instead of 5" in capsys.readouterr().err


def test_a_snapshot_says_how_it_was_made_and_is_ready_for_use(train):
    assert train(GAN, "--epoch 1") == 0
    known = describe(train.run / "SegSRGAN_epoch_1")
    assert known["metadata"]["training"]["kernel_gen"] == 2 and known["metadata"]["epoch"] == 1
    from segsrgan import Predictor

    result = Predictor(train.run / "SegSRGAN_epoch_1").predict(
        train.folder / "image0.nii.gz", patch=16, step=8, new_resolution=(1, 1, 1)
    )
    assert result.sr.array.shape == (32, 32, 32)


@pytest.mark.slow
def test_two_epochs_and_two_more_are_four_bit_for_bit(train):
    assert train(GAN, "--epoch 4", run="whole") == 0
    assert train(GAN, "--epoch 2") == 0
    assert train(GAN, "--epoch 4 --resume") == 0
    whole = train.folder / "whole"
    for epoch in (3, 4):
        assert same(train.run / f"SegSRGAN_epoch_{epoch}", whole / f"SegSRGAN_epoch_{epoch}")
    measured = {"seconds", "waiting"}
    for ours, expected in zip(
        rows(train.run / "history.csv"), rows(whole / "history.csv"), strict=True
    ):
        assert {k: ours[k] for k in ours.keys() - measured} == {
            k: expected[k] for k in expected.keys() - measured
        }
    for name in ("dice.csv", "mse.csv"):
        assert (train.run / name).read_text() == (whole / name).read_text()


@pytest.mark.parametrize(
    "cycles", [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_training_stopped_within_an_epoch_goes_on_bit_for_bit(cycles, train):
    assert train(PLAIN, "--epoch 2", run="whole") == 0
    done = []

    def stop():
        done.append(0)
        return len(done) == 1 + cycles  # asked once before the first

    settings = settings_of(train.flags(PLAIN, "--epoch 2"))
    run_module.run(settings, stop=stop)
    assert len(done) == 1 + cycles
    assert train(PLAIN, "--epoch 2 --resume") == 0
    first, other = (
        load_generator(f / "SegSRGAN_epoch_2") for f in (train.folder / "whole", train.run)
    )
    for a, b in zip(first.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    losses = [
        [r["generator_loss"] for r in rows(train.folder / f / "history.csv")]
        for f in ("whole", "run")
    ]
    assert losses[0] == losses[1]


def test_a_training_can_be_repeated_from_its_settings(train):
    assert train(PLAIN, "--epoch 1 --seed 5") == 0
    again = train.folder / "again"
    outputs = ["-sf", str(again), "-dice", str(again / "d.csv"), "-mse", str(again / "m.csv")]
    assert main(["--config", str(train.run / "settings.toml"), *outputs]) == 0
    first, second = (
        load_generator(f / "SegSRGAN_epoch_1").get_weights() for f in (train.run, again)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_released_weights_are_trained_on(train):
    generator = randomise(build_generator(GeneratorSpec(2)))
    discriminator = randomise(build_discriminator(DiscriminatorSpec(2, patch=16)))
    write_released(train.folder / "released", generator, discriminator)
    weights = f"--weights {train.folder / 'released'} --lrgen 1e-9 --lrdis 1e-9"
    flags = GAN.replace("--blocks_gen 1", "")  # a released file has as many as its paper
    assert train(flags, weights, "--init_epoch 7 --epoch 8") == 0
    assert [row["epoch"] for row in rows(train.run / "history.csv")] == ["7", "8"]
    trained = arrays(train.run / "SegSRGAN_epoch_8")
    for a, b in zip(trained, generator.get_weights() + discriminator.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert any((a != b).any() for a, b in zip(trained, generator.get_weights(), strict=False))


def test_weights_of_another_architecture_are_refused(train, capsys):
    save_generator(build_generator(GeneratorSpec(3, blocks=1)), train.folder / "start")
    assert train(PLAIN, f"--weights {train.folder / 'start'}") == 2
    assert "has kernel 3, the flags and images say 2; leave the flag out" in capsys.readouterr().err


def test_an_epoch_number_goes_on_from_the_snapshot_before(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    assert train(PLAIN, "--epoch 2 --init_epoch 2") == 2
    assert "holds the state of a training; go on with --resume" in capsys.readouterr().err
    for state in train.run.glob("state_*"):
        state.unlink()
    assert train(PLAIN, "--epoch 2 --init_epoch 2") == 0
    assert [row["epoch"] for row in rows(train.run / "history.csv")] == ["1", "2"]


def test_a_training_from_weights_of_another_architecture_is_resumed(train):
    spec = GeneratorSpec(3, unet=True, residual=False)
    save_generator(build_generator(spec), train.folder / "start")
    flags = "--patch_size 8 --stride 8 --batch_size 16 --lambadv 0 --tensorboard False"
    weights = f"--weights {train.folder / 'start'}"
    assert train(flags, weights, "--epoch 1") == 0
    assert train(flags, weights, "--epoch 2 --resume") == 0
    assert load_generator(train.run / "SegSRGAN_epoch_2").spec == spec


def test_what_an_earlier_training_left_is_not_replaced(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    before = (train.run / "SegSRGAN_epoch_1").read_bytes()
    assert train(PLAIN, "--epoch 1 --seed 1") == 2
    assert "holds the state of a training; go on with --resume" in capsys.readouterr().err
    for state in train.run.glob("state_*"):
        state.unlink()
    assert train(PLAIN, "--epoch 1 --seed 1") == 2
    assert "exists already" in capsys.readouterr().err
    assert (train.run / "SegSRGAN_epoch_1").read_bytes() == before


@pytest.mark.slow
def test_other_settings_of_a_resumed_training_hold_and_are_pointed_out(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    assert train(PLAIN, "--epoch 2 --resume --lrgen 1e-12") == 0
    err = capsys.readouterr().err
    assert "resuming with --lrgen 1e-12, which was 0.0001" in err
    assert err.count("resuming with") == 1
    first, second = (
        load_generator(train.run / f"SegSRGAN_epoch_{n}").get_weights() for n in (1, 2)
    )
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) < 1e-9


def test_the_scores_of_another_training_are_not_replaced(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    other = ["-sf", str(train.folder / "other"), "-mse", str(train.folder / "mse.csv")]
    assert main(train.flags(PLAIN, "--epoch 1") + other) == 2
    assert "dice.csv: has a row of epoch 1 already" in capsys.readouterr().err


def test_a_folder_that_another_training_writes_to_is_refused(train, capsys):
    train.run.mkdir()
    with locked(train.run, wait=False):
        assert train(PLAIN, "--epoch 1") == 2
    assert "another training is writing there" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_training(train, capsys, monkeypatch):
    assert train(PLAIN, "--epoch 1") == 0
    kept = (train.run / "state_00002_0000000.h5").read_bytes()
    monkeypatch.setitem(
        losses.RECONSTRUCTIONS,
        "charbonnier",
        lambda *images: np.nan * losses.reconstruct_charbonnier(*images),
    )
    assert train(PLAIN, "--epoch 3 --resume") == 1
    err = capsys.readouterr().err
    assert "epoch 2, cycle 1: generator_loss is nan" in err and "smaller --lrgen" in err
    last, before = (
        load_generator(train.run / name).get_weights()
        for name in ("SegSRGAN_last_finite", "SegSRGAN_epoch_1")
    )
    assert all(np.isfinite(array).all() for array in last)
    # Momentum moves the weights once more, nothing else does.
    for a, b in zip(last, before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert (train.run / "state_00002_0000000.h5").read_bytes() == kept
    assert len(rows(train.run / "history.csv")) == 1


@pytest.mark.slow
def test_a_full_disk_leaves_a_training_that_can_be_resumed(train, capsys, monkeypatch):
    assert train(PLAIN, "--epoch 1") == 0
    before = names(train.run)

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
    assert names(train.run) == before
    assert train(PLAIN, "--epoch 2 --resume") == 0


@pytest.mark.slow
def test_an_image_that_is_lost_ends_the_training_and_its_return_mends_it(
    train, capsys, monkeypatch
):
    image, aside = train.folder / "image0.nii.gz", train.folder / "aside"
    close = Loop._close_epoch

    def lose(self):
        close(self)
        if self.progress.epoch == 3:
            image.rename(aside)

    # Two images are prepared ahead.
    flags = PLAIN, "--epoch 6 --images_in_memory 1"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_close_epoch", lose)
        assert train(*flags) == 1
    err = capsys.readouterr().err
    assert "image0.nii.gz" in err and "repair this and go on with --resume" in err
    done = len(rows(train.run / "history.csv"))
    assert 2 <= done < 5
    aside.rename(image)
    assert train(*flags, "--resume") == 0
    assert len(rows(train.run / "history.csv")) == 6


def test_a_segmentation_that_stays_empty_is_reported(train, caplog, monkeypatch):
    monkeypatch.setattr(run_module, "_PATIENCE", 2)
    monkeypatch.setattr(
        run_module,
        "validate",
        lambda *_: dict.fromkeys(
            ("dice", "patch_dice", "mse", "psnr", "psnr_input", "val_loss"), 0.0
        ),
    )
    assert train(PLAIN, "--epoch 3 --snapshot 4") == 0
    found = [record.getMessage() for record in caplog.records if "empty" in record.getMessage()]
    assert len(found) == 1 and "--reconstruction_loss dice" in found[0]


@pytest.mark.parametrize("index", [0, 1])
def test_workers_of_a_finished_training_end_and_wait_for_nobody(index, train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    ports = free_ports(2)
    workers = f"--workers localhost:{ports[0]},localhost:{ports[1]} --worker_index {index}"
    assert train(PLAIN, "--epoch 1 --resume", workers) == 0
    out, err = capsys.readouterr()
    assert "done already" in err and out.count("epoch 1: dice") == 2 - index


def test_averaged_weights_are_resumed_bit_for_bit_and_kept_in_snapshots(train):
    flags = f"{PLAIN} --ema 0.9 --clip_gradient 1 --schedule cosine --warm_up 3 --steps 3"
    assert train(flags, "--epoch 2", run="whole") == 0
    done = []

    def stop():
        done.append(0)
        return len(done) == 1 + 4  # asked once before the first

    settings = settings_of(train.flags(flags, "--epoch 2"))
    run_module.run(settings, stop=stop)
    assert len(done) == 1 + 4
    assert train(flags, "--epoch 2 --resume") == 0
    assert train(PLAIN, "--steps 3 --schedule cosine --warm_up 3 --epoch 2", run="plain") == 0
    whole, resumed, plain = (
        load_generator(train.folder / run / "SegSRGAN_epoch_2").get_weights()
        for run in ("whole", "run", "plain")
    )
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    with h5py.File(max((train.folder / "whole").glob("state_*.h5"))) as file:
        weights = list(file["generator"].values())
        average = [v for k, v in sorted(file["generator_optimizer"].items()) if "average" in k]
        for a, b, c in zip(whole, average, weights, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(a, c)
    assert any((a != b).any() for a, b in zip(whole, plain, strict=True))


def test_a_zero_head_begins_with_the_input(train):
    flags = f"{PLAIN} --zero_head True --lrgen 1e-12 --steps 1 --epoch 1"
    assert train(flags) == 0
    (row,) = rows(train.run / "history.csv")
    assert float(row["psnr"]) == pytest.approx(float(row["psnr_input"]))


def test_snapshots_are_as_rare_as_asked_and_the_last_epoch_has_one(train):
    assert train(PLAIN, "--epoch 3 --snapshot 2") == 0
    found = {name for name in names(train.run) if "epoch" in name and name.startswith("Seg")}
    assert found == {"SegSRGAN_epoch_2", "SegSRGAN_epoch_3"}


def test_a_cache_is_used_and_emptied_at_the_end(train):
    cache = train.folder / "cache"
    assert train(PLAIN, "--epoch 1", run="plain") == 0
    assert train(PLAIN, f"--epoch 1 --folder_training_data {cache} --keep_training_data") == 0
    assert len(list(cache.glob("image*.image.npy"))) == 3
    one, other = (train.folder / run / "SegSRGAN_epoch_1" for run in ("plain", "run"))
    for a, b in zip(
        load_generator(one).get_weights(), load_generator(other).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    fresh = train.folder / "fresh"
    assert train(PLAIN, f"--epoch 1 --folder_training_data {fresh}", run="third") == 0
    assert not fresh.exists() or not list(fresh.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--init_epoch 5 --epoch 6", "needs --weights, or the snapshot"),
        ("--weights nonsense", "nonsense: no such weights"),
        ("--csv none.csv", "none.csv: no such file; expected a CSV file with the columns HR_image"),
        ("--image_cropping_method overlapping_with_mask --patch_size 24", "no patch"),
    ],
)
def test_what_cannot_be_trained_is_answered_before_anything_is_written(
    flags, message, train, capsys
):
    assert train(PLAIN, flags) == 2
    assert message in capsys.readouterr().err
    assert not train.run.exists() or not list(train.run.glob("SegSRGAN*"))


def test_snapshots_without_a_state_are_not_replaced_by_a_resumed_training(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    for state in train.run.glob("state_*"):
        state.unlink()
    assert train(PLAIN, "--epoch 1 --resume") == 2
    assert "there is no state to resume from" in capsys.readouterr().err


def test_a_finished_training_stays_as_it_is(train, capsys):
    assert train(PLAIN, "--epoch 1") == 0
    before = (train.run / "settings.toml").read_bytes()
    assert train(PLAIN, "--epoch 1 --resume --lrgen 0.5") == 0
    assert "done already" in capsys.readouterr().err
    assert (train.run / "settings.toml").read_bytes() == before


def test_images_that_are_hardly_meant_are_pointed_out(train, capsys):
    train.table = write_table(train.folder, ("Train", "Train", "Test"), spacing=(3.0, 3.0, 3.0))
    assert train(PLAIN, "--epoch 1 --patch_size 40 --stride 50") == 0
    err = capsys.readouterr().err
    assert "3 of 3 images have voxels as large as --new_low_res" in err
    assert "3 of 3 images are smaller than --patch_size 40" in err
    assert "--stride is larger than --patch_size" in err


def test_a_scores_file_that_is_no_file_is_refused_and_a_link_is_replaced(train, capsys):
    device = ["-dice", "/dev/null"]
    assert main(train.flags(PLAIN, "--epoch 1") + device) == 2
    assert "--dice_file /dev/null: exists and is not an ordinary file" in capsys.readouterr().err
    assert not Path("/dev/null").is_file()
    target, link = train.folder / "target.csv", train.folder / "link.csv"
    link.symlink_to(target)
    assert main(train.flags(PLAIN, "--epoch 1") + ["-dice", str(link)]) == 0
    assert not link.is_symlink() and not target.exists()
    assert link.read_text().startswith(",Dice")
