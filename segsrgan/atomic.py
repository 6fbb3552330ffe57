# SPDX-License-Identifier: MIT
"""Files that appear whole or not at all, whoever else writes and whenever a run is killed.

What is not complete yet bears a hidden name that says who writes it:
`.<name>.<host>.<process>.<random>.partial`.
"""

import os
import platform
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE_SECONDS = 600
# Of Analyze, MetaImage and NRRD, whose header and voxels are files of one name.
_PAIRED = (".hdr", ".img", ".mhd", ".nhdr", ".raw", ".zraw")


def temporary_beside(path):
    """A hidden path in the same folder that nobody else uses."""
    return path.with_name(f".{path.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:12]}.partial")


def write_text(path, text):
    """Writes a text file, replacing an older one only when the new one is complete on disk.

    Args:
        path: of the file, a `Path`.
        text: UTF-8.

    Raises:
        OSError: if it cannot be written; then nothing has changed.
    """
    write_bytes(path, text.encode())


def write_bytes(path, data):
    """As `write_text`, of bytes; a link stays one, the file that it leads to is replaced."""
    path = path.resolve()
    with _written(path, data) as temporary:
        os.replace(temporary, path)


def create_text(path, text):
    """As `write_text`, but of several processes that try only one succeeds.

    Raises:
        FileExistsError: if there is such a file.
        OSError: if it cannot be written.
    """
    with _written(path, text.encode()) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)


@contextmanager
def locked(folder):
    """Keeps the other processes of this computer that lock the folder out, where that is possible.

    The system ends the lock with the process, so that a killed run holds up nobody.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield
        return
    try:
        with suppress(OSError):  # some network file systems cannot
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(folder):
    """Keeps a folder for this process of this computer; others that claim it are refused.

    Raises:
        BlockingIOError: if another process has claimed it.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # some network file systems cannot
            pass
        yield
    finally:
        os.close(handle)


def remove_stale(folder):
    """Removes what killed runs left under temporary names, nothing of runs that go on.

    A run of this computer is dead if its process is; one of another, that shares the disk, if it
    has written nothing for ten minutes.
    """
    for path in folder.glob(".*.partial"):
        if _is_stale(path):
            remove(path)


def remove(path):
    """Removes a file or folder as far as possible."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


@contextmanager
def _written(path, data):
    temporary = temporary_beside(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk does not say where
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        remove(temporary)


def _is_stale(path):
    try:
        host, process = path.name.split(".")[-4:-2]
        if host == _host() and os.name == "posix":
            return not _is_running(int(process))
        newest = max(item.stat().st_mtime for item in (path, *path.glob("*")))
    except (OSError, ValueError):  # gone meanwhile, or no name of ours
        return False
    return time.time() - newest > _STALE_SECONDS


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _host():
    return platform.node().replace(".", "-")


def _files_of(path):
    """The files of a folder, a file, or a pair of header and voxels."""
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file()]
    if path.suffix.lower() not in _PAIRED:
        return [path]
    others = (path.with_suffix(suffix) for suffix in _PAIRED)
    return [path, *(other for other in others if other != path and other.is_file())]


def stamp(path):
    """What a file or folder looks like now, to notice later that it has changed.

    Args:
        path: of a file, or of a folder, whose own files count; of a header or its voxels both do.

    Returns:
        [bytes, newest time of change in whole seconds], JSON values; None if it cannot be seen.
    """
    path = Path(path)
    try:
        parts = [file.stat() for file in _files_of(path)]
        return [sum(s.st_size for s in parts), max((int(s.st_mtime) for s in parts), default=0)]
    except OSError:
        return None
