# SPDX-License-Identifier: MIT
"""The whole state of a training on disk, so that it goes on as if it had never stopped.

A file `state_<epoch>_<cycle>.h5` holds all networks, their optimisers and the progress. All random
draws follow from the seed, the epoch and the cycle, so no generator's state is needed. A file
appears whole or not at all; the newest two are kept.
"""

import io
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from segsrgan.errors import StateError
from segsrgan.files import remove, remove_stale, write_bytes

logger = logging.getLogger(__name__)

_KEPT = 2


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


@dataclass(frozen=True)
class State:
    """What a file holds.

    Attributes:
        path: of the file.
        progress: a `Progress`.
        specs: of the networks, as dicts of JSON values, see `Gan.specs`.
        arrays: of the variables, see `Gan.state`.
    """

    path: Path
    progress: Progress
    specs: dict
    arrays: dict

    def restore(self, networks):
        """Copies everything into a `Gan`, or what has its methods; learning rates stay.

        Raises:
            StateError: if the networks are others.
        """
        # Loss scaling may be switched on or off, it finds its scale again.
        state = networks.state().items()
        variables = {k: v for k, v in state if k in self.arrays or "scaling" not in k}
        expected = {name: [tuple(v.shape) for v in group] for name, group in variables.items()}
        received = {k: [a.shape for a in v] for k, v in self.arrays.items() if k in expected}
        if expected != received or networks.specs() != self.specs:
            raise StateError(
                f"{self.path}: holds the networks {self.specs}, the settings ask for "
                f"{networks.specs()}; resume with the flags of the training that wrote it "
                "(--config settings.toml has them)"
            )
        for name, group in variables.items():
            for variable, array in zip(group, self.arrays[name], strict=True):
                variable.assign(array)


def save_state(folder, networks, progress):
    """Writes the state and removes all but the newest two.

    Args:
        folder: of the states.
        networks: a `Gan`, or what has its methods.
        progress: a `Progress`.

    Raises:
        OSError: if it cannot be written; then the earlier states are as they were.
    """
    path = Path(folder) / f"state_{progress.epoch:05d}_{progress.cycle:07d}.h5"
    # In memory first: HDF5 answers a full disk with errors of many kinds, or a crash.
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["progress"] = json.dumps(asdict(progress))
        file.attrs["specs"] = json.dumps(networks.specs())
        for name, variables in networks.state().items():
            group = file.create_group(name)
            for index, variable in enumerate(variables):
                key = f"{index:03d}_{variable.path.replace('/', '.')}"
                group[key] = np.asarray(variable.value)
    write_bytes(path, stream.getbuffer())
    for old in _states(folder)[:-_KEPT]:
        remove(old)


def has_state(folder):
    """Whether a training left a state in a folder."""
    return bool(_states(folder))


def newest_state(folder):
    """The newest readable `State` in a folder.

    Raises:
        StateError: if none is readable.
    """
    remove_stale(Path(folder))
    states = _states(folder)
    for path in reversed(states):
        try:
            return _read(path)
        except (OSError, KeyError, ValueError, TypeError) as error:
            logger.warning("%s: not readable (%s); trying an earlier one", path, error)
    raise StateError(
        f"{folder}: no state that can be read, of {[path.name for path in states]}; start from the "
        "last snapshot with --weights, in another folder"
    )


def _states(folder):
    return sorted(Path(folder).glob("state_*_*.h5"))


def _read(path):
    with h5py.File(path, "r") as file:
        arrays = {
            name: [np.asarray(item) for item in group.values()] for name, group in file.items()
        }
        progress = Progress(**json.loads(file.attrs["progress"]))
        return State(path, progress, json.loads(file.attrs["specs"]), arrays)
