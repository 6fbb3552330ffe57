# SPDX-License-Identifier: MIT
"""The whole state of a training on disk, so that it goes on as if it had never stopped.

A file `state_<epoch>_<cycle>.h5` holds both networks, both optimisers and the progress. All random
draws follow from the seed, the epoch and the cycle, so no generator's state is needed. A file
appears whole or not at all; the newest two are kept.
"""

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from segsrgan.atomic import remove, remove_stale, temporary_beside

logger = logging.getLogger(__name__)

_KEPT = 2


class StateError(ValueError):
    """A state that cannot be used; the message says why and what to do."""


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: being trained, from 1.
        cycle: cycles of it that are done.
        sums, counts: of each loss over those cycles.
        seconds, waiting: spent on those cycles, and of them waiting for data.
        history: one dict for each epoch that is done.
        best: the smallest validation loss so far and its epoch.
    """

    epoch: int = 1
    cycle: int = 0
    sums: dict = field(default_factory=dict)
    counts: dict = field(default_factory=dict)
    seconds: float = 0.0
    waiting: float = 0.0
    history: list = field(default_factory=list)
    best: dict = field(default_factory=dict)

    def next_epoch(self, row):
        """Closes an epoch with its row of the history."""
        self.history.append(row)
        self.epoch, self.cycle = self.epoch + 1, 0
        self.sums, self.counts, self.seconds, self.waiting = {}, {}, 0.0, 0.0


def save_state(folder, gan, progress):
    """Writes the state and removes all but the newest two.

    Args:
        folder: of the states.
        gan: a `Gan`.
        progress: a `Progress`.

    Raises:
        OSError: if it cannot be written; then the earlier states are as they were.
    """
    path = Path(folder) / f"state_{progress.epoch:05d}_{progress.cycle:07d}.h5"
    temporary = temporary_beside(path)
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["progress"] = json.dumps(asdict(progress))
            for name, part in gan.parts().items():
                group = file.create_group(name)
                for index, variable in enumerate(_variables(part)):
                    group[_key(index, variable)] = np.asarray(variable.value)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        remove(temporary)
    for old in _states(folder)[:-_KEPT]:
        remove(old)


def has_state(folder):
    """Whether a training left a state in a folder."""
    return bool(_states(folder))


def load_state(folder, gan):
    """Restores the newest readable state into the networks and optimisers.

    Args:
        folder: of the states.
        gan: a `Gan` of the same architecture, which is changed.

    Returns:
        Its `Progress`.

    Raises:
        StateError: if none is readable, or it belongs to other networks.
    """
    remove_stale(Path(folder))
    states = _states(folder)
    for path in reversed(states):
        try:
            arrays, progress = _read(path)
        except (OSError, KeyError, ValueError, TypeError) as error:
            logger.warning("%s: not readable (%s); trying an earlier one", path, error)
            continue
        _assign(gan, arrays, path)
        return progress
    raise StateError(
        f"{folder}: no state that can be read, of {[path.name for path in states]}; start from the "
        "last snapshot with --weights, in another folder"
    )


def _states(folder):
    return sorted(Path(folder).glob("state_*_*.h5"))


def _variables(part):
    """All variables of a model or optimiser."""
    return getattr(part, "weights", None) or part.variables


def _key(index, variable):
    return f"{index:03d}_{variable.path.replace('/', '.')}"


def _read(path):
    with h5py.File(path, "r") as file:
        progress = Progress(**json.loads(file.attrs["progress"]))
        arrays = {
            name: [np.asarray(item) for item in group.values()] for name, group in file.items()
        }
    return arrays, progress


def _assign(gan, arrays, path):
    parts = gan.parts()
    expected = {name: [tuple(v.shape) for v in _variables(p)] for name, p in parts.items()}
    received = {name: [a.shape for a in group] for name, group in arrays.items()}
    if expected != received:
        raise StateError(
            f"{path}: belongs to other networks or another --precision; resume with the flags of "
            "the training that wrote it (--config settings.toml has them)"
        )
    for name, part in parts.items():
        for variable, array in zip(_variables(part), arrays[name], strict=True):
            variable.assign(array)
