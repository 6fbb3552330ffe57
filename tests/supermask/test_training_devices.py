# SPDX-License-Identifier: MIT
"""SuperMask's training on several devices.

python test_training_devices.py one|two OUTPUT.npz

makes updates of tiny networks on one device or on two logical ones; it needs a process of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_two_devices_train_alignnet_as_one_and_have_common_statistics(tmp_path):
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"}
    environment["KERAS_BACKEND"] = "tensorflow"
    results = []
    for mode in ("one", "two"):
        command = [sys.executable, __file__, mode, tmp_path / f"{mode}.npz"]
        subprocess.run(command, env=environment, check=True, timeout=800)
        results.append(dict(np.load(command[-1])))
    one, two = results
    arrays = [name for name in one if name.startswith("arr_")]
    assert arrays
    # Adam's first steps follow the sign of a gradient, also of one that is 0 but for rounding.
    apart = np.concatenate([np.abs(two[name] - one[name]).ravel() for name in arrays])
    assert apart.mean() < 1e-5
    np.testing.assert_array_equal(two["first"], two["last"])
    # Each device normalises its own part of a batch, so that these are only near.
    np.testing.assert_allclose(two["first"], one["first"], atol=0.1)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0.2, atol=0.05)


def main(mode, output):
    import keras
    import tensorflow as tf
    from patients import patient, tiny

    from segsrgan.training.distribution import Distribution, mirrored
    from supermask.training.dataset import Dataset, Pairs, Singles
    from supermask.training.learners import build_learners
    from supermask.training.loop import Step

    distribution = Distribution()
    if mode == "two":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        distribution = mirrored(["CPU:0", "CPU:1"])
    keras.utils.set_random_seed(0)
    settings, losses = tiny(supervised_alignment="transforms", batch_size=4), []
    with distribution.scope():
        learners = build_learners(settings, 2)
    step = Step(learners, distribution)
    for batch in Dataset([patient(0)], settings).stream(range(1, 2), lambda _: [Singles, Pairs]):
        metrics = (step.segmentor if isinstance(batch, Singles) else step.alignnet)(batch)
        losses += [float(np.asarray(metrics[name])) for name in sorted(metrics)]
    counted = [
        [part.numpy() for part in getattr(variable.value, "values", [variable.value])]
        for variable in learners.segmentor.non_trainable_variables
    ]
    np.savez(
        output,
        *learners.alignnet.get_weights(),
        losses=np.array(losses),
        first=np.concatenate([parts[0] for parts in counted]),
        last=np.concatenate([parts[-1] for parts in counted]),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
