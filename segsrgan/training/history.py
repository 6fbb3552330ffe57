# SPDX-License-Identifier: MIT
"""What a training writes down after each epoch: tables, pictures, TensorBoard."""

import csv
import io
import logging
import math
import os
from numbers import Real
from pathlib import Path

import keras

from segsrgan.errors import UserError
from segsrgan.files import write_bytes, write_text

logger = logging.getLogger(__name__)


class History:
    """The records of a training.

    `history.csv` in `folder` has a column for each value of the rows; a table of a single score is
    as the released SegSRGAN wrote it: the epoch under an empty heading, and one column. Files are
    replaced only when the new ones are complete on disk; the epochs that they held before the
    training stay. `folder/tensorboard` has the rows and pictures for TensorBoard.

    Args:
        folder: of the snapshots; made if need be, like those of the tables.
        tables: `{heading: path of a CSV}` of single scores: "Dice" has the values of `dice`.
        tensorboard: whether to write for TensorBoard. It takes Keras' TensorFlow backend.

    Raises:
        UserError: if one of the files is there and is not such a table.
        OSError: if they cannot be read, or a folder not be made.
    """

    def __init__(self, folder, tables=None, tensorboard=True):
        self._folder = Path(folder)
        self._history = _Table(self._folder / "history.csv", "epoch")
        self._single = {name: _Table(Path(p), "", [name]) for name, p in (tables or {}).items()}
        self._board = _TensorBoard(self._folder / "tensorboard") if tensorboard else None

    def add(self, *rows):
        """Writes rows, dicts of numbers or None; one of an epoch that is there takes its place.

        So the whole history of a resumed training may be added again: what is there already
        changes nothing. A file that cannot be written stays as it was, with an OSError.
        """
        new = self._history.put({row["epoch"]: row for row in rows})
        for column, table in self._single.items():
            table.put({row["epoch"]: {column: row[column.lower()]} for row in rows})
        if self._board:
            for row in rows:
                if row["epoch"] in new:
                    self._board.scalars(row["epoch"], row)

    def check_free(self, epochs):
        """Raises `UserError` if a file has a row of these epochs, of an earlier training then."""
        for table in (self._history, *self._single.values()):
            table.check_free(epochs)

    def picture(self, epoch, image):
        """Writes `epoch_<n>.png`, an image uint8 (height, width, 3), RGB."""
        from PIL import Image  # slow to import

        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        write_bytes(self._folder / f"epoch_{epoch}.png", stream.getvalue())
        if self._board:
            self._board.image(epoch, stream.getvalue(), image.shape)

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
        self._columns, self._lines = columns or [], {}
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
        """Sets lines, `{epoch: {column: value}}`, and writes the file if that changes any.

        Returns:
            The epochs whose line has changed.
        """
        lines = {int(epoch): self._line(row) for epoch, row in rows.items()}
        changed = {epoch for epoch in lines if lines[epoch] != self._lines.get(epoch)}
        if changed:
            names = [name for row in rows.values() for name in row if name != self._key]
            columns = list(dict.fromkeys([*self._columns, *names]))
            lines = dict(sorted({**self._lines, **lines}.items()))
            stream = io.StringIO()
            writer = csv.DictWriter(stream, [self._key, *columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows({self._key: epoch, **line} for epoch, line in lines.items())
            write_text(self._path, stream.getvalue())
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


class _TensorBoard:
    """Writes numbers and pictures of epochs into a folder, where Keras' backend is TensorFlow.

    Elsewhere, and when it cannot write, it says so once and does nothing: the training does not
    depend on it.
    """

    def __init__(self, folder):
        self._folder, self._writer = folder, None
        self._works = keras.backend.backend() == "tensorflow"
        if not self._works:
            logger.info("nothing is recorded for TensorBoard, which takes KERAS_BACKEND=tensorflow")

    def scalars(self, epoch, row):
        """Writes the finite numbers of a dict, other than `epoch`, under their keys."""
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, Real)}
        del numbers["epoch"]
        numbers = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self._write(epoch, "scalars", "float32", numbers)

    def image(self, epoch, png, shape):
        """Writes a picture, the bytes of a PNG of a shape (height, width, ...)."""
        height, width = shape[:2]
        # What TensorBoard reads: width and height as texts, then the files.
        self._write(epoch, "images", "string", {"patch": [str(width), str(height), png]})

    def close(self):
        """Closes the file; a further call changes nothing."""
        if self._writer is not None:
            self._writer.close()
        self._writer, self._works = None, False

    def _write(self, epoch, plugin, dtype, values):
        if not self._works:
            return
        import tensorflow as tf

        # As TensorBoard's own functions do, where it is installed; the numbers are its
        # DATA_CLASS_SCALAR and DATA_CLASS_BLOB_SEQUENCE.
        metadata = tf.compat.v1.SummaryMetadata(data_class=1 if plugin == "scalars" else 3)
        metadata.plugin_data.plugin_name = plugin
        try:
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(os.fsencode(self._folder))
            with self._writer.as_default(step=epoch):
                for name, value in values.items():
                    tf.summary.write(name, tf.constant(value, dtype), metadata=metadata)
            self._writer.flush()
        except (OSError, tf.errors.OpError) as error:
            logger.warning("%s: TensorBoard is left out from now on (%s)", self._folder, error)
            self._writer, self._works = None, False
