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
    """The `Distribution` to train on. Must come before any other use of TensorFlow.

    On one computer that is all GPUs, with `multi_gpu`, or as many of them as divide the batch. For
    the other arguments see `process_of`; several processes need TensorFlow, or raise `UserError`.
    """
    count, index = process_of(workers, worker_index)
    if keras.backend.backend() != "tensorflow":
        if count > 1:
            raise UserError(
                "--workers and TF_CONFIG need KERAS_BACKEND=tensorflow, received "
                f"{keras.backend.backend()}"
            )
        return Distribution()
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not multi_gpu:
        tf.config.set_visible_devices(devices[:1], "GPU")
    if count > 1:
        if workers is not None:
            cluster = {"worker": [name.strip() for name in workers.split(",")]}
            task = {"type": "worker", "index": index}
            os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        return Distribution(tf.distribute.MultiWorkerMirroredStrategy(), count, index)
    used = len(devices) if multi_gpu else 1
    while batch_size and used > 1 and batch_size % used:
        used -= 1
    if used < 2:
        return Distribution()
    logger.info("training on %d of %d GPUs", used, len(devices))
    return mirrored([f"GPU:{number}" for number in range(used)])


def mirrored(devices):
    """A `Distribution` over devices of this process."""
    import tensorflow as tf

    return Distribution(tf.distribute.MirroredStrategy(devices))


def process_of(workers=None, worker_index=None):
    """How many processes train together, and the number of this one: `(count, index)`.

    `workers` are "host:port,host:port,…" of all processes, the chief first; None: what the
    environment variable TF_CONFIG says, which cluster managers set, or this process alone.
    """
    if workers is not None:
        return len(workers.split(",")), worker_index
    text = os.environ.get("TF_CONFIG")
    if text is None:
        return 1, 0
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs, others = (len(cluster.get(kind, [])) for kind in ("chief", "worker"))
        index = int(task["index"]) + {"chief": 0, "worker": chiefs}[task["type"]]
        if set(cluster) - {"chief", "worker"} or not 0 <= index < chiefs + others:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            'TF_CONFIG must be JSON as {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
            f'"worker", "index": 0}}}}, perhaps with a "chief", received {text!r}'
        ) from error
    return chiefs + others, index
