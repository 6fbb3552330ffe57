# SPDX-License-Identifier: MIT
"""The folder of a training and the whole state in it, so that it goes on as if never stopped.

A file `state_<epoch>_<cycle>.h5` holds all networks, their optimisers and the progress. All random
draws follow from the seed, the epoch and the cycle, so no generator's state is needed. A file
appears whole or not at all; the newest two are kept.
"""

import io
import json
import logging
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import h5py
import numpy as np

from segsrgan.config import from_toml
from segsrgan.errors import StateError, UserError
from segsrgan.files import locked, remove, remove_stale, write_bytes
from segsrgan.networks import hdf5
from segsrgan.training.settings import flag_of

logger = logging.getLogger(__name__)

SETTINGS = "settings.toml"
_KEPT = 2
_EXPECTED = "the state of a training"


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
    """What a file says before its arrays are read.

    Attributes:
        path: of the file.
        progress: a `Progress`.
        specs: of the networks, as dicts of JSON values, see `Gan.specs`.
    """

    path: Path
    progress: Progress
    specs: dict

    def restore(self, networks):
        """Copies everything into a `Gan`, or what has its methods; learning rates stay.

        Raises:
            StateError: if the networks are others, or the file is unreadable.
        """
        with hdf5.opened(self.path, _EXPECTED, StateError) as file:
            stored = {name: _by_number(group) for name, group in hdf5.subgroups(file).items()}
            # Loss scaling may be switched on or off, it finds its scale again.
            variables = {
                name: group
                for name, group in networks.state().items()
                if name in stored or "scaling" not in name
            }
            expected = {name: [tuple(v.shape) for v in group] for name, group in variables.items()}
            found = {name: list(stored[name].values()) for name in expected if name in stored}
            if expected != found or networks.specs() != self.specs:
                raise StateError(
                    f"{self.path}: holds the networks {self.specs}, the settings ask for "
                    f"{networks.specs()}; resume with the flags of the training that wrote it "
                    "(--config settings.toml has them)"
                )
            for name, group in variables.items():
                arrays = hdf5.read_arrays(file[name], stored[name], dtype=None)
                for variable, array in zip(group, arrays.values(), strict=True):
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
                key = f"{index:05d}_{variable.path.replace('/', '.')}"
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
        except StateError as error:
            logger.warning("%s; trying an earlier one", error)
    raise StateError(
        f"{folder}: no state that can be read, of {[path.name for path in states]}; start from the "
        "last snapshot with --weights, in another folder"
    )


def is_finished(folder, last_epoch):
    """Whether the newest state in a folder says that all epochs are done."""
    states = _states(folder)
    return bool(states) and int(states[-1].name.split("_")[1]) > last_epoch


def snapshot_of(folder, name, epoch):
    """Where the weights after an epoch are."""
    return Path(folder) / f"{name}_epoch_{epoch}"


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
        UserError: if another training is there.
    """
    try:
        stack.enter_context(locked(Path(folder), wait=False))
    except BlockingIOError as error:
        raise UserError(
            f"{folder}: another training is writing there; wait for its end, or choose another "
            "--snapshot_folder"
        ) from error


def check_free(folder, name, epochs, history, resume, hint):
    """Checks that a training may write into a folder, or go on there.

    Args:
        folder: of its snapshots.
        name: of the snapshots.
        epochs: range of the epochs to come.
        history: its `History`.
        resume: whether it is to go on.
        hint: what to do where there are snapshots and no state.

    Returns:
        Whether there is a state to go on from.

    Raises:
        UserError: if an earlier training left what would be replaced.
    """
    folder = Path(folder)
    if has_state(folder):
        if resume:
            return True
        raise UserError(
            f"{folder}: holds the state of a training; go on with --resume, or choose another "
            "--snapshot_folder"
        )
    for path in (snapshot_of(folder, name, epoch) for epoch in epochs):
        if path.exists():
            raise UserError(
                f"{path}: exists already and would be replaced, and there is no state to resume "
                f"from; choose another --snapshot_folder, or {hint}"
            )
    history.check_free(epochs)
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
    # A setting that the file does not know has come since, and was what is its default now.
    before = {item.name: item.default for item in fields(settings) if item.default is not MISSING}
    before |= from_toml(path, type(settings))
    for name, value in asdict(settings).items():
        if name not in free and value != before.get(name):
            logger.warning(
                "resuming with %s %s, which was %s: the training will not be the same",
                flag_of(name),
                value,
                before.get(name),
            )


def _states(folder):
    return sorted(Path(folder).glob("state_*_*.h5"))


def _read(path):
    with hdf5.opened(path, _EXPECTED, StateError) as file:
        progress = Progress(**json.loads(file.attrs["progress"]))  # long after many epochs
        # A file cut short is noticed here, while an earlier one can still take its place.
        hdf5.declared_shapes(file)
        return State(path, progress, hdf5.read_json(file, "specs"))


def _by_number(group):
    """The shapes of arrays called `<number>_<name>`, by their numbers."""
    shapes = hdf5.declared_shapes(group)
    return {name: shapes[name] for name in sorted(shapes, key=lambda n: int(n.split("_")[0]))}
