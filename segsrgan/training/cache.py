# SPDX-License-Identifier: MIT
"""A folder of decoded volumes that several trainings share (`--folder_training_data`).

An entry is one `<name>-<key>.<part>.npy` for each array, mapped into memory when it is read. The
key covers everything the arrays depend on, so that an entry is right or absent. Each run keeps a
marker, `run-<host>-<process>-<random>.json`, that lists the entries it uses. When it ends, the
entries that no living run lists are removed, those that killed runs left behind included. An
entry that a run was told to keep has a file `<name>-<key>.keep`, and stays until a user deletes it.

An entry that is missing or damaged is made anew. So nothing that happens to the folder harms a
training; at worst volumes are decoded again. A folder that cannot be used when the training
starts is an error, a disk that gets full later a warning.
"""

import hashlib
import json
import logging
import os
import platform
import re
import threading
import time
import uuid
from pathlib import Path

import numpy as np

from segsrgan.files import locked, remove, remove_stale, temporary_beside, write_text

logger = logging.getLogger(__name__)

# Part of every key; to be changed with the meaning of the arrays.
_FORMAT = 1
_MARKER = re.compile(r"run-(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{8}\.json")
_ENTRY = re.compile(r"(?P<entry>.+-[0-9a-f]{20})\.(keep|[a-z_]+\.npy)")
# Another computer's run cannot be asked whether it lives. Its marker is touched as it reads.
_FOREIGN_SECONDS = 24 * 3600
_TOUCH_SECONDS = 300


class Cache:
    """The folder, as one run uses it. Close it, or use it in a `with` statement.

    Args:
        folder: made if there is none.
        keep: whether the run's entries stay when it ends.

    Raises:
        OSError: if the folder cannot be made or written.
    """

    def __init__(self, folder, keep=False):
        self.folder, self.keep = Path(folder), keep
        self._entries, self._lock, self._touched = [], threading.Lock(), time.monotonic()
        self._closed = self._full = False
        name = f"run-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        self._marker = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_marker()
        except OSError as error:
            raise OSError(
                f"{self.folder}: the folder for training data cannot be used ({error}); give "
                "another --folder_training_data, or leave it out"
            ) from error
        remove_stale(self.folder)
        self._living()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def load(self, files, settings, read):
        """The arrays of an entry; read and put into the folder where they are missing.

        Args:
            files: paths that the arrays are made from; an entry does not outlive a change of
                size or time of theirs. The first one gives the entry its name.
            settings: whatever else the arrays depend on, as JSON can write it.
            read: function without arguments that returns `{part: array}`.

        Returns:
            `{part: array}`, read-only.
        """
        entry = _entry(files, settings)
        if not self._use(entry):
            return read()
        arrays = self._map(entry)
        if arrays is None:
            arrays = read()
            if _entry(files, settings) == entry:  # else a file has changed meanwhile
                self._store(entry, arrays)
        return arrays

    def close(self):
        """Ends the run's use of the folder."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with locked(self.folder):
            remove(self._marker)
            self._remove_unused()
        remove_stale(self.folder)

    def _use(self, entry):
        """Lists an entry in the marker; returns whether the folder can still be used."""
        with self._lock:
            if self._closed:
                return False
            try:
                if entry not in self._entries:
                    self._entries.append(entry)
                    self._write_marker()
                    if self.keep:  # now, since the run may be killed
                        (self.folder / f"{entry}.keep").touch()
                elif time.monotonic() - self._touched > _TOUCH_SECONDS:
                    os.utime(self._marker)
                    self._touched = time.monotonic()
            except OSError as error:
                self._warn(error)
        return True

    def _map(self, entry):
        """The arrays of an entry, or None if it is not whole."""
        try:
            parts = json.loads(np.load(self.folder / f"{entry}.parts.npy").item())
            arrays = {
                part: np.load(self.folder / f"{entry}.{part}.npy", mmap_mode="r") for part in parts
            }
        except (OSError, ValueError, EOFError):
            return None
        whole = all([list(a.shape), a.dtype.str] == parts[part] for part, a in arrays.items())
        return arrays if whole else None

    def _store(self, entry, arrays):
        if self._full:
            return
        parts = {part: [list(a.shape), a.dtype.str] for part, a in arrays.items()}
        try:
            for part, array in arrays.items():
                self._write(entry, part, array)
            # Last, since an entry without it counts as absent.
            self._write(entry, "parts", np.array(json.dumps(parts)))
        except OSError as error:
            self._warn(error)

    def _write(self, entry, part, array):
        path = self.folder / f"{entry}.{part}.npy"
        temporary = temporary_beside(path)
        try:
            with open(temporary, "xb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
            with self._lock:
                if not self._closed:  # else it would stay behind
                    os.replace(temporary, path)
        finally:
            remove(temporary)

    def _warn(self, error):
        if not self._full:
            logger.warning(
                "%s: cannot be written (%s); the training goes on and reads the images that are "
                "not there yet anew in every epoch",
                self.folder,
                error,
            )
        self._full = True

    def _write_marker(self):
        content = {"birth": _birth(os.getpid()), "entries": self._entries}
        write_text(self._marker, json.dumps(content))

    def _remove_unused(self):
        used = self._living()
        found = {}
        for path in self.folder.glob("*"):
            match = _ENTRY.fullmatch(path.name)
            if match:
                found.setdefault(match["entry"], []).append(path)
        for entry, paths in found.items():
            if entry not in used and not any(path.suffix == ".keep" for path in paths):
                for path in paths:
                    remove(path)

    def _living(self):
        """The entries that living runs list; removes the markers of dead runs."""
        entries = set()
        for path in self.folder.glob("run-*.json"):
            match = _MARKER.fullmatch(path.name)
            try:
                content = json.loads(path.read_text(encoding="utf-8")) if match else None
                if content and _lives(path, match["host"], int(match["process"]), content["birth"]):
                    entries.update(content["entries"])
                elif content:
                    remove(path)
            except (OSError, ValueError, KeyError, TypeError):  # gone meanwhile, or none of ours
                continue
        return entries


def _entry(files, settings):
    """`<name>-<key>` of an entry."""
    key = json.dumps([_FORMAT, settings, [_state(Path(path)) for path in files]])
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(files[0]).name.split(".")[0])[:60]
    return f"{name or 'image'}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _state(path):
    """What changes with a file, or with the files of a DICOM folder."""
    try:
        paths = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(item.name, item.stat()) for item in paths]
    except OSError:  # whoever reads it says so better
        return [str(path)]
    return [str(path.resolve()), [[name, s.st_size, s.st_mtime_ns] for name, s in stats]]


def _lives(path, host, process, birth):
    if host == _host() and os.name == "posix":
        return _birth(process) == birth
    return time.time() - path.stat().st_mtime < _FOREIGN_SECONDS


def _birth(process):
    """What tells a process from later ones of the same number; None if it does not run."""
    if os.name != "posix":
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        pass
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[19]  # start time since boot, proc(5)
    except (OSError, IndexError):  # no Linux
        return ""


def _host():
    return platform.node().replace(".", "-")
