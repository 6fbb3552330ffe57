# SPDX-License-Identifier: MIT
"""The training command in processes of its own: killed, on several workers, on JAX."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from startup import start_up_lines, user_environment
from training.command import GAN, PLAIN
from training.samples import free_ports, write_table

from segsrgan import load_generator
from segsrgan.networks import load_discriminator


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path, ("Train", "Train", "Test"), shape=(32, 32, 32), radius=12)


def words(table, run, flags):
    folder = table.parent / run
    flags = f"-n 1 1 3 -sf {folder} -dice {folder}/dice.csv -mse {folder}/mse.csv {flags}"
    return ["--csv", str(table), *flags.split()]


def start(*trainings, backend="tensorflow"):
    """Starts a process for trainings, of which each comes after the other."""
    code = "import sys\nfrom segsrgan.SegSRGAN_training import main\n"
    code += f"sys.exit(next(filter(None, map(main, {list(trainings)})), 0))"
    command = [sys.executable, "-c", code]
    environment = user_environment(KERAS_BACKEND=backend, CUDA_VISIBLE_DEVICES="-1")
    environment.pop("TF_CONFIG", None)
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output[-3000:]
    assert not start_up_lines(output)
    return output


def difference(run, other, name, loads):
    """The largest difference of any weight that some functions load."""
    ours, theirs = (
        [weight for load in loads for weight in load(folder / name).get_weights()]
        for folder in (run, other)
    )
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def wait_for(pattern, folder, process):
    for _ in range(3000):
        if list(folder.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    pytest.fail(f"no {pattern} in {folder}")


def test_a_killed_training_goes_on_bit_for_bit(table):
    flags = f"{PLAIN} --epoch 1 --batch_size 4"
    killed = start(words(table, "killed", f"{flags} --state_minutes 0"))
    folder = table.parent / "killed"
    wait_for("state_00001_000000[2-9].h5", folder, killed)
    killed.send_signal(signal.SIGKILL)
    finish(killed, -signal.SIGKILL)
    assert not (folder / "SegSRGAN_epoch_1").exists()
    finish(start(words(table, "whole", flags), words(table, "killed", f"{flags} --resume")))
    assert difference(folder, table.parent / "whole", "SegSRGAN_epoch_1", [load_generator]) == 0
    assert not list(folder.glob(".*partial"))


@pytest.mark.slow
def test_two_workers_train_as_one_and_go_on_after_one_is_lost(table):
    single = start(words(table, "single", f"{GAN} --epoch 2"))
    ports = free_ports(2)
    workers = ",".join(f"localhost:{port}" for port in ports)
    flags = f"{GAN} --epoch 2 --state_minutes 0 --workers {workers} --worker_index"
    runs = [start(words(table, "both", f"{flags} {index}")) for index in range(2)]
    folder = table.parent / "both"
    wait_for("state_00001_000000[2-9].h5", folder, runs[0])
    runs[1].send_signal(signal.SIGKILL)
    output = finish(runs[0], 1)
    assert "a worker was lost" in output and "--resume" in output
    finish(runs[1], -signal.SIGKILL)
    runs = [start(words(table, "both", f"{flags} {index} --resume")) for index in range(2)]
    outputs = [finish(run) for run in runs]
    finish(single)
    loads = load_generator, load_discriminator
    assert difference(folder, table.parent / "single", "SegSRGAN_epoch_2", loads) < 1e-4
    assert "epoch 2: dice" in outputs[0] and "epoch 2" not in outputs[1]
    history = (folder / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", "1", "2"]


@pytest.mark.slow
def test_the_command_trains_on_jax(table):
    finish(start(words(table, "jax", f"{GAN} --epoch 1"), backend="jax"))
    folder = table.parent / "jax"
    assert {"SegSRGAN_epoch_1", "history.csv", "epoch_1.png"} <= {p.name for p in folder.iterdir()}
    again = start(words(table, "jax", f"{GAN} --epoch 2 --resume"), backend="jax")
    assert "epoch 2: dice" in finish(again)
