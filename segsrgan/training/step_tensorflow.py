# SPDX-License-Identifier: MIT
"""Gradient steps on TensorFlow, on one device or on the replicas of a `tf.distribute` strategy."""

import contextlib
import logging

import numpy as np
import tensorflow as tf

from segsrgan.errors import TrainingError
from segsrgan.training.optimizers import clipped

logger = logging.getLogger(__name__)


def deterministic(several=False):
    """Makes every operation on a CPU repeat exactly. Comes before any other use of TensorFlow.

    That includes computing one operation after the other, each on all cores: two at once share
    the cores as it happens, and with them the order of some sums. Several processes need two at
    once (`several`), lest they wait for each other for ever. GPUs are left as fast as they are.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    tf.config.experimental.enable_op_determinism()
    if several:
        return
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        logger.info(
            "TensorFlow is in use already: a repetition of this training may differ in the last "
            "digits"
        )


@contextlib.contextmanager
def translated(several=False, smaller="--batch_size or --patch_size"):
    """Turns TensorFlow's errors into `TrainingError`; `smaller` are the flags that save memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise TrainingError(
            f"out of memory; take a smaller {smaller}, or --precision mixed_bfloat16"
        ) from error
    except tf.errors.OpError as error:
        text = error.message.splitlines()[0] if error.message else type(error).__name__
        if several:
            text = (
                f"a worker was lost ({text}); start all workers again with --resume, and the "
                "training goes on from its last state"
            )
        raise TrainingError(text) from error


class ReplicatedStep:
    """What compiled updates of networks have in common.

    Each call gets this worker's part of the batch, which is divided among its replicas. Losses and
    gradients are means over the global batch.

    Args:
        networks: has `scaled` and `clip_gradient`, and a model and its optimiser under `<name>` and
            `<name>_optimizer`; built in the strategy's scope if there is one.
        distribution: a `Distribution`, or None.
    """

    def __init__(self, networks, distribution=None):
        self._networks = networks
        self._distribution = distribution
        self._strategy = distribution.strategy if distribution else None

    def compile(self, update):
        """A function of a batch, a named tuple of arrays, that runs `update` on each replica.

        There `update` makes of a part of the batch, as tensors, a dict of scalars; the function
        returns their means.
        """
        compiled = tf.function(self._on_replicas(update))
        return lambda batch: compiled(self._spread(batch))

    def minimise(self, name, loss):
        """An update of the network of a name, to be called on a replica.

        `loss()` is `(loss, metrics)`, a scalar and a dict of scalars; this returns the metrics and
        `<name>_gradient`, the norm.
        """
        trained = getattr(self._networks, name).trainable_variables
        variables = [v.value for v in trained]
        optimizer = getattr(self._networks, f"{name}_optimizer")
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            value, metrics = loss()
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, variables)
        replicas = 1
        if self._strategy is not None:
            replicas = self._strategy.num_replicas_in_sync
            # Keras reduces once more; its sum would come too late for the norm.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        # Not by Keras: it would clip the replicas' parts of the sum, each by itself.
        scale = optimizer.dynamic_scale if self._networks.scaled else None
        gradients, norm = clipped(gradients, self._networks.clip_gradient, scale)
        # Keras sums over the replicas, which all hold the mean by now.
        gradients = [g / replicas for g in gradients] if replicas > 1 else gradients
        optimizer.apply(gradients, trained)
        self._average_statistics(name)
        return {**metrics, f"{name}_gradient": norm}

    def _average_statistics(self, name):
        """Gives all replicas the mean of what each has counted, as of batch normalisation."""
        counted = getattr(self._networks, name).non_trainable_variables
        if self._strategy is None or not counted:
            return
        values = [tf.convert_to_tensor(variable.value) for variable in counted]
        context = tf.distribute.get_replica_context()
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for variable, value in zip(counted, means, strict=True):
            variable.assign(value)

    def _on_replicas(self, update):
        strategy, mean = self._strategy, tf.distribute.ReduceOp.MEAN
        if strategy is None:
            return update

        def on_replicas(batch):
            metrics = strategy.run(update, args=(batch,))
            return {key: strategy.reduce(mean, metrics[key], axis=None) for key in metrics}

        return on_replicas

    def _spread(self, batch):
        """The batch as tensors, or as one part for each local replica."""
        if self._strategy is None:
            return type(batch)(*map(tf.convert_to_tensor, batch))
        local = self._distribution.local_replicas

        def parts(array):
            pieces = np.split(array, local)
            return self._strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(
                    pieces[context.replica_id_in_sync_group % local]
                )
            )

        return type(batch)(*map(parts, batch))


class Step(ReplicatedStep):
    """Compiled updates of the networks of a `Gan`; see `ReplicatedStep`.

    `generator` and `discriminator` make of a `Batch` a dict of scalars: see `Gan.generator_loss`
    and `Gan.discriminator_loss`, and the norm `<network>_gradient`.
    """

    def __init__(self, gan, distribution=None):
        super().__init__(gan, distribution)
        self._gan = gan
        self.generator = self.compile(self._generator)
        self.discriminator = self.compile(self._discriminator)
        self._predict = tf.function(
            lambda lr, resolution: gan.generator(
                gan.generator_inputs(lr, resolution), training=False
            )
        )

    def predict(self, batch):
        """The generator's output for a `Batch`, NumPy (b, p, p, p, 2 + classes)."""
        return self._predict(batch.lr, batch.resolution).numpy()

    def _generator(self, batch):
        gan = self._gan

        def loss():
            output = gan.generator(gan.generator_inputs(batch.lr, batch.resolution), training=True)
            return gan.generator_loss(self._critic(batch), batch.target, output)

        return self.minimise("generator", loss)

    def _discriminator(self, batch):
        gan = self._gan
        inputs = gan.generator_inputs(batch.lr, batch.resolution)
        fake = tf.stop_gradient(gan.generator(inputs, training=True))
        critic = self._critic(batch)
        return self.minimise(
            "discriminator",
            lambda: gan.discriminator_loss(critic, _gradient, batch.target, fake, batch.epsilon),
        )

    def _critic(self, batch):
        gan = self._gan
        return lambda images: gan.discriminator(
            gan.discriminator_inputs(images, batch.resolution), training=True
        )


def _gradient(critic, images):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        score = tf.reduce_sum(critic(images))
    return tape.gradient(score, images)
