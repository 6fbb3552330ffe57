# SPDX-License-Identifier: MIT
"""The generator computed by TensorFlow, on the processor or a graphics card."""

import logging

import keras
import numpy as np

from segsrgan.inference.errors import InferenceError

logger = logging.getLogger(__name__)

# Graphs kept, one per patch size; whole images of many sizes must not pile them up.
_KEPT = 4


def prepare(threads=None):
    """Sets the number of threads; TensorFlow accepts it only before its first computation.

    Args:
        threads: threads that compute one operation, TensorFlow's choice when None.
    """
    import tensorflow as tf

    if threads is None:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(threads, 2))
    except RuntimeError:
        now = tf.config.threading.get_intra_op_parallelism_threads()
        if now != threads:
            logger.warning(
                "TensorFlow already runs with %s threads; ask for %d before its first use",
                now or "its own number of",
                threads,
            )


def make(model, threads=None):
    """Builds the engine; `threads` took effect in `prepare`."""
    if keras.backend.backend() != "tensorflow":
        raise InferenceError(
            "the tensorflow engine needs KERAS_BACKEND=tensorflow, "
            f"received {keras.backend.backend()!r}; unset KERAS_BACKEND"
        )
    return TensorFlowEngine(model)


class TensorFlowEngine:
    """Runs a Keras generator in a `tf.function` per patch size.

    Args:
        model: a `keras.Model` with one input, or two when conditional.
    """

    def __init__(self, model):
        self._model = model
        self._conditional = len(model.inputs) == 2
        self._functions = {}

    def predict_batch(self, patches, resolution=None):
        """Computes one batch, see `Engine.predict_batch`."""
        import tensorflow as tf

        if self._conditional and resolution is None:
            raise InferenceError("a conditional generator needs the slice resolution in mm")
        shape = tuple(patches.shape[1:])
        function = self._functions.get(shape)
        if function is None:
            if len(self._functions) == _KEPT:
                self._functions.pop(next(iter(self._functions)))
            function = self._functions[shape] = self._trace(tf, shape)
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        return function(patches, np.float32(resolution or 0.0)).numpy()

    def _trace(self, tf, shape):
        signature = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((), tf.float32)]

        @tf.function(input_signature=signature, reduce_retracing=False)
        def compute(patches, resolution):
            inputs = patches
            if self._conditional:
                inputs = [patches, tf.fill(tf.shape(patches), resolution)]
            return tf.cast(self._model(inputs, training=False), tf.float32)

        return compute
