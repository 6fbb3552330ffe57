# SPDX-License-Identifier: MIT
"""Small volumes that the tests of the training share."""

import csv
import socket
import time

import numpy as np
import pytest

from segsrgan.errors import TableError
from segsrgan.volumes import Volume, write_volume


def upright(array, spacing=(1.0, 1.0, 1.0), *origin):
    """A volume stored as a training uses it."""
    return Volume(array, spacing, *origin, direction=np.diag([-1, -1, 1]))


def ball(shape=(24, 24, 24), radius=7.0, spacing=(1.0, 1.0, 1.0)):
    """An image of a shaded ball and its shell as label."""
    distance = _distance(shape)
    grid = np.arange(shape[0]).reshape(-1, 1, 1)
    image = np.where(distance < radius, 100 + 10 * np.sin(grid), 0).astype("float32")
    label = ((distance < radius) & (distance > radius - 3)).astype("float32")
    return upright(image, spacing), upright(label, spacing)


def ball_mask(shape=(24, 24, 24), radius=7.0, spacing=(1.0, 1.0, 1.0)):
    """Classes of the ball: 0 outside, 1 the shell, 2 the inside."""
    distance = _distance(shape)
    return upright((distance < radius) + (distance <= radius - 3).astype("float32"), spacing)


def noise(shape, seed=0, spacing=(1.0, 1.0, 1.0)):
    """An image that is positive everywhere, no two voxels alike."""
    array = np.random.default_rng(seed).uniform(50, 100, shape).astype("float32")
    return upright(array, spacing)


def write_table(folder, rows=("Train", "Test"), masks=False, **options):
    """Images, labels, perhaps masks, and the CSV that names them; returns the CSV's path."""
    lines = ["HR_image,Label_image,Base" + ",Mask_image" * masks]
    for index, base in enumerate(rows):
        image, label = ball(**options)
        write_volume(image, folder / f"image{index}.nii.gz")
        write_volume(label, folder / f"label{index}.nii.gz")
        lines.append(f"image{index}.nii.gz,label{index}.nii.gz,{base}")
        if masks:
            write_volume(ball_mask(**options), folder / f"mask{index}.nii.gz")
            lines[-1] += f",mask{index}.nii.gz"
    path = folder / "data.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_case(folder, index, image, label=None, mask=None):
    """Puts other volumes, of any shape, into a row of a table that `write_table` has written."""
    half = image.with_array((image.array > np.median(image.array)).astype("float32"))
    write_volume(image, folder / f"image{index}.nii.gz")
    write_volume(label or half, folder / f"label{index}.nii.gz")
    thirds = (np.arange(image.array.size) * 3 // image.array.size).reshape(image.array.shape)
    thirds = image.with_array(thirds.astype("float32"))
    write_volume(mask or thirds, folder / f"mask{index}.nii.gz")


def epoch(data, number, discriminator_batches, first_cycle=0):
    """The batches of one epoch of a data set."""
    return data.stream(range(number, number + 1), discriminator_batches, first_cycle)


def same(batches, others):
    """Whether batches are equal, one by one."""
    pairs = zip(batches, others, strict=True)
    return all(np.array_equal(a, b) for pair in pairs for a, b in zip(*pair, strict=True))


def refusal(read, *arguments, **options):
    """The message of the `TableError` of a call."""
    with pytest.raises(TableError) as error:
        read(*arguments, **options)
    return str(error.value)


def problem(message, *words):
    """Whether a line of a message has all the words."""
    return any(all(word in line for word in words) for line in message.splitlines())


def rows(path):
    """The rows of a CSV file, `{column: text}`."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def wait_for(condition):
    """Whether a condition comes true within five seconds."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def free_ports(count):
    """Port numbers of this computer that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _distance(shape):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.linalg.norm(grid - (np.array(shape) - 1) / 2, axis=-1)
