# SPDX-License-Identifier: MIT
"""A folder of decoded volumes (`--folder_training_data`), mapped into memory when they are read.

An entry is a file `<name>-<key>.<part>.npy` for each array. The key covers all that the arrays
depend on, so that an entry is right or absent, and several trainings may share the folder.
"""

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import numpy as np

from segsrgan.files import (
    check_writable,
    fitting_name,
    parts_of,
    remove,
    remove_stale,
    replaced_file,
)
from segsrgan.tables import stem

logger = logging.getLogger(__name__)

_FORMAT = 3  # part of every key, to be changed with the meaning of the arrays


class Cache:
    """The folder, as one training uses it in a `with` statement; an `OSError` if it cannot be used.

    Args:
        folder: made if there is none.
        keep: whether what this training makes stays when it ends.
    """

    def __init__(self, folder, keep=False):
        self.folder, self._keep = Path(folder), keep
        self._made, self._lock, self._writable = set(), threading.Lock(), True
        check_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:  # a thread may still be writing
            self._writable = False
        for path in () if self._keep else self._made:
            remove(path)

    def load(self, files, settings, parts, read):
        """The arrays `{part: array}` of an entry, read-only where they come from the folder.

        Args:
            files: paths that the arrays are made from; the first one gives the entry its name.
            settings: whatever else the arrays depend on, as JSON can write it.
            parts: names of the arrays.
            read: function without arguments that returns `{part: array}`.
        """
        paths = self._paths(files, settings, parts)
        try:
            return {part: np.load(path, mmap_mode="r") for part, path in paths.items()}
        except (OSError, ValueError, EOFError):  # missing or damaged
            arrays = read()
        if paths == self._paths(files, settings, parts):  # else a file has changed meanwhile
            self._store(paths, arrays)
        return arrays

    def _paths(self, files, settings, parts):
        key = json.dumps([_FORMAT, settings, list(parts), [_state(Path(path)) for path in files]])
        name, digest = stem(files[0]), hashlib.sha256(key.encode()).hexdigest()[:20]
        return {p: self.folder / fitting_name(name, f"-{digest}.{p}.npy") for p in parts}

    def _store(self, paths, arrays):
        try:
            for part, path in paths.items():
                with self._lock:
                    if not self._writable:
                        return
                    with replaced_file(path) as file:
                        np.save(file, arrays[part])
                    self._made.add(path)
        except OSError as error:
            self._writable = False
            logger.warning(
                "%s; the training goes on and reads images that are not in the folder for "
                "training data yet in every epoch",
                error,
            )


def _state(path):
    """What changes with a file or folder."""
    try:
        stats = [(os.path.realpath(part), part.stat()) for part in parts_of(path)]
    except OSError:  # whoever reads it says so better
        return [str(path)]
    return [[name, s.st_size, s.st_mtime_ns] for name, s in stats]
