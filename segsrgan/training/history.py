# SPDX-License-Identifier: MIT
"""What a training writes down after each epoch: tables, pictures, TensorBoard."""

import csv
import io
import logging
import math
from numbers import Real
from pathlib import Path

import keras

from segsrgan.errors import UserError
from segsrgan.files import write_bytes, write_text

logger = logging.getLogger(__name__)

_DICE, _MSE = "Dice", "MSE"


class History:
    """The records of a training.

    `history.csv` in `folder` has a column for each value of the rows. `dice_file` and `mse_file`
    are as the released SegSRGAN wrote them: the epoch under an empty heading, and one column.
    Either may be left out.
    Files are replaced only when the new ones are complete on disk; the epochs that they held
    before the training stay.

    `folder/tensorboard` has the rows and pictures for TensorBoard: `pip install
    SegSRGAN[report]`, then `tensorboard --logdir FOLDER` shows them in a browser.

    Args:
        folder: of the snapshots; made if need be, like those of the two files.
        dice_file: CSV of the Dice, or None.
        mse_file: CSV of the mean squared error, or None.
        tensorboard: whether to write for TensorBoard. It takes Keras' TensorFlow backend.

    Raises:
        UserError: if one of the three files is there and is not such a table.
        OSError: if they cannot be read, or a folder not be made.
    """

    def __init__(self, folder, dice_file=None, mse_file=None, tensorboard=True):
        self._folder = Path(folder)
        self._history = _Table(self._folder / "history.csv", "epoch")
        self._single = {}  # column: its table
        for column, path in ((_DICE, dice_file), (_MSE, mse_file)):
            if path is not None:
                self._single[column] = _Table(Path(path), "", [column])
        self._board = _TensorBoard(self._folder / "tensorboard") if tensorboard else None

    def add(self, *rows):
        """Writes rows of the history; one of an epoch that is there takes its place.

        So the whole history of a resumed training may be added again: what is there already
        changes nothing.

        Args:
            *rows: dicts with the keys `epoch`, a whole number from 1, and `dice` and `mse` where
                there are files of them; numbers or None.

        Raises:
            OSError: if a file cannot be written; then that file is as it was.
        """
        new = self._history.put({row["epoch"]: row for row in rows})
        for column, table in self._single.items():
            table.put({row["epoch"]: {column: row[column.lower()]} for row in rows})
        if self._board:
            for row in rows:
                if row["epoch"] in new:
                    self._board.scalars(row["epoch"], row)

    def check_free(self, epochs):
        """Refuses to mix the rows of a new training with those of an earlier one.

        Args:
            epochs: range of the epochs to come.

        Raises:
            UserError: if one of the files has a row of one of them.
        """
        for table in (self._history, *self._single.values()):
            table.check_free(epochs)

    def picture(self, epoch, image):
        """Writes `epoch_<n>.png`.

        Args:
            epoch: its number.
            image: uint8 (height, width, 3), RGB.

        Raises:
            OSError: if it cannot be written.
        """
        from PIL import Image  # slow to import

        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        write_bytes(self._folder / f"epoch_{epoch}.png", stream.getvalue())
        if self._board:
            self._board.image(epoch, "patch", stream.getvalue(), image.shape)

    def close(self):
        """Ends the recording; a further call changes nothing."""
        if self._board:
            self._board.close()


class _Table:
    """A CSV with a line for each epoch, kept in memory as text, without what is blank.

    Args:
        path: of the file.
        key: heading of the column of epochs.
        columns: the other headings; None: whatever the lines have.
    """

    def __init__(self, path, key, columns=None):
        self._path, self._key = path, key
        self._columns, self._lines = list(columns or []), {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            try:
                self._read(columns)
            except (ValueError, csv.Error) as error:
                raise UserError(
                    f"{path}: is not a table that a training wrote ({error}); name another "
                    "file, or move this one away"
                ) from error

    def _read(self, columns):
        with self._path.open(newline="", encoding="utf-8-sig") as file:
            heading, *lines = list(csv.reader(file)) or [[]]
        # Version 3.0.0 named the column of the epochs.
        if heading[:1] not in ([self._key], ["epoch"]) or heading[1:] != (columns or heading[1:]):
            expected = ",".join([self._key, *(columns or ["..."])])
            raise ValueError(f"expected the heading {expected!r}, received {','.join(heading)!r}")
        self._columns = heading[1:]
        for line in filter(None, lines):
            if len(line) != len(heading):
                raise ValueError(f"the line of epoch {line[0]} has {len(line)} fields")
            pairs = zip(self._columns, line[1:], strict=True)
            self._lines[int(line[0])] = {column: text for column, text in pairs if text}

    def put(self, rows):
        """Sets the lines of some epochs and, if that changes any, writes the file.

        Args:
            rows: `{epoch: {column: value}}`.

        Returns:
            The epochs whose line has changed.
        """
        lines = {int(epoch): self._line(row) for epoch, row in rows.items()}
        changed = {epoch for epoch in lines if lines[epoch] != self._lines.get(epoch)}
        if changed:
            names = [name for row in rows.values() for name in row if name != self._key]
            columns = list(dict.fromkeys([*self._columns, *names]))
            lines = dict(sorted({**self._lines, **lines}.items()))
            write_text(self._path, self._text(columns, lines))
            self._columns, self._lines = columns, lines
        return changed

    def check_free(self, epochs):
        taken = sorted(set(epochs) & self._lines.keys())
        if taken:
            raise UserError(
                f"{self._path}: has a row of epoch {taken[0]} already, of another training; name "
                "another file, or move this one away"
            )

    def _line(self, row):
        items = ((column, value) for column, value in row.items() if column != self._key)
        return {column: str(value) for column, value in items if value is not None}

    def _text(self, columns, lines):
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([self._key, *columns])
        for epoch, line in lines.items():
            writer.writerow([epoch, *(line.get(column, "") for column in columns)])
        return stream.getvalue()


class _TensorBoard:
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
    if keras.backend.backend() == "tensorflow":
        return True
    logger.info("nothing is recorded for TensorBoard, which takes KERAS_BACKEND=tensorflow")
    return False
