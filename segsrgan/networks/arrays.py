# SPDX-License-Identifier: MIT
"""A network in a group of an HDF5 file: its spec as JSON, and its arrays by name."""

import json
from dataclasses import asdict

import h5py
import numpy as np

from segsrgan.errors import WeightsError


def read_network(spec_class, group):
    """Reads a network's spec and arrays.

    Args:
        spec_class: the dataclass of the spec.
        group: of HDF5.

    Returns:
        `(spec, arrays)`, a spec and a dict of float32 arrays.
    """
    arrays = {}

    def visit(key, item):
        if isinstance(item, h5py.Dataset):
            arrays[key] = np.asarray(item, dtype=np.float32)

    group.visititems(visit)
    return spec_class(**json.loads(group.attrs["spec"])), arrays


def write_network(group, model):
    """Writes a model with the attribute `spec` into an empty group, as `<layer>/<weight>`."""
    group.attrs["spec"] = json.dumps(asdict(model.spec))
    for layer, variable in _variables(model):
        group[f"{layer.name}/{variable.name}"] = np.asarray(variable.value, dtype=np.float32)


def _variables(model):
    return [(layer, variable) for layer in model.layers for variable in layer.weights]


def assign(model, arrays, path):
    """Copies arrays into a model by name.

    Args:
        model: with the attribute `spec`.
        arrays: of `read_network`.
        path: of the file, for messages.

    Raises:
        WeightsError: if they do not fit exactly, or are not finite.
    """
    wanted = {f"{layer.name}/{v.name}": v for layer, v in _variables(model)}
    problems = [f"missing {key}" for key in wanted if key not in arrays]
    problems += [f"superfluous {key}" for key in arrays if key not in wanted]
    problems += [
        f"misshapen {key}: expected {tuple(v.shape)}, received {arrays[key].shape}"
        for key, v in wanted.items()
        if key in arrays and tuple(v.shape) != arrays[key].shape
    ]
    problems += [
        f"not finite {key}"
        for key in wanted
        if key in arrays and not np.isfinite(arrays[key]).all()
    ]
    if problems:
        raise WeightsError(f"{path}: the weights do not fit {model.spec}: " + "; ".join(problems))
    for key, variable in wanted.items():
        variable.assign(arrays[key])
