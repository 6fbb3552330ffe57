# SPDX-License-Identifier: MIT
"""The weights that come with the package, and the rules by which a name becomes a file."""

import hashlib
import json
from pathlib import Path

import segsrgan
from segsrgan.errors import WeightsError

_PACKAGE = Path(segsrgan.__file__).parent


def weights_folder():
    """The folder of the bundled weights: inside an installed package, beside it in a clone."""
    installed = _PACKAGE / "bundled_weights"
    return installed if installed.is_dir() else _PACKAGE.parent / "weights"


def user_folder():
    """Where `segsrgan weights download` puts files: `~/.segsrgan/weights`."""
    return Path.home() / ".segsrgan" / "weights"


def registry():
    """The content of `registry.json`: `default` and the list `weights`."""
    path = weights_folder() / "registry.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: the registry of weights is unreadable ({error})") from error


def available():
    """The bundled weights, a list of dicts: name, file, sha256, architecture, training, ..."""
    return registry()["weights"]


def default_weights():
    """The name of the weights used when none are named."""
    return registry()["default"]


def resolve(name_or_path=None, kind=None):
    """Finds a weights file.

    Args:
        name_or_path: a name of the registry or of a downloaded set, with or without a leading
            `weights/`, or a path; the default weights when None. Write `./NAME` for a file that
            is called like bundled weights.
        kind: of the weights that a message offers: those of entries with that `kind`.

    Returns:
        The `Path`. Bundled files are checked against their SHA-256.

    Raises:
        WeightsError: if there is no such file, or a bundled one is damaged.
    """
    name = str(name_or_path if name_or_path is not None else default_weights())
    short = name.removeprefix("weights/")
    if "/" in short and Path(name).is_file():
        return Path(name)
    entries = {entry["name"]: entry for entry in available()}
    if short in entries:
        return _checked(weights_folder() / entries[short]["file"], entries[short]["sha256"])
    if Path(name).is_file():
        return Path(name)
    for folder in (weights_folder(), user_folder()):
        if "/" not in short and short and (folder / short).is_file():
            return folder / short
    if name and Path(name).is_dir():
        raise WeightsError(f"{name}: is a folder; expected a weights file, name one inside it")
    known = sorted(key for key, entry in entries.items() if entry.get("kind") == kind)
    known = f" or one of {', '.join(known)}" if known else ""
    more = "`segsrgan weights list` describes the bundled ones"
    if kind is None:
        more += ", `segsrgan weights download` fetches the published ones"
    shown = name or "an empty name"
    raise WeightsError(f"{shown}: no such weights; expected a file{known}; {more}")


def _checked(path, sha256):
    if not path.is_file():
        raise WeightsError(f"{path}: the bundled weights are missing; install the package again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise WeightsError(f"{path}: the bundled weights are damaged; install the package again")
    return path
