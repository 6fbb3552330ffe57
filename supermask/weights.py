# SPDX-License-Identifier: MIT
"""Weight files of SuperMask: segmentor and AlignNet in one file that carries their specs.

HDF5: root attributes `format` ("supermask"), `format_version`, `metadata` (JSON); the groups
`segmentor` and `alignnet`, either or both, as of `segsrgan.networks.arrays`.
"""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from segsrgan.errors import WeightsError
from segsrgan.files import write_bytes
from segsrgan.networks import resolve
from segsrgan.networks.arrays import assign, read_network, write_network
from supermask.alignnet import AlignNetSpec, build_alignnet
from supermask.unet import SegmentorSpec, build_segmentor

FORMAT, FORMAT_VERSION = "supermask", 1
_SPECS = {"segmentor": SegmentorSpec, "alignnet": AlignNetSpec}
_BUILDERS = {"segmentor": build_segmentor, "alignnet": build_alignnet}


class Networks(NamedTuple):
    """What a weights file holds.

    Attributes:
        segmentor: model of `build_segmentor`, or None.
        alignnet: model of `build_alignnet`, or None.
        metadata: dict of JSON values.
    """

    segmentor: Any = None
    alignnet: Any = None
    metadata: dict = {}


def save_networks(path, segmentor=None, alignnet=None, **metadata):
    """Writes either network or both, whole or not at all; an existing file is replaced.

    Args:
        path: of the file.
        segmentor: model of `build_segmentor`, or None.
        alignnet: model of `build_alignnet`, or None.
        **metadata: JSON values kept in the file, e.g. `training`, `license`.

    Raises:
        ValueError: if there is no network.
        OSError: if the file cannot be written.
    """
    models = {"segmentor": segmentor, "alignnet": alignnet}
    if not any(models.values()):
        raise ValueError("expected a segmentor, an alignnet or both, received neither")
    # In memory first: HDF5 answers a full disk with errors of many kinds, or a crash.
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["metadata"] = json.dumps(metadata)
        for name, model in models.items():
            if model is not None:
                write_network(file.create_group(name), model)
    write_bytes(Path(path), stream.getbuffer())


def load_networks(name_or_path):
    """Builds the networks of a weights file.

    Args:
        name_or_path: a file, or a name of the registry.

    Returns:
        `Networks`.

    Raises:
        WeightsError: if the file is missing, is no weights file of SuperMask, or does not fit
            its spec.
    """
    path = resolve(name_or_path, FORMAT)
    found, metadata = _read(path)
    models = {}
    for name, (spec, arrays) in found.items():
        models[name] = _BUILDERS[name](spec)
        assign(models[name], arrays, path)
    return Networks(**models, metadata=metadata)


def describe_networks(name_or_path):
    """What a weights file says of itself: a dict of `path`, the specs as dicts, `metadata`."""
    path = resolve(name_or_path, FORMAT)
    found, metadata = _read(path)
    specs = {name: asdict(spec) for name, (spec, _) in found.items()}
    return {"path": str(path), **specs, "metadata": metadata}


def _read(path):
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"its format is {file.attrs.get('format')!r}")
            version = int(file.attrs["format_version"])
            if version > FORMAT_VERSION:
                raise ValueError(
                    f"it has version {version}, this package reads up to {FORMAT_VERSION}"
                )
            found = {n: read_network(spec, file[n]) for n, spec in _SPECS.items() if n in file}
            return found, json.loads(file.attrs["metadata"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: expected weights of SuperMask ({str(error).splitlines()[0]}); take a file "
            "that save_networks or supermask-train wrote"
        ) from error
