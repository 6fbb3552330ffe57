# SPDX-License-Identifier: MIT
"""The whole state of a training in its folder, so that it goes on as if never stopped.

A file `state_<epoch>_<cycle>.h5` holds all networks, their optimisers and the progress. All random
draws follow from the seed, the epoch and the cycle, so no generator's state is needed. A file
appears whole or not at all; the newest two are kept.
"""

import io
import json
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import h5py
import numpy as np

from segsrgan.errors import StateError
from segsrgan.files import remove, remove_stale, write_bytes
from segsrgan.networks import hdf5

logger = logging.getLogger(__name__)

_KEPT = 2
_EXPECTED = "the state of a training"
_NAME = re.compile(r"state_\d{5,}_\d{7,}\.h5")


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


_TYPES = [*map(type, vars(Progress()).values()), dict]  # of progress and specs


@dataclass(frozen=True)
class State:
    """What a file says before its arrays are read; `specs` are those of `Gan.specs`."""

    path: Path
    progress: Progress
    specs: dict

    def restore(self, networks):
        """Copies everything into a `Gan`, or what has its methods; learning rates stay.

        If its networks are others, or the file is unreadable, that raises `StateError`.
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
                    f"{self.path}: holds other networks than the settings ask for "
                    f"({_differences(self.specs, networks.specs())}); resume with the flags of the "
                    "training that wrote it (--config settings.toml has them)"
                )
            for name, group in variables.items():
                arrays = hdf5.read_arrays(file[name], stored[name], dtype=None)
                for variable, array in zip(group, arrays.values(), strict=True):
                    variable.assign(array)


def _differences(made, asked):
    """What differs between the specs of networks, `{name: dict}`, in words."""
    names = [n for n in {**made, **asked} if n not in made or n not in asked]
    found = [f"{name} only in the {'state' if name in made else 'settings'}" for name in names]
    for name in made.keys() & asked.keys():
        values = made[name], asked[name]
        keys = [k for k in {**values[0], **values[1]} if values[0].get(k) != values[1].get(k)]
        found += [f"{name}: {k} {values[0].get(k)}, not {values[1].get(k)}" for k in keys]
    return "; ".join(found) or "their weights have other shapes"


def save_state(folder, networks, progress):
    """Writes the state of a `Gan`, or what has its methods, and removes all but the newest two.

    If it cannot be written the earlier states stay as they were.
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
    """The newest readable `State` in a folder; `StateError` if there is none."""
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


def _states(folder):
    """The states by their place; not copies that users have made of them."""
    return sorted(path for path in Path(folder).glob("state_*") if _NAME.fullmatch(path.name))


def _read(path):
    with hdf5.opened(path, _EXPECTED, StateError) as file:
        progress = Progress(**json.loads(file.attrs["progress"]))  # long after many epochs
        specs = hdf5.read_json(file, "specs")
        if [*map(type, vars(progress).values()), type(specs)] != _TYPES:
            raise StateError(f"{path}: its progress or specs are not what a training writes")
        # A file cut short is noticed here, while an earlier one can still take its place.
        hdf5.declared_shapes(file)
        return State(path, progress, specs)


def _by_number(group):
    """The shapes of arrays called `<number>_<name>`, by their numbers."""
    shapes = hdf5.declared_shapes(group)
    return {name: shapes[name] for name in sorted(shapes, key=lambda n: int(n.split("_")[0]))}
