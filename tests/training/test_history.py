# SPDX-License-Identifier: MIT
"""The records of a training: tables that lose nothing, pictures, TensorBoard."""

import csv
import errno
import logging
import os

import keras
import numpy as np
import pandas as pd
import pytest

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


def history(tmp_path):
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_tables_are_those_of_the_released_code(start, tmp_path):
    records = start()
    records.add(row(1))
    records.add(row(2, generator_loss=np.float32(0.1)))
    assert (tmp_path / "d" / "dice.csv").read_text() == ",Dice\n1,0.25\n2,0.5\n"
    table = pd.DataFrame({"MSE": [1 / 2, 1 / 3]}, index=[1, 2])
    assert (tmp_path / "mse.csv").read_text() == table.to_csv()


def test_a_link_is_replaced_and_not_followed(start, tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "mse.csv"
    link.symlink_to(target)
    start().add(row(1))
    assert not link.is_symlink() and not target.exists()
    assert link.read_text() == ",MSE\n1,0.5\n"


def test_the_history_grows_by_rows_and_columns(start, tmp_path):
    start().add(row(1, old=None))
    start().add(row(2, new=True, loss=float("nan")))
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,dice,mse,old,new,loss"
    assert lines[1:] == ["1,0.25,0.5,,,", f"2,0.5,{1 / 3},,True,nan"]


def test_an_epoch_that_is_there_is_replaced_and_no_other(start, tmp_path):
    start().add(row(1), row(2), row(10))
    records = start()
    records.add({**row(2), "dice": 0.875})
    assert [line["epoch"] for line in history(tmp_path)] == ["1", "2", "10"]
    assert (tmp_path / "d" / "dice.csv").read_text() == ",Dice\n1,0.25\n2,0.875\n10,2.5\n"


def test_a_history_that_is_there_changes_nothing(start, tmp_path):
    rows = [row(1, loss=0.1), row(2, loss=np.float32(0.1), extra=None)]
    start().add(*rows)
    paths = [tmp_path / "run" / "history.csv", tmp_path / "mse.csv", tmp_path / "d" / "dice.csv"]
    before = [(path.read_bytes(), path.stat().st_ino) for path in paths]
    start().add(*rows)
    assert [(path.read_bytes(), path.stat().st_ino) for path in paths] == before


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
    records = start()
    records.add(row(1))
    image = np.zeros((4, 4, 3), "uint8")
    records.picture(1, image)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            records.add(row(2))
        with pytest.raises(OSError, match="No space"):
            records.picture(1, image + 1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    records.add(row(2))
    assert [line["epoch"] for line in history(tmp_path)] == ["1", "2"]


def test_a_picture_is_a_png_of_the_image(start, tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype="uint8")
    start().picture(12, image)
    with Image.open(tmp_path / "run" / "epoch_12.png") as stored:
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
    first.add(row(1, waiting=np.float32(0.5), bad=float("nan"), none=None, text="a"))
    first.picture(1, np.zeros((5, 7, 3), "uint8"))
    first.close()
    first.close()
    again = start(tensorboard=True)
    again.add(row(1, waiting=np.float32(0.5), bad=float("nan"), none=None, text="a"), row(2))
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
    records.add(row(1))
    records.add(row(2))
    records.close()
    assert len(history(tmp_path)) == 2
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
