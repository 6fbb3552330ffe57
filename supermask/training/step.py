# SPDX-License-Identifier: MIT
"""Gradient steps of the segmentor and of AlignNet on TensorFlow."""

import tensorflow as tf

from segsrgan.training.step_tensorflow import ReplicatedStep


def has_gpu():
    """Whether TensorFlow sees one."""
    return bool(tf.config.list_physical_devices("GPU"))


class Step(ReplicatedStep):
    """Compiled updates of `Learners`.

    Args:
        learners: `Learners`, built in the strategy's scope if there is one.
        distribution: a `Distribution`; each call gets this worker's share of the batch.
    """

    def __init__(self, learners, distribution=None):
        super().__init__(learners, distribution)
        self._learners = learners
        self._updates = {
            name: self.compile(self._update(network, loss))
            for name, network, loss in (
                ("segmentor", "segmentor", learners.segmentor_loss),
                ("alignnet", "alignnet", learners.alignnet_loss),
                ("consistent_segmentor", "segmentor", learners.consistent_segmentor_loss),
                ("consistent_alignnet", "alignnet", learners.consistent_alignnet_loss),
            )
        }
        self._segment = tf.function(lambda image: learners.segmentor(image, training=False))
        self._align = tf.function(learners.motion)
        self._move = tf.function(learners.moved)

    def segmentor(self, batch):
        """Updates the segmentor by `Singles`; returns a dict of scalars."""
        return self._updates["segmentor"](batch)

    def alignnet(self, batch):
        """Updates AlignNet by `Pairs`; likewise."""
        return self._updates["alignnet"](batch)

    def consistent_segmentor(self, batch):
        """Updates the segmentor by `Pairs`, with L_cons1; likewise."""
        return self._updates["consistent_segmentor"](batch)

    def consistent_alignnet(self, batch):
        """Updates AlignNet by `Pairs`, with L_cons2; likewise."""
        return self._updates["consistent_alignnet"](batch)

    def segment(self, images):
        """The segmentor's answer, NumPy (b, n, n, n, 1)."""
        return self._segment(images).numpy()

    def align(self, moving, fixed):
        """AlignNet's motion, NumPy (b, 3, 4), for `SpatialTransformer3D`."""
        return self._align(moving, fixed).numpy()

    def move(self, volumes, matrices):
        """Volumes moved by matrices, NumPy (b, n, n, n, 1)."""
        return self._move(volumes, matrices).numpy()

    def _update(self, network, loss):
        return lambda batch: self.minimise(network, lambda: loss(batch))
