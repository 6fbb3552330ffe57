# SPDX-License-Identifier: MIT
"""Training on several devices of one computer, or on several computers (tf.distribute)."""

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import keras

from segsrgan.errors import UserError

logger = logging.getLogger(__name__)


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

    def gather(self, number):
        """The numbers that all workers call this with at the same time; waits for all of them."""
        if self.workers == 1:
            return [number]
        import tensorflow as tf

        values = self.strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([number], tf.float64)
        )
        return self.strategy.gather(values, axis=0).numpy().tolist()

    def check_batch(self, size):
        """Raises `UserError` unless a global batch can be divided among the devices."""
        if size % self.replicas:
            above = size + self.replicas - size % self.replicas
            raise UserError(
                f"--batch_size {size} cannot be divided among {self.replicas} devices; "
                f"it counts the patches of all of them together: try {above}"
            )


def distribute(multi_gpu=True, workers=None, worker_index=None, batch_size=None):
    """Chooses where to train. Must come before any other use of TensorFlow.

    Args:
        multi_gpu: whether to use all GPUs of this computer, or one.
        workers: "host:port,host:port,…" of all processes, the chief first; None: what the
            environment variable TF_CONFIG says, which cluster managers set, or this process alone.
        worker_index: the number of this process among them.
        batch_size: patches of a batch; on one computer only as many GPUs are used as divide it.

    Returns:
        A `Distribution`.

    Raises:
        UserError: if several workers are asked for on a backend other than TensorFlow.
    """
    several = several_workers(workers)
    if keras.backend.backend() != "tensorflow":
        if several:
            raise UserError(
                "--workers and TF_CONFIG need KERAS_BACKEND=tensorflow, received "
                f"{keras.backend.backend()}"
            )
        return Distribution()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not multi_gpu:
        tf.config.set_visible_devices(devices[:1], "GPU")
    if several:
        return _over_workers(workers, worker_index)
    count = len(devices) if multi_gpu else 1
    while batch_size and count > 1 and batch_size % count:
        count -= 1
    if count < 2:
        return Distribution()
    logger.info("training on %d of %d GPUs", count, len(devices))
    return mirrored([f"GPU:{index}" for index in range(count)])


def several_workers(workers=None):
    """Whether `distribute` would join other processes."""
    return workers is not None or "TF_CONFIG" in os.environ


def this_worker(workers=None, worker_index=None):
    """How many processes train together, and the number of this one: `(count, index)`.

    Args:
        workers: "host:port,host:port,…" of all processes; None: what TF_CONFIG says, if anything.
        worker_index: the number of this process among them.

    Raises:
        UserError: if TF_CONFIG cannot be understood.
    """
    if workers is not None:
        return len(workers.split(",")), worker_index
    return _place(os.environ["TF_CONFIG"]) if "TF_CONFIG" in os.environ else (1, 0)


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

    count, index = _place(os.environ["TF_CONFIG"])
    return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), count, index)


def _place(text):
    """How many processes TF_CONFIG names, and the number of this one; a chief comes first."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs, workers = (len(cluster.get(kind, [])) for kind in ("chief", "worker"))
        index = int(task["index"]) + {"chief": 0, "worker": chiefs}[task["type"]]
        if set(cluster) - {"chief", "worker"} or not 0 <= index < chiefs + workers:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            'TF_CONFIG must be JSON as {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
            f'"worker", "index": 0}}}}, perhaps with a "chief", received {text!r}'
        ) from error
    return chiefs + workers, index
