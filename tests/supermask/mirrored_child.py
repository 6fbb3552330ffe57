# SPDX-License-Identifier: MIT
"""Updates of tiny networks on one device or on two logical ones; run as a process of its own.

python mirrored_child.py one|two OUTPUT.npz
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from patients import augmentation, patient, tiny


def main(mode, output):
    from segsrgan.training.distribution import Distribution, mirrored
    from supermask.training.dataset import Dataset, Pairs, Singles
    from supermask.training.learners import build_learners
    from supermask.training.step import Step

    distribution = Distribution()
    if mode == "two":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        distribution = mirrored(["CPU:0", "CPU:1"])
    import keras

    keras.utils.set_random_seed(0)
    with distribution.scope():
        learners = build_learners(tiny(supervised_alignment="transforms"), 2)
    step = Step(learners, distribution)
    dataset = Dataset([patient(0)], augmentation(), 4, steps=2)
    losses = []
    for batch in dataset.stream(range(1, 2), lambda epoch: [Singles, Pairs]):
        update = step.segmentor if isinstance(batch, Singles) else step.alignnet
        metrics = update(batch)
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
