# SPDX-License-Identifier: MIT
"""A folder of decoded volumes (`--folder_training_data`), mapped into memory when they are read.

An entry is a file `<name>-<key>.<part>.npy` for each array. The key covers all that the arrays
depend on, so that an entry is right or absent, and several trainings may share the folder. What is
missing or damaged is made anew. A training removes the entries that it has made when it ends,
unless it is told to keep them.
"""

import hashlib
import json
import logging
import threading
from pathlib import Path

import numpy as np

from segsrgan.files import check_writable, parts_of, remove, remove_stale, replaced_file
from segsrgan.tables import stem

logger = logging.getLogger(__name__)

_FORMAT = 2  # part of every key, to be changed with the meaning of the arrays


class Cache:
    """The folder, as one training uses it. Close it, or use it in a `with` statement.

    Args:
        folder: made if there is none.
        keep: whether what this training makes stays when it ends.

    Raises:
        OSError, UserError: if the folder cannot be made or written to.
    """

    def __init__(self, folder, keep=False):
        self.folder, self._keep = Path(folder), keep
        self._made, self._lock, self._closed, self._full = set(), threading.Lock(), False, False
        check_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def load(self, files, settings, parts, read):
        """The arrays of an entry; read and put into the folder where they are missing.

        Args:
            files: paths that the arrays are made from; the first one gives the entry its name.
            settings: whatever else the arrays depend on, as JSON can write it.
            parts: names of the arrays.
            read: function without arguments that returns `{part: array}`.

        Returns:
            `{part: array}`, read-only where they come from the folder.
        """
        paths = self._paths(files, settings, parts)
        try:
            return {part: np.load(path, mmap_mode="r") for part, path in paths.items()}
        except (OSError, ValueError, EOFError):  # missing or damaged
            arrays = read()
        if paths == self._paths(files, settings, parts):  # else a file has changed meanwhile
            self._store(paths, arrays)
        return arrays

    def close(self):
        """Removes what this training has made, unless it is to be kept."""
        with self._lock:  # a thread may still be writing
            self._closed = True
        for path in () if self._keep else self._made:
            remove(path)

    def _paths(self, files, settings, parts):
        """The file of each part."""
        key = json.dumps([_FORMAT, settings, list(parts), [_state(Path(path)) for path in files]])
        name = f"{stem(files[0])}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
        return {part: self.folder / f"{name}.{part}.npy" for part in parts}

    def _store(self, paths, arrays):
        try:
            for part, path in paths.items():
                with self._lock:
                    if self._closed or self._full:
                        return
                    with replaced_file(path) as file:
                        np.save(file, arrays[part])
                    self._made.add(path)
        except OSError as error:
            self._full = True
            logger.warning(
                "%s; the training goes on and reads images that are not in the folder for "
                "training data yet in every epoch",
                error,
            )


def _state(path):
    """What changes with a file or folder."""
    try:
        stats = [(str(part.resolve()), part.stat()) for part in parts_of(path)]
    except OSError:  # whoever reads it says so better
        return [str(path)]
    return [[name, s.st_size, s.st_mtime_ns] for name, s in stats]
