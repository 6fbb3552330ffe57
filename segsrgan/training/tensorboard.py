# SPDX-License-Identifier: MIT
"""Event files for TensorBoard, written by TensorFlow without the package tensorboard."""

import logging
import math
from numbers import Real

logger = logging.getLogger(__name__)


class TensorBoard:
    """Writes scalars and pictures of epochs into a folder, where Keras' backend is TensorFlow.

    Elsewhere, and when it cannot write, it says so once and does nothing: the training does not
    depend on it.

    Args:
        folder: of the event files; made with the first of them.
    """

    def __init__(self, folder):
        self._folder = folder
        self._writer = None
        self._works = _has_tensorflow()

    def scalars(self, epoch, row):
        """Writes the finite numbers of a dict, other than `epoch`, under their keys."""
        numbers = {key: value for key, value in row.items() if isinstance(value, Real)}
        numbers = {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
        numbers.pop("epoch", None)
        self._write(epoch, "scalars", numbers)

    def image(self, epoch, name, png, shape):
        """Writes a picture.

        Args:
            epoch: its number.
            name: of the series of pictures.
            png: the file's bytes.
            shape: (height, width, ...).
        """
        height, width = shape[:2]
        # What TensorBoard reads: width and height as texts, then the files.
        self._write(epoch, "images", {name: [str(width), str(height), png]})

    def close(self):
        """Closes the file; a further call changes nothing."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._works = None, False

    def _write(self, epoch, plugin, values):
        if not self._works:
            return
        import tensorflow as tf

        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            metadata = _metadata(plugin)
            with self._writer.as_default(step=epoch):
                for name, value in values.items():
                    dtype = tf.float32 if plugin == "scalars" else tf.string
                    tf.summary.write(name, tf.constant(value, dtype), metadata=metadata)
            self._writer.flush()
        except (OSError, tf.errors.OpError) as error:
            logger.warning("%s: TensorBoard is left out from now on (%s)", self._folder, error)
            self._writer, self._works = None, False


def _metadata(plugin):
    """Says how TensorBoard shows a value, as its own functions do where it is installed."""
    from tensorflow.compat.v1 import SummaryMetadata

    # The numbers are TensorBoard's DATA_CLASS_SCALAR and DATA_CLASS_BLOB_SEQUENCE.
    return SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=plugin),
        data_class=1 if plugin == "scalars" else 3,
    )


def _has_tensorflow():
    import keras

    if keras.backend.backend() == "tensorflow":
        return True
    logger.info("nothing is recorded for TensorBoard, which takes KERAS_BACKEND=tensorflow")
    return False
