# SPDX-License-Identifier: MIT
"""Which weights there are: those that come with the package, and those published by the authors.

The rules by which a name becomes a file stand in `resolve`.
"""

import hashlib
import http.client
import json
import urllib.request
from pathlib import Path

import segsrgan
from segsrgan.errors import WeightsError
from segsrgan.files import write_bytes

# The spelling is the repository's.
PUBLISHED = (
    "Perso_without_data_augmentation",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max_res_between_2_and_4",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max_res_between_2_and_4_conditional",
    "Perso_without_data_agmentation_u_net",
)
LISTING = "https://api.github.com/repos/koopa31/SegSRGAN/contents/data/weights?ref=master"
_PACKAGE = Path(segsrgan.__file__).parent


def weights_folder():
    """The folder of the bundled weights: inside an installed package, beside it in a clone."""
    installed = _PACKAGE / "bundled_weights"
    return installed if installed.is_dir() else _PACKAGE.parent / "weights"


def user_folder():
    """Where `segsrgan weights download` puts files: `~/.segsrgan/weights`."""
    return Path.home() / ".segsrgan" / "weights"


def available():
    """The bundled weights, a list of dicts: name, file, sha256, architecture, training, ..."""
    return _registry()["weights"]


def default_weights():
    """The name of the bundled weights that are used when none are named."""
    return _registry()["default"]


def _registry():
    path = weights_folder() / "registry.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: the registry of weights is unreadable ({error})") from error


def resolve(name_or_path=None):
    """Finds a weights file.

    Args:
        name_or_path: a name of the registry or of a downloaded set, with or without a leading
            `weights/`, or a path; the default weights when None. Write `./NAME` for a file that
            is called like bundled weights.

    Returns:
        The `Path`. Bundled files are checked against their SHA-256.

    Raises:
        WeightsError: if there is no such file, or a bundled one is damaged.
    """
    name = str(default_weights() if name_or_path is None else name_or_path)
    short = name.removeprefix("weights/")
    if "/" in short and Path(name).is_file():
        return Path(name)
    entries = {entry["name"]: entry for entry in available()}
    if short in entries:
        return _checked(weights_folder() / entries[short]["file"], entries[short]["sha256"])
    if Path(name).is_file():
        return Path(name)
    for folder in (weights_folder(), user_folder()):
        if "/" not in short and (folder / short).is_file():
            return folder / short
    if name and Path(name).is_dir():
        raise WeightsError(f"{name}: is a folder; expected a weights file, name one inside it")
    raise WeightsError(
        f"{name or 'an empty name'}: no such weights; expected a file or one of "
        f"{', '.join(entries)}; `segsrgan weights list` says what they are for, "
        "`segsrgan weights download` fetches the published ones"
    )


def _checked(path, sha256):
    intact = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    if not intact:
        problem = "damaged" if path.is_file() else "missing"
        raise WeightsError(f"{path}: the bundled weights are {problem}; install the package again")
    return path


def download(names=None, folder=None):
    """Downloads some of `PUBLISHED`, all when None; files that are present and right are kept.

    Each is compared with the SHA-1 that git knows it by. That comes from the repository's listing,
    so it finds a damaged transfer, not a repository that was tampered with.

    Args:
        names: some of `PUBLISHED`.
        folder: where to put them; `~/.segsrgan/weights`, where names are looked up, when None.

    Returns:
        The paths, a list.

    Raises:
        WeightsError: for an unknown name, without a network, or if a file differs from its SHA-1.
    """
    names = list(names or PUBLISHED)
    if unknown := [name for name in names if name not in PUBLISHED]:
        raise WeightsError(
            f"unknown published weights {', '.join(unknown)}; expected some of "
            f"{', '.join(PUBLISHED)}"
        )
    folder = Path(folder or user_folder())
    listing = {entry["name"]: entry for entry in json.loads(_fetch(LISTING, folder))}
    return [_download_file(name, listing, folder) for name in names]


def _download_file(name, listing, folder):
    if name not in listing:
        raise WeightsError(f"{name}: not in the repository any more ({LISTING})")
    url, sha1 = listing[name]["download_url"], listing[name]["sha"]
    path = folder / name
    if path.is_file() and blob_sha1(path.read_bytes()) == sha1:
        return path
    content = _fetch(url, folder)
    if blob_sha1(content) != sha1:
        raise WeightsError(f"{url}: the file received differs from its SHA-1 {sha1}; try again")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    return path


def blob_sha1(content):
    """The SHA-1 under which git knows a file's content (bytes), as a hexadecimal string."""
    header = b"blob %d\x00" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _fetch(url, folder):
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{url}: could not be fetched ({error}); without a network, get the weights from "
            f"https://github.com/koopa31/SegSRGAN/tree/master/data/weights and put them in {folder}"
        ) from error
