# SPDX-License-Identifier: MIT
"""HDF5 files from strangers: read only what lies in the file itself and is as large as expected.

HDF5 can name data of other files (external storage, virtual datasets, links), declare arrays far
larger than the file, and load filters from the disk. Files of weights and training states need
none of it: plain arrays in groups, each under one name.
"""

import json
import math
from contextlib import contextmanager, suppress

import h5py
import numpy as np

from segsrgan.errors import UserError

# JSON of specs and metadata is far shorter.
LONGEST_TEXT = 1_000_000


@contextmanager
def opened(path, expected, error):
    """Yields an open `h5py.File`; what fails meanwhile is an `error`, a class of `UserError`.

    Its message names the path and what was `expected`: "a weights file written by ...".
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except error:
        raise
    except UserError as problem:
        raise error(str(problem)) from problem
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as problem:
        reason = _mistaken(path) or (str(problem).splitlines() or [type(problem).__name__])[0]
        raise error(f"{path}: not readable as {expected} ({reason})") from problem


def _mistaken(path):
    """What stands in the place of a file that was not fetched, and what to do; None otherwise."""
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(256).lstrip()
        if head.startswith(b"version https://git-lfs"):
            return "a Git LFS pointer; fetch its content, with `git lfs pull`"
        if head[:1] == b"<":
            return "a web page; download the file itself again"
    return None


def read_json(group, name):
    """The JSON value of a text attribute; `UserError` if it is longer than any that is written."""
    text = group.attrs[name]
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise UserError(f"{_where(group, name)}: expected a short text")
    return json.loads(text)


def subgroups(group):
    """The groups inside a group: dict, name -> `h5py.Group`; anything else there is left out."""
    items = {name: _item(group, name) for name in group}
    return {name: item for name, item in items.items() if isinstance(item, h5py.Group)}


def declared_shapes(group):
    """The arrays of a group and its subgroups, not read: dict, path in the group -> shape.

    Links, data of other files, filters, several names of one object, and types that are not numbers
    are a `UserError`.
    """
    shapes = {}
    for name in group:
        item = _item(group, name)
        if isinstance(item, h5py.Group):
            shapes |= {f"{name}/{key}": shape for key, shape in declared_shapes(item).items()}
        else:
            shapes[name] = item.shape
    return shapes


def read_arrays(group, expected_shapes, dtype=np.float32):
    """Reads exactly the arrays that are expected, after all were found to have their shapes.

    Both are dicts by the path within the group; `dtype` None leaves the file's. A `UserError` lists
    all that are missing, superfluous, misshapen or not finite.
    """
    found = declared_shapes(group)
    problems = [f"missing {name}" for name in expected_shapes if name not in found]
    problems += [f"superfluous {name}" for name in found if name not in expected_shapes]
    for name, shape in expected_shapes.items():
        if found.get(name, shape) != shape:
            problems.append(f"misshapen {name}: expected {shape}, received {found[name]}")
    _refuse(group, problems)
    arrays = {name: np.asarray(group[name], dtype) for name in expected_shapes}
    _refuse(group, [f"not finite {name}" for name, a in arrays.items() if not np.isfinite(a).all()])
    return arrays


def _refuse(group, problems):
    if problems:
        raise UserError(f"{_where(group)}: its arrays do not fit: {'; '.join(problems)}")


def _item(group, name):
    """A group, or a dataset of numbers that is stored in this file in one piece."""
    where = _where(group, name)
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{where}: is a link to something else; expected the data themselves")
    item = group[name]
    if h5py.h5o.get_info(item.id).rc != 1:
        raise UserError(f"{where}: has several names; expected one")
    if isinstance(item, h5py.Group):
        return item
    if not isinstance(item, h5py.Dataset):
        raise UserError(f"{where}: is a {type(item).__name__}; expected groups and arrays")
    if item.dtype.kind not in "biuf":
        raise UserError(f"{where}: holds {item.dtype}; expected numbers")
    if item.is_virtual or item.external:
        raise UserError(f"{where}: its data lie in other files; expected them in this one")
    if item.chunks is not None:
        raise UserError(f"{where}: is stored in chunks; expected one piece, not compressed")
    stored = item.id.get_storage_size()
    if item.shape is None or stored != math.prod(item.shape) * item.dtype.itemsize:
        raise UserError(f"{where}: declares {item.shape}, but {stored} bytes are stored")
    return item


def _where(group, name=""):
    return f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
