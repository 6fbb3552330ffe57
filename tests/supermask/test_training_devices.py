# SPDX-License-Identifier: MIT
"""The training of SuperMask on several devices."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent.parent


def trained(mode, folder):
    output = folder / f"{mode}.npz"
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"}
    environment["KERAS_BACKEND"] = "tensorflow"
    command = [sys.executable, str(Path(__file__).with_name("mirrored_child.py")), mode, output]
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", timeout=800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(output))


@pytest.mark.slow
def test_two_devices_train_alignnet_as_one_and_share_their_statistics(tmp_path):
    one, two = (trained(mode, tmp_path) for mode in ("one", "two"))
    arrays = [name for name in one if name.startswith("arr_")]
    assert arrays
    # Adam's first steps follow the sign of a gradient, also of one that is 0 but for rounding.
    apart = np.concatenate([np.abs(two[name] - one[name]).ravel() for name in arrays])
    assert apart.mean() < 1e-5
    np.testing.assert_array_equal(two["first"], two["last"])
    # Each device normalises its own share of a batch, so that these are only near.
    np.testing.assert_allclose(two["first"], one["first"], atol=0.1)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0.2, atol=0.05)
