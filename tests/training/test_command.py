# SPDX-License-Identifier: MIT
"""The command `SegSRGAN_training.py` and the loop behind it."""

import csv

import keras
import numpy as np
import pytest
from training.samples import write_table

from segsrgan import load_generator
from segsrgan.networks import GeneratorSpec, build_generator, describe, save_generator
from segsrgan.SegSRGAN_training import main
from segsrgan.training.loop import TrainingError, fit, prefetch, validate

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the training step is TensorFlow's"
)


@pytest.fixture
def train(tmp_path):
    """Runs a tiny training in a folder; returns the exit status."""
    return make_train(tmp_path)


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory):
    """The weights after an epoch without further flags."""
    return weights_after(make_train(tmp_path_factory.mktemp("plain")), "run")


def make_train(tmp_path):
    table = write_table(tmp_path)

    def call(*flags, folder="run"):
        return main(
            ["--csv", str(table), "-n", "1", "1", "3", "-sf", str(tmp_path / folder)]
            + ["-dice", str(tmp_path / folder / "dice.csv")]
            + ["-mse", str(tmp_path / folder / "mse.csv")]
            + ["--patch_size", "8", "--stride", "4", "--kernel_gen", "2", "--batch_size", "2"]
            + ["--epoch", "1", *flags]
        )

    call.folder = tmp_path
    return call


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_training_writes_snapshots_history_and_both_tables(train):
    assert train("--epoch", "2") == 0
    run = train.folder / "run"
    names = {"SegSRGAN_epoch_1", "SegSRGAN_epoch_2", "history.csv", "dice.csv", "mse.csv"}
    assert {p.name for p in run.iterdir()} == names
    history = rows(run / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert [float(r["Dice"]) for r in rows(run / "dice.csv")] == [float(r["dice"]) for r in history]
    assert [float(r["MSE"]) for r in rows(run / "mse.csv")] == [float(r["mse"]) for r in history]
    assert describe(run / "SegSRGAN_epoch_2")["metadata"]["training"]["kernel_gen"] == 2


def test_the_loss_falls(train):
    assert train("--epoch", "6", "--lrgen", "0.003", "--snapshot", "6") == 0
    history = [float(row["loss"]) for row in rows(train.folder / "run" / "history.csv")]
    assert history[-1] < 0.8 * history[0]


def weights_after(train, folder, *flags):
    assert train(*flags, folder=folder) == 0
    return load_generator(train.folder / folder / "SegSRGAN_epoch_1")


def test_the_same_seed_gives_the_same_weights(train, plain_weights):
    again = weights_after(train, "again")
    for a, b in zip(plain_weights.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "flags",
    [
        ["-n", "1", "1", "5"],
        ["--contrast_max", "0.1"],
        ["--percent_val_max", "0.2"],
        ["--stride", "3"],
        ["--interp", "sitk", "--interpolation_type", "Linear"],
        ["--batch_size", "1"],
        ["--lrgen", "0.01"],
        ["--lambrec", "1e-7"],
        ["--seed", "1"],
    ],
    ids=lambda flags: flags[0].lstrip("-"),
)
def test_every_flag_of_the_data_and_the_step_changes_the_weights(flags, train, plain_weights):
    plain = plain_weights.get_weights()
    changed = weights_after(train, "changed", *flags).get_weights()
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(plain, changed, strict=True))


def test_flags_of_the_network_reach_its_spec(train):
    model = weights_after(train, "run", "-u_net", "True", "-is_residual", "False")
    assert model.spec == GeneratorSpec(2, unet=True, residual=False)


def test_training_goes_on_from_weights_at_an_epoch(train):
    save_generator(build_generator(GeneratorSpec(3)), train.folder / "start")
    weights = ["--weights", str(train.folder / "start")]
    assert train(*weights, "--init_epoch", "3", "--epoch", "4", "--snapshot", "2") == 2
    flags = [*weights, "--kernel_gen", "3"]
    assert train(*flags, "--init_epoch", "3", "--epoch", "4", "--snapshot", "2") == 0
    run = train.folder / "run"
    assert [row["epoch"] for row in rows(run / "history.csv")] == ["3", "4"]
    assert not (run / "SegSRGAN_epoch_3").exists()
    assert load_generator(run / "SegSRGAN_epoch_4").spec.kernel == 3
    assert train("--init_epoch", "5", "--epoch", "5", "--kernel_gen", "3") == 0
    assert load_generator(run / "SegSRGAN_epoch_5").spec.kernel == 3


def test_snapshots_of_an_earlier_run_are_not_replaced(train, capsys):
    assert train() == 0
    before = (train.folder / "run" / "SegSRGAN_epoch_1").read_bytes()
    assert train("--seed", "1", "--epoch", "2") == 2
    assert "exists already" in capsys.readouterr().err
    assert (train.folder / "run" / "SegSRGAN_epoch_1").read_bytes() == before
    assert len(rows(train.folder / "run" / "history.csv")) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patch_size", "10"], "divisible by 4, received 10; try 8"),
        (["--init_epoch", "5"], "beyond the last epoch"),
        (["--init_epoch", "5", "--epoch", "6"], "needs --weights"),
        (["-n", "1", "1", "1"], "lower bound"),
        (["-n", "1", "1", "4", "-n", "1", "1", "5"], "once or twice"),
        (["--contrast_max", "1"], "below 1"),
        (["--weights", "nonsense"], "nonsense: no such weights"),
        (["--lrgen", "0"], "above 0"),
        (["-u_net", "perhaps"], "True or False"),
        (["--csv", "none.csv"], "none.csv: no such CSV"),
    ],
)
def test_bad_flags_are_answered_with_what_to_do(flags, message, train, capsys):
    assert train(*flags) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_snapshot(tmp_path):
    model = build_generator(GeneratorSpec(2))
    batch = np.zeros((1, 8, 8, 8, 1), "float32"), np.zeros((1, 8, 8, 8, 2), "float32")
    losses = iter([1.0, float("nan")])
    with pytest.raises(TrainingError, match="epoch 2, step 1 is nan.*smaller learning rate"):
        fit(
            model,
            lambda lr, target: next(losses),
            lambda lr: np.concatenate([lr, lr], -1),
            lambda epoch: [batch],
            tmp_path,
            5,
            lambda: [batch],
        )
    assert {p.name for p in tmp_path.iterdir()} == {"SegSRGAN_epoch_1", "history.csv"}


def test_validation_by_hand():
    target = np.zeros((2, 2, 1, 1, 2), "float32")
    target[0, :, 0, 0] = [[1.0, 1.0], [0.0, 0.0]]  # image, label
    target[1, :, 0, 0] = [[2.0, 1.0], [0.0, 1.0]]
    output = target.copy()
    output[..., 0] += 0.1  # mse 0.01, psnr 20 dB at peak 1 and 26.02 at peak 2
    output[1, 1, ..., 1] = 0.0  # Dice 1 and 2/3, pooled 2*2/(3+2)
    scores = validate(lambda lr: output, [(target[..., :1], target)])
    assert scores["mse"] == pytest.approx(0.01, rel=1e-5)
    assert scores["psnr"] == pytest.approx((20 + 26.0206) / 2, rel=1e-5)
    assert scores["dice"] == pytest.approx(0.8)
    assert scores["patch_dice"] == pytest.approx((1 + 2 / 3) / 2)


def test_prefetch_keeps_order_and_passes_errors_on():
    assert list(prefetch(iter(range(20)), depth=3)) == list(range(20))

    def broken():
        yield 1
        raise OSError("unreadable")

    items = prefetch(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="unreadable"):
        next(items)
