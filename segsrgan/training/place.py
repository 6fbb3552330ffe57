# SPDX-License-Identifier: MIT
"""The folder of a training: made, claimed, never mixed with what an earlier training left."""

import contextlib
import logging
import os
from dataclasses import asdict
from pathlib import Path

import keras

from segsrgan.config import from_toml
from segsrgan.files import locked
from segsrgan.training.configuration import flag_of
from segsrgan.training.cycles import snapshot_of
from segsrgan.training.state import has_state

logger = logging.getLogger(__name__)

SETTINGS = "settings.toml"


@contextlib.contextmanager
def global_settings_kept():
    """Puts back what a training sets for the whole process."""
    policy, config = keras.config.dtype_policy(), os.environ.get("TF_CONFIG")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        os.environ.pop("TF_CONFIG", None)
        if config is not None:
            os.environ["TF_CONFIG"] = config


def make_folders(*folders):
    """Makes folders that can be written to.

    Raises:
        OSError: if one cannot be.
    """
    for folder in folders:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{folder}: cannot be made ({error.strerror}); choose a folder where you may write"
            ) from error
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder}: cannot be written; choose another folder")


def claim(folder, stack):
    """Keeps other trainings out of a folder until `stack`, an `ExitStack`, is closed.

    Raises:
        ValueError: if another training is there.
    """
    try:
        stack.enter_context(locked(Path(folder), wait=False))
    except BlockingIOError as error:
        raise ValueError(
            f"{folder}: another training is writing there; wait for its end, or choose another "
            "--snapshot_folder"
        ) from error


def check_free(folder, name, epochs, records, resume, hint):
    """Checks that a training may write into a folder, or go on there.

    Args:
        folder: of its snapshots.
        name: of the snapshots.
        epochs: range of the epochs to come.
        records: its `Records`.
        resume: whether it is to go on.
        hint: what to do where there are snapshots and no state.

    Returns:
        Whether there is a state to go on from.

    Raises:
        ValueError: if an earlier training left what would be replaced.
    """
    folder = Path(folder)
    if has_state(folder):
        if resume:
            return True
        raise ValueError(
            f"{folder}: holds the state of a training; go on with --resume, or choose another "
            "--snapshot_folder"
        )
    for path in (snapshot_of(folder, name, epoch) for epoch in epochs):
        if path.exists():
            raise ValueError(
                f"{path}: exists already and would be replaced, and there is no state to resume "
                f"from; choose another --snapshot_folder, or {hint}"
            )
    records.check_free(epochs)
    return False


def compare(settings, path, free):
    """Warns about settings that are not those of the training that is resumed.

    Args:
        settings: a dataclass made of `setting`s.
        path: of the settings file that the training wrote.
        free: names that may differ without the result being another.
    """
    if not path.is_file():
        return
    now = {key: value for key, value in asdict(settings).items() if value is not None}
    before = from_toml(path, type(settings))
    for key in sorted((now.keys() | before.keys()) - free):
        if now.get(key) != before.get(key):
            logger.warning(
                "resuming with %s %s, which was %s: the training will not be the same",
                flag_of(key),
                now.get(key),
                before.get(key),
            )
