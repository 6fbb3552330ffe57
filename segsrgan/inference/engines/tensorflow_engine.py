# SPDX-License-Identifier: MIT
"""The generator computed by TensorFlow, on the processor or a graphics card."""

import logging
from contextlib import contextmanager

import keras
import numpy as np

from segsrgan.errors import UserError

logger = logging.getLogger(__name__)

# Graphs kept, one per patch size; whole images of many sizes must not pile them up.
_KEPT = 4
# Voxels of a batch on a graphics card: enough to keep it busy, some 4 GB with the paper's network.
_DEVICE_BATCH_VOXELS = 4 * 128**3


def check_available():
    """Raises `UserError` if Keras computes with something else."""
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "the tensorflow engine needs KERAS_BACKEND=tensorflow, "
            f"received {keras.backend.backend()!r}; unset KERAS_BACKEND"
        )


def precisions():
    """Precisions it computes in."""
    return ("float32",)


def version():
    """What the speed and the last digits of its results depend on."""
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    return f"tensorflow {tf.__version__}, keras {keras.__version__}, {gpus} GPUs"


def prepare(threads=None):
    """Sets the number of threads; TensorFlow accepts it only before its first computation.

    Args:
        threads: threads that compute one operation, TensorFlow's choice when None.
    """
    if threads is None:
        return
    import tensorflow as tf

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


def make(model, precision="float32", threads=None):
    """Builds the engine; `threads` took effect in `prepare`."""
    return TensorFlowEngine(model)


class TensorFlowEngine:
    """Runs a Keras generator in a `tf.function` per patch size.

    Args:
        model: a `keras.Model` with one input, or two when conditional. Its weights are taken as
            they are when a patch size is first seen.
        on_device: whether volumes are kept where the network is computed, see `device_sweep`;
            on a graphics card when None.
    """

    def __init__(self, model, on_device=None):
        import tensorflow as tf

        self._model = model
        self._conditional = len(model.inputs) == 2
        self._functions = {}
        self._on_device = tf.config.list_physical_devices("GPU") if on_device is None else on_device
        if self._on_device:
            self.batch_voxels = _DEVICE_BATCH_VOXELS

    def predict_batch(self, patches, resolution=None):
        """Computes one batch, see `Engine.predict_batch`."""
        with _memory_errors():
            patches = np.ascontiguousarray(patches, dtype=np.float32)
            return self._compute(patches, resolution).numpy()

    def device_sweep(self, padded, tiling, channels, resolution=None, blend="uniform"):
        """A `DeviceSweep` on the graphics card, None where there is none.

        Raises:
            MemoryError: if the volumes do not fit there.
        """
        if not self._on_device:
            return None
        from segsrgan.inference.engines.device_sweep import DeviceSweep

        def compute(patches):
            return self._compute(patches, resolution)

        return DeviceSweep(compute, padded, tiling, channels, blend, _memory_errors)

    def _compute(self, patches, resolution):
        import tensorflow as tf

        if self._conditional and resolution is None:
            raise UserError("a conditional generator needs the slice resolution in mm")
        shape = tuple(patches.shape[1:])
        function = self._functions.get(shape)
        if function is None:
            if len(self._functions) == _KEPT:
                self._functions.pop(next(iter(self._functions)))
            function = self._functions[shape] = self._trace(tf, shape)
        return function(patches, np.float32(resolution or 0.0))

    def _trace(self, tf, shape):
        signature = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((), tf.float32)]
        trainable = [variable.numpy() for variable in self._model.trainable_variables]
        others = [variable.numpy() for variable in self._model.non_trainable_variables]

        @tf.function(input_signature=signature, reduce_retracing=False)
        def compute(patches, resolution):
            inputs = patches
            if self._conditional:
                inputs = [patches, tf.fill(tf.shape(patches), resolution)]
            # Constants, so that the rewritten kernels are computed once and not for each batch.
            weights = [[tf.constant(array) for array in arrays] for arrays in (trainable, others)]
            outputs, _ = self._model.stateless_call(*weights, inputs, training=False)
            return tf.cast(outputs, tf.float32)

        return compute


@contextmanager
def _memory_errors():
    """Gives TensorFlow's errors of allocation Python's class."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(str(error)) from error
