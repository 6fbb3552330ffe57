# SPDX-License-Identifier: MIT
"""Folders of files that belong together: whole or not at all, and nothing else's files touched.

A report, a JSON file, lists which files are ours and whether they are whole. It is there before
they are, so that files without it belong to somebody else.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from segsrgan import __version__
from segsrgan.errors import UserError
from segsrgan.files import locked, remove, remove_stale, temporary_beside, write_text


def read_report(folder, name):
    """The report of whole files of ours in a folder, a dict; None if there is none."""
    report = _ours(folder, name)
    return report if report is not None and report.get("whole") else None


def check_place(folder, name, overwrite=False):
    """Checks that files may and can go into a folder.

    Args:
        folder: need not exist.
        name: of the report.
        overwrite: whether whole files of ours may be replaced.

    Raises:
        UserError: if it holds anything else, or cannot be written to.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name another output folder")
    if folder.is_dir() and _ours(folder, name) is None:
        others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
        if others:
            raise UserError(
                f"{folder}: holds files that are not ours, such as {others[0]}; name another "
                "output folder"
            )
    if read_report(folder, name) is not None and not overwrite:
        raise UserError(f"{folder}: is finished already; --overwrite replaces it")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written to; name another output folder")


def store(folder, name, write, content, overwrite=False):
    """Writes files and their report into a folder.

    Args:
        folder: made if it is not there.
        name: of the report.
        write: called with the `Path` of an empty folder; writes the files there and returns their
            names.
        content: of the report, a dict of JSON values.
        overwrite: whether whole files of ours are replaced.

    Returns:
        The folder's `Path`.

    Raises:
        UserError: see `check_place`.
        VolumeError, OSError: if a file cannot be written; then nothing has changed.
    """
    folder = Path(folder)
    check_place(folder, name, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    temporary = temporary_beside(folder / "results")
    try:
        temporary.mkdir()
        files = write(temporary)
        with locked(folder):
            old = set((_ours(folder, name) or {}).get("files", [])) - set(files)
            _note(folder / name, content, [*files, *sorted(old)], whole=False)
            for file in files:
                os.replace(temporary / file, folder / file)
            for file in old:
                (folder / Path(file).name).unlink(missing_ok=True)
            _note(folder / name, content, files, whole=True)
    finally:
        remove(temporary)
        with suppress(OSError):  # only what was made in vain is empty
            folder.rmdir()
    return folder


def _ours(folder, name):
    """The report of ours in a folder, whole or not."""
    try:
        report = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "supermask" in report else None


def _note(path, content, files, whole):
    report = {"supermask": __version__, "whole": whole, **content, "files": files}
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
