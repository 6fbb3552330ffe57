# SPDX-License-Identifier: MIT
"""The records of a training: tables that lose nothing, pictures, TensorBoard."""

import errno
import logging
import os

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segsrgan.training.history import History

TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture
def start(tmp_path):
    """Opens the records of a training in a folder."""

    def open_(tensorboard=False):
        tables = {"Dice": tmp_path / "d" / "dice.csv", "MSE": tmp_path / "mse.csv"}
        return History(tmp_path / "run", tables, tensorboard)

    return open_


def row(epoch, **more):
    return {"epoch": epoch, "dice": epoch / 4, "mse": 1 / (1 + epoch), **more}


def epochs(tmp_path):
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    return [line.split(",")[0] for line in lines[1:]]


def test_the_history_grows_by_rows_and_columns_and_tables_are_those_of_the_released_code(
    start, tmp_path
):
    start().add(row(1, old=None))
    start().add(row(2, new=True, loss=float("nan")))
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,dice,mse,old,new,loss"
    assert lines[1:] == ["1,0.25,0.5,,,", f"2,0.5,{1 / 3},,True,nan"]
    assert (tmp_path / "d" / "dice.csv").read_text() == ",Dice\n1,0.25\n2,0.5\n"
    table = pd.DataFrame({"MSE": [1 / 2, 1 / 3]}, index=[1, 2])
    assert (tmp_path / "mse.csv").read_text() == table.to_csv()


def test_an_epoch_that_is_there_is_replaced_and_no_other(start, tmp_path):
    rows = [row(1, loss=0.1), row(2, loss=np.float32(0.1), extra=None), row(10)]
    start().add(*rows)
    paths = [tmp_path / "run" / "history.csv", tmp_path / "mse.csv", tmp_path / "d" / "dice.csv"]
    before = [(path.read_bytes(), path.stat().st_ino) for path in paths]
    start().add(*rows)  # changes nothing
    assert [(path.read_bytes(), path.stat().st_ino) for path in paths] == before
    start().add({**row(2), "dice": 0.875})
    assert epochs(tmp_path) == ["1", "2", "10"]
    assert paths[-1].read_text() == ",Dice\n1,0.25\n2,0.875\n10,2.5\n"


def test_tables_of_version_3_0_0_and_of_pandas_go_on(start, tmp_path):
    (tmp_path / "mse.csv").write_text("epoch,MSE\r\n1,0.5\r\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "dice.csv").write_text(",Dice\n1,0.25\n2,\n")  # pandas for an epoch to come
    start().add(row(2))
    assert (tmp_path / "mse.csv").read_text() == f",MSE\n1,0.5\n2,{1 / 3}\n"
    assert (tmp_path / "d" / "dice.csv").read_text() == ",Dice\n1,0.25\n2,0.5\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"HR_image,Label_image,Base\na,b,Train\n", "expected the heading ',MSE', received 'HR_"),
        (b",Dice\n1,0.5\n", "expected the heading ',MSE', received ',Dice'"),
        (b",MSE\none,0.5\n", "invalid literal"),
        (b",MSE\n1,0.5,3\n", "line of epoch 1 has 3 fields"),
        (b"\x1f\x8b\xff", "utf-8"),
    ],
)
def test_another_file_is_not_replaced(text, words, start, tmp_path):
    (tmp_path / "mse.csv").write_bytes(text)
    with pytest.raises(ValueError, match="mse.csv: is not a table that a training wrote") as caught:
        start()
    assert words in str(caught.value)
    assert (tmp_path / "mse.csv").read_bytes() == text


def test_a_full_disk_is_reported_and_the_old_files_stay(start, tmp_path, monkeypatch):
    records, image = start(), np.random.default_rng(0).integers(0, 256, (5, 7, 3), "uint8")
    records.add(row(1))
    records.picture(1, image)

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for write in (lambda: records.add(row(2)), lambda: records.picture(1, image + 1)):
            with pytest.raises(OSError, match="No space"):
                write()
    assert files() == before
    records.add(row(2))
    assert epochs(tmp_path) == ["1", "2"]
    with Image.open(tmp_path / "run" / "epoch_1.png") as stored:
        assert stored.format == "PNG"
        np.testing.assert_array_equal(np.asarray(stored), image)


def events(folder):
    """The events of all files in a folder, as (step, tag, plugin, tensor)."""
    import tensorflow as tf

    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                yield event.step, value.tag, plugin, tf.make_ndarray(value.tensor).tolist()


@pytest.mark.skipif(not TENSORFLOW, reason="TensorBoard takes the TensorFlow backend")
def test_tensorboard_gets_numbers_and_pictures_once(start, tmp_path):
    first = start(tensorboard=True)
    rows = [row(1, waiting=np.float32(0.5), bad=float("nan"), none=None, text="a"), row(2)]
    first.add(rows[0])
    first.picture(1, np.zeros((5, 7, 3), "uint8"))
    first.close()
    first.close()
    again = start(tensorboard=True)
    again.add(*rows)
    again.close()
    found = list(events(tmp_path / "run" / "tensorboard"))
    scalars = [(step, tag, value) for step, tag, plugin, value in found if plugin == "scalars"]
    expected = [(1, "dice", 0.25), (1, "mse", 0.5), (1, "waiting", 0.5), (2, "dice", 0.5)]
    assert scalars == [*expected, (2, "mse", pytest.approx(1 / 3))]
    [(step, tag, value)] = [(s, tag, v) for s, tag, plugin, v in found if plugin == "images"]
    png = (tmp_path / "run" / "epoch_1.png").read_bytes()
    assert (step, tag, value) == (1, "patch", [b"7", b"5", png])


@pytest.mark.skipif(not TENSORFLOW, reason="TensorBoard takes the TensorFlow backend")
def test_a_training_goes_on_without_tensorboard_where_it_cannot_write(start, tmp_path, caplog):
    records = start(tensorboard=True)
    (tmp_path / "run" / "tensorboard").write_text("a file")
    for epoch in (1, 2):
        records.add(row(epoch))
    records.close()
    assert epochs(tmp_path) == ["1", "2"]
    assert [r.levelno for r in caplog.records if "left out" in r.message] == [logging.WARNING]


def test_without_tensorflow_one_line_says_that_tensorboard_is_left_out(
    start, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with caplog.at_level(logging.INFO, "segsrgan"):
        records = start(tensorboard=True)
        records.add(row(1))
        records.picture(1, np.zeros((4, 4, 3), "uint8"))
        records.close()
    assert sum("TensorBoard" in record.message for record in caplog.records) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()
