# SPDX-License-Identifier: MIT
"""The generator computed by TensorFlow, on the processor or a graphics card."""

import logging
import threading
from contextlib import contextmanager
from functools import lru_cache, partial

import keras
import numpy as np

from segsrgan.errors import UserError
from segsrgan.inference.engines import graphics_card
from segsrgan.networks.spatial import PatchReassembly
from segsrgan.volumes.tiling import patch_weights

logger = logging.getLogger(__name__)

# Graphs kept, one per patch size; whole images of many sizes must not pile them up.
_KEPT = 4
# Voxels of a batch on a graphics card: enough to keep it busy, some 4 GB with the paper's network.
_DEVICE_BATCH_VOXELS = 4 * 128**3


def precisions():
    """Precisions that it computes in."""
    return ("float32",)


def make(generator, precision="float32", threads=None):
    """Builds the engine of `(spec, arrays)` or of any `keras.Model`, in float32.

    `threads` compute one operation, TensorFlow's choice when None; they are accepted only before
    TensorFlow's first computation in a process. Another backend of Keras is a `UserError`.
    """
    if keras.backend.backend() != "tensorflow":
        raise UserError(
            "the tensorflow engine needs KERAS_BACKEND=tensorflow, "
            f"received {keras.backend.backend()!r}; unset KERAS_BACKEND"
        )
    if threads is not None:
        _set_threads(threads)
    if isinstance(generator, tuple):
        from segsrgan.networks.models import assign_weights, build_generator

        spec, arrays = generator
        generator = assign_weights(build_generator(spec), arrays)
    return TensorFlowEngine(generator)


@contextmanager
def _memory_errors():
    """Gives TensorFlow's errors of allocation Python's class."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(str(error)) from error


class TensorFlowEngine:
    """Runs a `keras.Model` of one input, or two when conditional, traced per patch size.

    Its weights are taken as they are when a patch size is first seen. `on_device` says whether
    volumes are kept where the network is computed; on a graphics card when None.
    """

    name = "tensorflow"
    precision = "float32"

    def __init__(self, model, on_device=None):
        self._conditional = len(model.inputs) == 2
        self._trace = lru_cache(_KEPT)(partial(_trace, model))
        self._lock = threading.Lock()
        self._on_device = _has_graphics_card() if on_device is None else on_device
        if self._on_device:
            self.batch_voxels = _DEVICE_BATCH_VOXELS

    @_memory_errors()
    def predict_batch(self, patches, resolution=None):
        """See `segsrgan.inference.engines`."""
        patches = np.ascontiguousarray(patches, dtype=np.float32)
        return self._compute(patches, resolution).numpy()

    def device_sweep(self, padded, tiling, channels, resolution=None, **options):
        """A `DeviceSweep`, None without a graphics card, `MemoryError` if volumes do not fit."""
        if not self._on_device:
            return None
        network = partial(self._compute, resolution=resolution)
        return DeviceSweep(network, padded, tiling, channels, **options)

    def _compute(self, patches, resolution):
        if self._conditional and resolution is None:
            raise UserError("a conditional generator needs the slice resolution in mm")
        with self._lock:
            function = self._trace(tuple(patches.shape[1:]))
        return function(patches, np.float32(resolution or 0.0))


def _trace(model, shape):
    """The function of patches `(b, *shape)`, tensors, and the resolution that a model computes."""
    import tensorflow as tf

    signature = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((), tf.float32)]
    trainable = [variable.numpy() for variable in model.trainable_variables]
    others = [variable.numpy() for variable in model.non_trainable_variables]

    @tf.function(input_signature=signature, reduce_retracing=False)
    def compute(patches, resolution):
        inputs = patches
        if len(model.inputs) == 2:
            inputs = [patches, tf.fill(tf.shape(patches), resolution)]
        # Constants, so that the rewritten kernels are computed once and not for each batch.
        weights = [[tf.constant(array) for array in arrays] for arrays in (trainable, others)]
        outputs, _ = model.stateless_call(*weights, inputs, training=False)
        return tf.cast(outputs, tf.float32)

    return compute


class DeviceSweep:
    """One volume that stays on a graphics card from its first patch to its last.

    The counterpart of `segsrgan.inference.sweep.HostSweep`: only the volume and the result are
    moved. `network` takes tensors `(b, px, py, pz, 1)` to `(b, px, py, pz, channels)`.
    """

    @_memory_errors()
    def __init__(self, network, padded, tiling, channels, blend="uniform", squares=False):
        self._network = network
        self._tiling = tiling
        self._layer = PatchReassembly(tiling.padded_shape)
        weights = patch_weights(tiling, blend)
        self._weights = None if weights is None else keras.ops.convert_to_tensor(weights)
        self._volume = keras.ops.convert_to_tensor(padded)
        self._squares = squares
        channels *= 2 if squares else 1
        # The second, let go at once, stands for that which `add` makes of the first.
        self._total, _ = (self._layer.begin(channels) for _ in range(2))

    @_memory_errors()
    def compute(self, starts):
        """The outputs of the patches at these starts, a tensor `(b, px, py, pz, channels)`."""
        regions = [self._volume[self._tiling.region(start)] for start in starts]
        return self._network(keras.ops.stack(regions)[..., None])

    @_memory_errors()
    def add(self, outputs, starts):
        """Puts the outputs of patches where they belong."""
        starts = np.array(starts, np.int32)
        if self._squares:
            outputs = keras.ops.concatenate([outputs, keras.ops.square(outputs)], axis=-1)
        self._total = self._layer.add(self._total, outputs, starts, self._weights)

    @_memory_errors()
    def result(self):
        """The mean of all outputs, float32 `(x, y, z, channels)`, padding cut off."""
        mean = self._layer.finish(self._total)
        return np.array(keras.ops.convert_to_numpy(mean[self._tiling.crop]))


def _has_graphics_card():
    import tensorflow as tf

    found = bool(tf.config.list_physical_devices("GPU"))
    if not found and graphics_card():
        logger.warning(
            "TensorFlow cannot use the graphics card of this computer; "
            "pip install 'tensorflow[and-cuda]', or take engine openvino"
        )
    return found


def _set_threads(threads):
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
