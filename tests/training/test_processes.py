# SPDX-License-Identifier: MIT
"""Trainings in processes of their own: killed, on several devices and workers, on JAX."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from startup import start_up_lines, user_environment
from training import step_child
from training.command import GAN, PLAIN
from training.samples import free_ports

from segsrgan import load_generator
from segsrgan.networks import load_discriminator

TESTS = Path(__file__).parents[1]


def start(*arguments, backend="tensorflow"):
    """Starts Python on the CPU."""
    environment = user_environment(KERAS_BACKEND=backend, CUDA_VISIBLE_DEVICES="-1")
    environment.pop("TF_CONFIG", None)
    paths = [str(TESTS.parent), str(TESTS), environment.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def start_step(mode, *arguments, **options):
    return start(step_child.__file__, mode, *arguments, **options)


def start_command(*trainings, **options):
    """Starts a process for trainings, of which each comes after the other."""
    code = "import sys\nfrom segsrgan.SegSRGAN_training import main\n"
    return start(
        "-c", f"{code}sys.exit(next(filter(None, map(main, {list(trainings)})), 0))", **options
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output[-3000:]
    return output


def two_workers():
    return ",".join(f"localhost:{port}" for port in free_ports(2))


def weights(path):
    with np.load(path) as file:
        return [file[key] for key in file.files if key != "losses"], file["losses"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The weights and losses after a few cycles on one device, and the weights before."""
    path = tmp_path_factory.mktemp("single") / "weights.npz"
    step_child.main("single", path)
    gan = step_child.fixed_gan()
    variables = gan.generator.trainable_variables + gan.discriminator.trainable_variables
    return *weights(path), [np.asarray(variable.value) for variable in variables]


def check_equal(path, single, fraction=0.01):
    """Sums in another order change an update by less than 0.1 %, wrong ones by all of it."""
    arrays, losses = weights(path)
    expected, expected_losses, before = single
    updates = [np.abs(a - b).max() for a, b in zip(expected, before, strict=True)]
    assert np.median(updates) > 2e-5
    for array, other, update in zip(arrays, expected, updates, strict=True):
        np.testing.assert_allclose(array, other, rtol=0, atol=fraction * update + 2e-7)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "backend"),
    [("mirrored", "tensorflow"), pytest.param("single", "jax", marks=pytest.mark.slow)],
)
def test_steps_of_two_devices_and_of_jax_are_those_of_tensorflow_on_one(
    mode, backend, tmp_path, single
):
    finish(start_step(mode, tmp_path / "w.npz", backend=backend))
    check_equal(tmp_path / "w.npz", single)


def test_two_processes_train_as_one(tmp_path, single):
    workers, paths = two_workers(), [tmp_path / f"w{index}.npz" for index in range(2)]
    runs = [start_step("worker", path, workers, index) for index, path in enumerate(paths)]
    for run, path in zip(runs, paths, strict=True):
        finish(run)
        check_equal(path, single)


def difference(run, other, name, load=load_generator):
    """The largest difference of any weight."""
    ours, theirs = (load(folder / name).get_weights() for folder in (run, other))
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def wait_for(pattern, folder, process):
    for _ in range(3000):
        if list(folder.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    pytest.fail(f"no {pattern} in {folder}")


def test_a_killed_training_goes_on_bit_for_bit(train):
    flags = f"{PLAIN} --epoch 1 --batch_size 4"
    killed = start_command(train.flags(f"{flags} --state_minutes 0"))
    wait_for("state_00001_000000[2-9].h5", train.run, killed)
    killed.send_signal(signal.SIGKILL)
    finish(killed, -signal.SIGKILL)
    assert not (train.run / "SegSRGAN_epoch_1").exists()
    whole = train.flags(flags, run="whole")
    assert not start_up_lines(finish(start_command(whole, train.flags(f"{flags} --resume"))))
    assert difference(train.run, train.folder / "whole", "SegSRGAN_epoch_1") == 0
    assert not list(train.run.glob(".*partial"))


@pytest.mark.slow
def test_two_workers_train_as_one_and_go_on_after_one_is_lost(train):
    single = start_command(train.flags(f"{GAN} --epoch 2", run="single"))
    flags = f"{GAN} --epoch 2 --state_minutes 0 --workers {two_workers()} --worker_index"
    runs = [start_command(train.flags(f"{flags} {index}")) for index in range(2)]
    wait_for("state_00001_000000[2-9].h5", train.run, runs[0])
    runs[1].send_signal(signal.SIGKILL)
    output = finish(runs[0], 1)
    assert "a worker was lost" in output and "--resume" in output
    finish(runs[1], -signal.SIGKILL)
    runs = [start_command(train.flags(f"{flags} {index} --resume")) for index in range(2)]
    outputs = [finish(run) for run in runs]
    finish(single)
    pair = train.run, train.folder / "single", "SegSRGAN_epoch_2"
    assert difference(*pair) < 1e-5
    # Where a critic's gradient is near 0 its sign alone counts for Adam; an epoch moves by 3e-3.
    assert difference(*pair, load_discriminator) < 1e-3
    assert "epoch 2: dice" in outputs[0] and "epoch 2" not in outputs[1]
    history = (train.run / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", "1", "2"]


@pytest.mark.slow
def test_the_command_trains_on_jax(train):
    finish(start_command(train.flags(f"{GAN} --epoch 1"), backend="jax"))
    names = {path.name for path in train.run.iterdir()}
    assert {"SegSRGAN_epoch_1", "history.csv", "epoch_1.png"} <= names
    again = start_command(train.flags(f"{GAN} --epoch 2 --resume"), backend="jax")
    assert "epoch 2: dice" in finish(again)
