# SPDX-License-Identifier: MIT
"""Weight files: ours, which carry their spec, and the released original's.

Our layout (HDF5): root attributes `format` ("segsrgan"), `format_version`, `metadata` (JSON); a
group `generator` and perhaps `discriminator` with the attribute `spec` (JSON) and the arrays
`<layer>/<weight>`.
"""

import io
import json
from dataclasses import asdict
from pathlib import Path

import h5py

from segsrgan.errors import WeightsError
from segsrgan.files import write_bytes
from segsrgan.networks.arrays import assign, read_network, write_network
from segsrgan.networks.discriminator import DiscriminatorSpec, build_discriminator
from segsrgan.networks.generator import GeneratorSpec, build_generator
from segsrgan.networks.original_weights import is_original, read_original
from segsrgan.networks.registry import resolve

FORMAT_VERSION = 1
_SPECS = {"generator": GeneratorSpec, "discriminator": DiscriminatorSpec}


def load_generator(name_or_path=None, patch=None, formulation="fast"):
    """Loads a generator with its weights.

    Args:
        name_or_path: a name of the registry, a weights file of ours or of the released
            original; the registry's default when None.
        patch: three sizes to fix the input; free when None.
        formulation: see `build_generator`.

    Returns:
        A `keras.Model` with the attribute `spec`: `(b, x, y, z, 1)` in [0, 1] (conditional: a
        list of it and a map of the slice resolution in mm) to `(b, x, y, z, 2 + classes)`:
        image, probability in [0, 1], classes.

    Raises:
        WeightsError: if the file is missing, no weights file, or does not fit its spec.

    Example:
        >>> model = load_generator()
        >>> model(np.zeros((1, 64, 64, 64, 1), "float32")).shape
        (1, 64, 64, 64, 2)
    """
    path = resolve(name_or_path)
    spec, arrays = _network(path, "generator")
    model = build_generator(spec, patch, formulation)
    assign(model, arrays, path)
    return model


def load_discriminator(name_or_path):
    """Loads the discriminator of a weights file; arguments and errors as `load_generator`."""
    path = resolve(name_or_path)
    spec, arrays = _network(path, "discriminator")
    model = build_discriminator(spec)
    assign(model, arrays, path)
    return model


def save_generator(generator, path, discriminator=None, **metadata):
    """Writes a generator, and perhaps its discriminator, whole or not at all.

    Args:
        generator: a model of `build_generator`.
        path: of the file; an existing one is replaced.
        discriminator: a model of `build_discriminator`.
        **metadata: JSON values kept in the file, e.g. `training`, `license`.
    """
    # In memory first: HDF5 answers a full disk with errors of many kinds, or a crash.
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["format"] = "segsrgan"
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["metadata"] = json.dumps(metadata)
        for name, model in (("generator", generator), ("discriminator", discriminator)):
            if model is not None:
                write_network(file.create_group(name), model)
    write_bytes(Path(path), stream.getbuffer())


def describe(name_or_path=None):
    """What a weights file says of itself.

    Returns:
        dict: `path`, `layout` ("segsrgan", "supermask" or "released original"), the specs of its
        networks as dicts (`generator` and perhaps `discriminator`, or `segmentor` and
        `alignnet`), `weights` (how many numbers the generator has), `metadata`.
    """
    path = resolve(name_or_path)
    if (found := _of_supermask(path)) is not None:
        return found
    networks, layout, metadata = _read(path)
    result = {"path": str(path), "layout": layout}
    result |= {name: asdict(spec) for name, (spec, _) in networks.items()}
    result["weights"] = sum(int(a.size) for a in networks["generator"][1].values())
    return {**result, "metadata": metadata}


def _of_supermask(path):
    """What a file of that package says, which tells of its networks in the same way; else None."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != "supermask":
                return None
            specs = {name: json.loads(group.attrs["spec"]) for name, group in file.items()}
            metadata = json.loads(file.attrs["metadata"])
    except (OSError, KeyError, ValueError):  # said better by whoever reads it as one of ours
        return None
    return {"path": str(path), "layout": "supermask", **specs, "metadata": metadata}


def convert(old, new):
    """Rewrites a weights file, e.g. a released one, in our layout; both networks if there."""
    path = resolve(old)
    if Path(new).exists():
        raise WeightsError(f"{new}: exists already; name another file, or remove it first")
    networks, layout, metadata = _read(path)
    discriminator = load_discriminator(path) if "discriminator" in networks else None
    metadata = metadata or {"converted_from": path.name, "layout": layout}
    save_generator(load_generator(path), new, discriminator, **metadata)


def _read(path):
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") == "segsrgan":
                _check_version(path, file)
                networks = {n: read_network(_SPECS[n], file[n]) for n in _SPECS if n in file}
                layout, metadata = "segsrgan", json.loads(file.attrs["metadata"])
            elif is_original(file):
                networks, layout, metadata = read_original(file), "released original", {}
            else:
                networks = {}
    except WeightsError:
        raise
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: not a readable weights file; expected HDF5 written by this package or by "
            f"the released SegSRGAN ({str(error).splitlines()[0]})"
        ) from error
    if networks.get("generator", (None,))[0] is None:
        raise WeightsError(
            f"{path}: holds no SegSRGAN generator; expected a file written by this package or by "
            "the released SegSRGAN; `segsrgan weights list` names those at hand"
        )
    return networks, layout, metadata


def _check_version(path, file):
    version = int(file.attrs.get("format_version", 1))
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"{path}: has format version {version}, this package reads up to {FORMAT_VERSION}; "
            "install a newer one"
        )


def _network(path, name):
    networks = _read(path)[0]
    if networks.get(name, (None,))[0] is None:
        raise WeightsError(f"{path}: holds no {name}; it may have been saved without it")
    return networks[name]
