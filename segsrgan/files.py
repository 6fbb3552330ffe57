# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all, and folders of results with a record of what they are.

What is not complete yet bears a hidden name that says who writes it:
`.<name>.<host>.<process>.<random>.segsrgan-partial`. A link is never written through: the file
takes the link's place. Text is UTF-8; what a file name holds that is not comes back as it was.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from segsrgan import __version__
from segsrgan.errors import UserError

RECORD = "results.json"
_OLD_REPORT = "report.json"
PARTIAL = re.compile(
    r"\.(?P<name>[^/]+)\.(?P<host>[^./]*)\.(?P<process>\d+)\.[0-9a-f]{12}\.segsrgan-partial"
)
_STALE_SECONDS = 600
_LONGEST_NAME = 255  # bytes, of nearly all file systems
# Analyze, MetaImage and NRRD: header and voxels are files of one name.
_PAIRED = re.compile(r"(.+)\.(?:hdr|img|mhd|nhdr|raw|zraw)(?:\.gz)?", re.IGNORECASE)


def temporary_beside(path):
    """A hidden path in the folder of `path` that nobody else uses."""
    path = Path(path)
    unique = f".{_host()}.{os.getpid()}.{uuid.uuid4().hex[:12]}.segsrgan-partial"
    return path.with_name(fitting_name(f".{path.name}", unique))


def fitting_name(name, tail=""):
    """A file name and its end; of a name too long for a file a digest takes the place of the rest.

    Examples:
        >>> len(fitting_name("x" * 250, "_summary.csv"))
        255
    """
    if len(os.fsencode(name + tail)) <= _LONGEST_NAME:
        return name + tail
    tail = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{tail}"
    while len(os.fsencode(name + tail)) > _LONGEST_NAME:
        name = name[:-1]
    return name + tail


@contextmanager
def replaced_file(path, put=None):
    """A binary file that takes the place of `path` when the context ends without an exception.

    Whatever ends the writing before, nothing of it is left and an older file stays as it was. An
    `OSError` names `path`. `put` moves the file, `os.replace` when None.
    """
    path = Path(path)
    if not path.is_symlink() and path.exists() and not (path.is_file() or path.is_dir()):
        # Such as /dev/null, which the file would replace for everybody.
        raise FileExistsError(errno.EEXIST, "is a device or pipe, not an ordinary file", str(path))
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        (put or os.replace)(temporary, path)
    except OSError as error:
        # A full disk does not say where, and nobody knows the temporary name.
        if error.errno is not None and str(error.filename) in ("None", str(temporary)):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        remove(temporary)


def write_bytes(path, data):
    """Writes a file of these bytes, see `replaced_file`."""
    with replaced_file(path) as file:
        file.write(data)


def write_text(path, text):
    """Writes a UTF-8 text file, see `replaced_file`; names that are not UTF-8 byte by byte."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def create_text(path, text):
    """Writes a UTF-8 text file; of several processes that try, all but one get FileExistsError."""
    with replaced_file(path, _create) as file:
        file.write(text.encode(errors="surrogateescape"))


def json_text(value, **options):
    """JSON text that any program reads; a file name that is not UTF-8 is escaped and comes back."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text.encode(errors="backslashreplace").decode() + "\n"


def _create(temporary, path):
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with open(path, "xb") as file:
            file.write(temporary.read_bytes())


@contextmanager
def locked(folder, wait=True):
    """Keeps the other processes of this computer that lock the folder out, where that is possible.

    The system ends the lock with the process, so that a killed run holds up nobody. Without `wait`
    another process's lock raises `BlockingIOError`.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # some network file systems cannot
            pass
        yield
    finally:
        os.close(handle)


def remove_stale(folder):
    """Removes what killed runs of this package left unfinished, nothing of runs that go on.

    A run of this computer is dead if its process is; one of another computer that shares the disk
    if it has written nothing for ten minutes.
    """
    for path in Path(folder).glob(".*.segsrgan-partial"):
        match = PARTIAL.fullmatch(path.name)
        if match and _is_stale(path, match["host"], int(match["process"])):
            remove(path)


def remove(path):
    """Removes a file or folder as far as possible."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        os.unlink(path)


def check_writable(folder, remedy="name another folder"):
    """Raises `UserError` if a folder cannot be made or written to; leaves nothing behind."""
    folder = Path(folder)
    # The folder itself is not made: taking it away again could hit another process's.
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with suppress(FileNotFoundError):
            os.lstat(folder)  # says whether its name is too long
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror or error}); make it writable, or {remedy}"
        ) from error


def files_below(folder, broken=False):
    """The files of a folder and its subfolders by path, links followed, each folder once.

    A link that leads above the folder is not followed; links to nothing count with `broken`.
    """
    seen, files = set(Path(os.path.realpath(folder)).parents), []
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := Path(os.path.realpath(place))) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        files += [Path(place, name) for name in sorted(names)]
    return [path for path in files if path.is_file() or (broken and not path.exists())]


def has_content(path):
    """Whether there is a file or folder, and not an empty one as a full disk leaves."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            return any(entries)
    return os.path.isfile(path) and os.path.getsize(path) > 0


def real_path(path):
    """Where a path leads without links, a str."""
    try:
        return os.path.realpath(path)
    except ValueError:  # not a possible path; whoever opens it says so
        return str(path)


def stamp(path):
    """What a file, or all files below a folder, look like now; of header and voxels both count.

    A link changes with what it leads to, or when it leads elsewhere. Returns [bytes, newest time of
    change in whole seconds], JSON values; None if it cannot be seen.
    """
    path = Path(path)
    try:
        files = parts_of(path)
        found = [file.stat() for file in files]
        links = [item.lstat() for item in {path, *files} if item.is_symlink()]
        times = [int(state.st_mtime) for state in (*found, *links)]
        return [sum(state.st_size for state in found), max(times, default=0)]
    except OSError:
        return None


@dataclass(frozen=True)
class ResultsFolder:
    """A folder of results of one source, and the record that says what they are.

    The record is `{"segsrgan": version, "source": name, "results": {label: entry}}`. The results
    of a label lie in the subfolder of that name, those of "" in the folder itself. An entry has the
    `files` (names), the `inputs` (path -> `stamp`, taken before they were read), the `settings` and
    whatever else the writer knows; it is null while the results are being replaced. The records of
    version 3.0.0 are read, too.

    Attributes:
        folder: the `Path`; it need not exist.
        source: what the results are of, a str: an image's file name, a patient's name.
        name: of the record.
        facts: further items of the record, JSON values.
    """

    folder: Path
    source: str
    name: str = RECORD
    facts: dict = field(default_factory=dict)

    def owner(self):
        """The source whose results the folder holds, None if it is nobody's."""
        return self._read().get("source")

    def version(self):
        """The version of this package that wrote the record last; None without a record."""
        return self._read().get("segsrgan")

    def labels(self):
        """The labels that have an entry, a list, be their results whole or not."""
        return list(self._read().get("results", {}))

    def knows(self, label=""):
        """Whether there is an entry of a label, be its results whole or not."""
        return label in self._read().get("results", {})

    def entry(self, label=""):
        """The entry of whole results, a dict; None without one, or if one of its files is gone."""
        found = self._read().get("results", {}).get(label)
        return found if isinstance(found, dict) and not self.missing(label) else None

    def files(self, label=""):
        """The names of the files that the entry of a label has, a list, be they there or not."""
        found = self._read().get("results", {}).get(label) or {}
        names = found.get("files") if isinstance(found, dict) else ()
        return [Path(str(name)).name for name in names or ()]

    def missing(self, label=""):
        """Those of the `files` that are gone or empty."""
        return [f for f in self.files(label) if not has_content(self.folder / label / f)]

    def claim(self):
        """Makes the folder and takes it for the source, unless another one has it already.

        Returns whether it belongs to the source now, whatever other processes do meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            record = self._read()
            if record.get("source") is None:
                path = self.folder / self.name
                # One that names no source is damaged.
                write = write_text if path.exists() else create_text
                with suppress(FileExistsError):
                    write(path, self._text(record.get("results", {})))
            return self.owner() == self.source

    @contextmanager
    def replacing(self, label, entry, possible=()):
        """Results that take the place of a label's when the context ends without an exception.

        What is there stays until all is written; whatever ends the writing before, only what was
        written here is removed. A run killed during the exchange has noted that the results are
        not whole.

        Args:
            label: of the results.
            entry: dict of JSON values for the record; it may be filled until the context ends.
            possible: names that results of the label may have; those not written now are removed,
                as are files of the old entry.

        Yields:
            The `Path` of an empty folder to write the files to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        temporary = temporary_beside(self.folder / (label or "results"))
        target = self.folder / label
        try:
            temporary.mkdir()
            yield temporary
            files = sorted(path.name for path in temporary.iterdir())
            with locked(self.folder):
                entry_before = self._read().get("results", {}).get(label) or {}
                old = {*(entry_before.get("files") or ()), *possible} - {*files}
                self._note(label, None)
                target.mkdir(exist_ok=True)
                for file in files:
                    if (target / file).is_dir():  # only an empty one could be replaced
                        remove(target / file)
                    os.replace(temporary / file, target / file)
                for file in old:
                    remove(target / Path(file).name)
                remove(temporary)  # before the note: nobody looks here again once it says finished
                self._note(label, {"files": files, **entry})
        finally:
            remove(temporary)
            with suppress(OSError):  # only what was made in vain is empty
                self.folder.rmdir()

    def _read(self):
        names = [self.name, *(_OLD_REPORT,) * (self.name == RECORD)]
        try:
            path = next((self.folder / n for n in names if (self.folder / n).is_file()), None)
            record = json.loads(path.read_text(encoding="utf-8")) if path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        record = _modern(record, path) if isinstance(record, dict) else {}
        return record if isinstance(record.get("results"), dict) else {}

    def _note(self, label, entry):
        results = {**self._read().get("results", {}), label: entry}
        write_text(self.folder / self.name, self._text(results))

    def _text(self, results):
        record = {"segsrgan": __version__, "source": self.source, "results": results}
        return json_text(self.facts | record, indent=1)


def _modern(record, path):
    """A record in today's layout, of one that 3.0.0 may have written.

    SegSRGAN's was `{"image": name, "pairs": {label: settings}}`, SuperMask's the entry itself.
    """
    if isinstance(record.get("pairs"), dict):
        image = record.get("image")
        pairs = {label: _modern_entry(made, image) for label, made in record["pairs"].items()}
        return {"source": image, "results": pairs}
    if "supermask" in record and "whole" in record:
        files = [*record.get("files", ()), *(path.name,) * (path.name == _OLD_REPORT)]
        entry = {**record, "files": files} if record["whole"] else None
        return {"source": record.get("patient"), "results": {"": entry}}
    return record


def _modern_entry(settings, image):
    if not isinstance(settings, dict):
        return None
    settings = dict(settings)
    return {"inputs": {image: settings.pop("image_stamp", None)}, "settings": settings}


def parts_of(path):
    """The files below a folder, a file, or a pair of header and voxels."""
    if path.is_dir():
        return files_below(path)
    half = _PAIRED.fullmatch(path.name)
    if not half:
        return [path]
    found = ((_PAIRED.fullmatch(other.name), other) for other in path.parent.iterdir())
    others = sorted(other for match, other in found if match and match[1] == half[1])
    return [path, *(other for other in others if other != path and other.is_file())]


def _is_stale(path, host, process):
    import psutil

    try:
        if host == _host():
            return not psutil.pid_exists(process)
        newest = max(item.stat().st_mtime for item in (path, *path.glob("*")))
    except (OSError, ValueError):  # gone meanwhile
        return False
    return time.time() - newest > _STALE_SECONDS


def _host():
    return platform.node().replace(".", "-")
