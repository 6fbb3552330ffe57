# SPDX-License-Identifier: MIT
"""Weight files of SuperMask: segmentor and AlignNet in one file that carries their specs.

HDF5: root attributes `format` ("supermask"), `format_version`, `metadata` (JSON); the groups
`segmentor` and `alignnet`, either or both, as `segsrgan.networks.weights` writes networks.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

from segsrgan.errors import WeightsError
from segsrgan.networks import resolve
from segsrgan.networks.hdf5 import declared_shapes, opened, read_arrays, read_json, subgroups
from segsrgan.networks.models import assign_weights, named_weights, read_weights
from segsrgan.networks.weights import write_networks
from supermask.alignnet import AlignNetSpec, build_alignnet
from supermask.segmentation import SegmentorSpec, build_segmentor

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
    networks = {
        name: (asdict(model.spec), read_weights(model)) for name, model in models.items() if model
    }
    write_networks(path, FORMAT, FORMAT_VERSION, networks, metadata)


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
    expected = "weights of SuperMask, a file of save_networks or supermask-train"
    with opened(path, expected, WeightsError) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"its format is {file.attrs.get('format')!r}")
        version = int(file.attrs["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(f"it has version {version}, this package reads up to {FORMAT_VERSION}")
        groups = subgroups(file)
        models = {name: _read_model(name, groups[name]) for name in _SPECS if name in groups}
        return Networks(**models, metadata=read_json(file, "metadata"))


def _read_model(name, group):
    spec, shapes = _SPECS[name](**read_json(group, "spec")), declared_shapes(group)
    for key, shape in spec.largest_shapes.items():  # before so large a network is built
        if shapes.get(key) != shape:
            raise ValueError(f"misshapen {key}: expected {shape}, received {shapes.get(key)}")
    model = _BUILDERS[name](spec)
    shapes = {key: tuple(variable.shape) for key, variable in named_weights(model).items()}
    assign_weights(model, read_arrays(group, shapes))
    return model
