# SPDX-License-Identifier: MIT
"""Signals, exit statuses and messages of `SegSRGAN_training.py`, with a training of a few lines."""

import os
import signal
import sys
import types

import pytest

from segsrgan import SegSRGAN_training
from segsrgan.cli.train import settings_of
from segsrgan.config import to_toml
from segsrgan.errors import TrainingError

FLAGS = "-csv data.csv -n 0.5 0.5 3 -sf run -dice dice.csv -mse mse.csv -e 2".split()
ROW = {"epoch": 2, "dice": 0.51234, "psnr": 20.0}


@pytest.fixture
def train(monkeypatch):
    """Runs the command over a function that stands for `training.run.run`; returns its status."""

    def call(function, flags=FLAGS):
        module = types.ModuleType("segsrgan.training.run")
        module.run = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return SegSRGAN_training.main(flags)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield call
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def send(number):
    os.kill(os.getpid(), number)


WORKER = ["--workers", "a:1,b:1", "--worker_index", "1"]


@pytest.mark.parametrize(
    ("flags", "row", "shown"),
    [
        ([], ROW, "epoch 2: dice 0.5123, psnr 20; results in run\n"),
        (WORKER, {"epoch": 2}, ""),  # who is not the chief says nothing
    ],
)
def test_a_training_that_ends_has_status_0_and_its_scores_on_the_screen(
    flags, row, shown, train, capsys
):
    assert train(lambda settings, progress, stop: dict(row), [*FLAGS, *flags]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_the_training_to_stop_after_its_cycle(number, status, train, capsys):
    asked = []

    def run(settings, progress, stop):
        asked.append(stop())
        send(number)
        asked.append(stop())  # the cycle goes on, its end sees the wish

    assert train(run) == status
    assert asked == [False, True]
    assert "go on with the same command and --resume" in capsys.readouterr().err


def test_a_signal_in_the_last_cycle_makes_no_difference(train):
    def run(settings, progress, stop):
        stop()
        send(signal.SIGTERM)
        return dict(ROW)

    assert train(run) == 0


@pytest.mark.parametrize(
    ("cycles", "number", "status"),
    [(0, signal.SIGINT, 130), (0, signal.SIGTERM, 143), (1, signal.SIGINT, 130)],
)
def test_before_the_first_cycle_and_at_a_second_interrupt_a_training_ends_at_once(
    cycles, number, status, train, capsys
):
    def run(settings, progress, stop):
        for _ in range(cycles):
            stop()
            send(number)
        send(number)
        pytest.fail("still running")

    assert train(run) == status
    assert cycles == 0 or "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("data.csv: 2 problem(s):\n  one\n  two"), 2),
        (OSError("disk full"), 2),
        (TrainingError("the loss is nan"), 1),
        (MemoryError(), 2),
    ],
)
def test_errors_before_and_after_the_beginning_have_their_status(error, status, train, capsys):
    def early(settings, progress, stop):
        raise error

    def late(settings, progress, stop):
        stop()
        raise error

    assert train(early) == status
    assert train(late) == 1
    message = capsys.readouterr().err
    assert (str(error) or "--images_in_memory") in message


def test_progress_shows_the_losses_and_the_speed_from_where_an_epoch_goes_on(
    train, capsys, monkeypatch
):
    def run(settings, progress, stop):
        progress("epoch 1/2", 40, 100)
        progress("epoch 1/2", 60, 100, "G 0.25, D -3.5")
        progress("epoch 1/2", 100, 100, "G 0.125, D -4.5")
        return dict(ROW)

    assert train(run) == 0
    assert capsys.readouterr().err == "epoch 1/2: cycle 100 of 100, G 0.125, D -4.5\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert train(run) == 0
    shown = capsys.readouterr().err
    assert "40/100 [00:00<?, ?cycle/s]" in shown and "epoch 1/2: 100%" in shown
    assert "100/100" in shown and "G 0.125, D -4.5]" in shown


def test_the_front_door_repeats_a_training_from_its_file(train, tmp_path):
    from segsrgan.cli.main import main

    seen = []
    train(lambda settings, progress, stop: seen.append(settings))
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(settings_of(FLAGS), "train"))
    assert main(["train", "--config", str(path)]) == 0
    assert seen[0] == seen[1]
