# SPDX-License-Identifier: MIT
"""Training on several devices of one computer, or on several computers (tf.distribute)."""

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Distribution:
    """Where a training runs.

    Attributes:
        strategy: a `tf.distribute.Strategy`, None on one device.
        workers: processes that train together.
        index: of this process; 0 is the chief, which alone writes.
    """

    strategy: Any = None
    workers: int = 1
    index: int = 0

    @property
    def replicas(self):
        """Devices of all processes together."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def local_replicas(self):
        """Devices of this process."""
        return self.replicas // self.workers

    @property
    def chief(self):
        """Whether this process writes."""
        return self.index == 0

    def scope(self):
        """The context that networks and optimisers are built in."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def check_batch(self, size):
        """Raises `ValueError` unless a global batch can be divided among the devices."""
        if size % self.replicas:
            above = size + self.replicas - size % self.replicas
            raise ValueError(
                f"--batch_size {size} cannot be divided among {self.replicas} devices; "
                f"it counts the patches of all of them together: try {above}"
            )


def distribute(multi_gpu=True, workers=None, worker_index=None):
    """Chooses where to train. Must come before any other use of TensorFlow.

    Args:
        multi_gpu: whether to use all GPUs of this computer.
        workers: "host:port,host:port,…" of all processes, the chief first; None: what the
            environment variable TF_CONFIG says, which cluster managers set, or this process alone.
        worker_index: the number of this process among them.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: if several workers are asked for on a backend other than TensorFlow.
    """
    several = workers is not None or "TF_CONFIG" in os.environ
    if keras.backend.backend() != "tensorflow":
        if several:
            raise ValueError(
                "--workers and TF_CONFIG need KERAS_BACKEND=tensorflow, received "
                f"{keras.backend.backend()}"
            )
        return Distribution()
    if several:
        return _over_workers(workers, worker_index)
    import tensorflow as tf

    if multi_gpu and len(tf.config.list_logical_devices("GPU")) > 1:
        return mirrored()
    return Distribution()


def mirrored(devices=None):
    """A `Distribution` over devices of this process, by default all GPUs."""
    import tensorflow as tf

    return Distribution(tf.distribute.MirroredStrategy(devices))


def _over_workers(workers, worker_index):
    if workers is not None:
        task = {"type": "worker", "index": worker_index}
        cluster = {"worker": [name.strip() for name in workers.split(",")]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    import tensorflow as tf

    try:
        config = json.loads(os.environ["TF_CONFIG"])
        count, index = len(config["cluster"]["worker"]), int(config["task"]["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            'TF_CONFIG must be JSON as {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
            f'"worker", "index": 0}}}}, received {os.environ["TF_CONFIG"]!r}'
        ) from error
    return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), count, index)
