# SPDX-License-Identifier: MIT
"""Fetches the weights that the authors of SegSRGAN published, when a user asks for it."""

import hashlib
import http.client
import json
import os
import urllib.request
from pathlib import Path

from segsrgan.errors import WeightsError
from segsrgan.networks.registry import user_folder

# The spelling is the repository's.
PUBLISHED = (
    "Perso_without_data_augmentation",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max_res_between_2_and_4",
    "Perso_with_constrast_0.5_and_noise_0.03_val_max_res_between_2_and_4_conditional",
    "Perso_without_data_agmentation_u_net",
)
LISTING = "https://api.github.com/repos/koopa31/SegSRGAN/contents/data/weights?ref=master"


def download(names=None, folder=None, fetch=None):
    """Downloads published weights and verifies each by the git blob SHA-1 of its repository.

    Args:
        names: some of `PUBLISHED`; all when None. Files that are there and right are kept
            (their SHA-1 comes from the repository's listing, so a network is needed all the same).
        folder: where to put them; `~/.segsrgan/weights` when None, where names are looked up.
        fetch: function from a URL to bytes, for tests.

    Returns:
        The paths, a list.

    Raises:
        WeightsError: for an unknown name, without a network, or if a file differs from its
            SHA-1. The message names the URL and the folder to put the file in.
    """
    names = list(names or PUBLISHED)
    unknown = [name for name in names if name not in PUBLISHED]
    if unknown:
        raise WeightsError(
            f"unknown published weights {', '.join(unknown)}; expected some of "
            f"{', '.join(PUBLISHED)}"
        )
    folder = Path(folder) if folder else user_folder()
    fetch = fetch or _fetch
    listing = {entry["name"]: entry for entry in json.loads(_get(LISTING, folder, fetch))}
    return [_one(name, listing, folder, fetch) for name in names]


def blob_sha1(content):
    """The SHA-1 under which git knows a file's content (bytes), as a hexadecimal string."""
    header = b"blob %d\x00" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def _one(name, listing, folder, fetch):
    if name not in listing:
        raise WeightsError(f"{name}: not in the repository any more ({LISTING})")
    url, sha1 = listing[name]["download_url"], listing[name]["sha"]
    path = folder / name
    if path.is_file() and blob_sha1(path.read_bytes()) == sha1:
        return path
    content = _get(url, folder, fetch)
    if blob_sha1(content) != sha1:
        raise WeightsError(f"{url}: the file received differs from its SHA-1 {sha1}; try again")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.part"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _get(url, folder, fetch):
    try:
        return fetch(url)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(
            f"{url}: could not be fetched ({error}); without a network, get the weights from "
            f"https://github.com/koopa31/SegSRGAN/tree/master/data/weights and put them in {folder}"
        ) from error


def _fetch(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read()
