# SPDX-License-Identifier: MIT
"""The gradient steps: one device against two, one process against two, TensorFlow against JAX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import step_child
from training.samples import free_ports

CHILD = Path(__file__).with_name("step_child.py")


def start(mode, output, *arguments, backend="tensorflow", **environment):
    variables = {**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
    variables.pop("TF_CONFIG", None)
    paths = [*map(str, (CHILD.parents[2], CHILD.parents[1])), variables.get("PYTHONPATH", "")]
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    return subprocess.Popen(
        [sys.executable, str(CHILD), mode, str(output), *map(str, arguments)],
        env={**variables, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output[-3000:]
    return output


def weights(path):
    with np.load(path) as file:
        return [file[key] for key in file.files if key != "losses"], file["losses"]


def two_workers():
    return ",".join(f"localhost:{port}" for port in free_ports(2))


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


def test_two_devices_train_as_one(tmp_path, single):
    finish(start("mirrored", tmp_path / "w.npz"))
    check_equal(tmp_path / "w.npz", single)


def test_two_processes_train_as_one(tmp_path, single):
    workers = two_workers()
    runs = [start("worker", tmp_path / f"w{i}.npz", workers, i) for i in range(2)]
    for run in runs:
        finish(run)
    for i in range(2):
        check_equal(tmp_path / f"w{i}.npz", single)


@pytest.mark.slow
def test_jax_trains_as_tensorflow(tmp_path, single):
    finish(start("single", tmp_path / "w.npz", backend="jax"))
    check_equal(tmp_path / "w.npz", single)


@pytest.mark.slow
def test_a_lost_worker_ends_the_others(tmp_path):
    workers = two_workers()
    lost = start("worker", tmp_path / "w1.npz", workers, 1, DIE_AFTER="2")
    chief = start("worker", tmp_path / "w0.npz", workers, 0)
    finish(lost, 9)
    output = finish(chief, 1)
    assert "Collective ops is aborted" in output
    assert not (tmp_path / "w0.npz").exists()
