# SPDX-License-Identifier: MIT
"""Weight files: ours, which carry their spec, and those of the released SegSRGAN; all HDF5.

Ours: root attributes `format` ("segsrgan"), `format_version`, `metadata` (JSON); a group
`generator` and perhaps `discriminator` with the attribute `spec` (JSON) and the arrays
`<layer>/<weight>`.

The released ones were written by Keras 2.2.4: each network is a root group named after its variant,
`G[_unet][_cond][_nn_residual]` or `DX[_cond]`, whose attribute `weight_names` lists its arrays as
`<group>_<layer>/<weight>:0`. Everything is found by these names. Kernels are stored
(kx, ky, kz, in, out), as ours are.
"""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from segsrgan.errors import WeightsError
from segsrgan.files import write_bytes
from segsrgan.networks.architecture import (
    DiscriminatorSpec,
    GeneratorSpec,
    discriminator_shapes,
    generator_shapes,
    spec_values,
)
from segsrgan.networks.hdf5 import declared_shapes, opened, read_arrays, read_json, subgroups
from segsrgan.networks.outputs import channel_count
from segsrgan.networks.registry import resolve

FORMAT_VERSION = 1
_LARGEST_HALF = np.finfo(np.float16).max
_SPECS = {"generator": GeneratorSpec, "discriminator": DiscriminatorSpec}
_SHAPES = {"generator": generator_shapes, "discriminator": discriminator_shapes}
_EXPECTED = "a weights file written by this package or by the released SegSRGAN"


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

    Examples:
        >>> model = load_generator()
        >>> model(np.zeros((1, 64, 64, 64, 1), "float32")).shape
        (1, 64, 64, 64, 2)
    """
    from segsrgan.networks.models import build_generator

    return _load("generator", name_or_path, build_generator, patch, formulation)


def load_discriminator(name_or_path):
    """Loads the discriminator of a weights file.

    Args:
        name_or_path: a name of the registry, or a file.

    Returns:
        A `keras.Model` with the attribute `spec`: patches `(b, p, p, p, spec.channels)` to one
        number each, `(b, 1)`.

    Raises:
        WeightsError: if the file is missing, holds no discriminator, or does not fit its spec.
    """
    from segsrgan.networks.models import build_discriminator

    return _load("discriminator", name_or_path, build_discriminator)


def _load(network, name_or_path, build, *options):
    from segsrgan.networks.models import assign_weights

    spec, arrays = _read_network(name_or_path, network)
    return assign_weights(build(spec, *options), arrays)


def read_generator(name_or_path=None):
    """Reads a generator's weights without Keras.

    Args:
        name_or_path: a name of the registry, or a file; the registry's default when None.

    Returns:
        `(spec, arrays)`: a `GeneratorSpec`, and a dict of float32 arrays by `<layer>/<weight>`,
        whose names and shapes are those of `generator_shapes(spec)`.

    Raises:
        WeightsError: if the file is missing, no weights file, or does not fit its spec.
    """
    return _read_network(name_or_path, "generator")


def trained_interp(path):
    """The interpolation that a file's generator was trained with, see `GeneratorSpec`.

    The arrays are not read. Raises `WeightsError` if the file is no weights file.
    """
    with opened(path, _EXPECTED, WeightsError) as file:
        generator = subgroups(file).get("generator")  # which the released ones do not have
        return GeneratorSpec(**(read_json(generator, "spec") if generator else {})).interp


def _read_network(name_or_path, name):
    path = resolve(name_or_path)
    networks, _, _ = _read(path)
    if name not in networks:
        raise WeightsError(f"{path}: holds no {name}; it may have been saved without it")
    return networks[name]


def save_generator(generator, path, discriminator=None, **metadata):
    """Writes a generator, and perhaps its discriminator, whole or not at all.

    Args:
        generator: a model of `build_generator`.
        path: of the file; an existing one is replaced.
        discriminator: a model of `build_discriminator`.
        **metadata: JSON values kept in the file, e.g. `training`, `license`.

    Raises:
        OSError: if the file cannot be written.
    """
    from segsrgan.networks.models import read_weights

    models = {"generator": generator, "discriminator": discriminator}
    networks = {name: (m.spec, read_weights(m)) for name, m in models.items() if m}
    write_networks(path, "segsrgan", FORMAT_VERSION, networks, metadata)


def write_networks(path, layout, version, networks, metadata):
    """Writes networks, `{name: (spec, arrays by <layer>/<weight>)}`, whole or not at all."""
    # In memory first: HDF5 answers a full disk with errors of many kinds, or a crash.
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["format"] = layout
        file.attrs["format_version"] = version
        file.attrs["metadata"] = json.dumps(metadata)
        for name, (spec, arrays) in networks.items():
            group = file.create_group(name)
            group.attrs["spec"] = json.dumps(spec_values(spec))
            for key, array in arrays.items():
                group[key] = array
    write_bytes(Path(path), stream.getbuffer())


def describe(name_or_path=None):
    """What a weights file says of itself.

    Args:
        name_or_path: a name of the registry, or a file; the registry's default when None.

    Returns:
        dict: `path`, `layout` ("segsrgan", "supermask" or "released original"), the specs of its
        networks as dicts (`generator` and perhaps `discriminator`, or `segmentor` and
        `alignnet`), `weights` (how many numbers the generator has), `metadata`.

    Raises:
        WeightsError: if the file is missing or no weights file.
    """
    path = resolve(name_or_path)
    with opened(path, _EXPECTED, WeightsError) as file:
        if file.attrs.get("format") == "supermask":
            specs = {name: read_json(group, "spec") for name, group in subgroups(file).items()}
            metadata = read_json(file, "metadata")
            return {"path": str(path), "layout": "supermask", **specs, "metadata": metadata}
    networks, layout, metadata = _read(path)
    specs = {name: spec_values(spec) for name, (spec, _) in networks.items()}
    size = sum(array.size for array in networks["generator"][1].values())
    return {"path": str(path), "layout": layout, **specs, "weights": size, "metadata": metadata}


def convert(old, new, half=False):
    """Rewrites a weights file, e.g. a released one, in our layout; both networks if present.

    Args:
        old: a name of the registry, or a file.
        new: path of the new file.
        half: keep the numbers in float16, in half the space; three digits of each remain.

    Raises:
        WeightsError: if the old file cannot be read, has numbers too large for float16, or the new
            one exists.
    """
    path = resolve(old)
    if Path(new).exists():
        raise WeightsError(f"{new}: exists already; name another file, or remove it first")
    networks, layout, metadata = _read(path)
    metadata = metadata or {"converted_from": path.name, "layout": layout}
    if half:
        networks = {name: (spec, _halved(path, a)) for name, (spec, a) in networks.items()}
    write_networks(new, "segsrgan", FORMAT_VERSION, networks, metadata)


def _halved(path, arrays):
    large = [name for name, array in arrays.items() if np.abs(array).max() > _LARGEST_HALF]
    if large:
        raise WeightsError(f"{path}: too large for float16 are {', '.join(large)}; keep float32")
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _read(path):
    """`(networks, layout, metadata)` of a file, with networks `{name: (spec, arrays)}`."""
    with opened(path, _EXPECTED, WeightsError) as file:
        if file.attrs.get("format") != "segsrgan":
            networks, layout, metadata = _read_released(file), "released original", {}
        else:
            version = int(file.attrs.get("format_version", 1))
            if version > FORMAT_VERSION:
                raise WeightsError(
                    f"{path}: has format version {version}, this package reads up to "
                    f"{FORMAT_VERSION}; install a newer one"
                )
            networks, layout, groups = {}, "segsrgan", subgroups(file)
            for name in [name for name in _SPECS if name in groups]:
                spec = _SPECS[name](**read_json(groups[name], "spec"))
                networks[name] = spec, read_arrays(groups[name], _SHAPES[name](spec))
            metadata = read_json(file, "metadata")
    if "generator" not in networks:
        raise WeightsError(
            f"{path}: holds no SegSRGAN generator; expected a file written by this package or by "
            "the released SegSRGAN; `segsrgan weights list` names those at hand"
        )
    return networks, layout, metadata


def _read_released(file):
    """The networks of a file of the released layout; an empty dict for files of another kind."""
    groups = subgroups(file)
    if "model_weights" in groups:  # model.save() puts them one level down
        groups = subgroups(groups["model_weights"])
    networks = {}
    for match, group in [(_RELEASED.fullmatch(name), group) for name, group in groups.items()]:
        if match is None:
            continue
        listed = _list_attribute(group.attrs, "weight_names")
        theirs = {entry.removesuffix(":0").removeprefix(f"{match[0]}_"): entry for entry in listed}
        declared = declared_shapes(group)
        shapes = {name: declared[entry] for name, entry in theirs.items() if entry in declared}
        network, spec_of = _KINDS[match["kind"]]
        spec = spec_of(match, shapes)
        expected = _SHAPES[network](spec)
        # A name that is not listed is reported as it is.
        arrays = read_arrays(group, {theirs.get(key, key): expected[key] for key in expected})
        networks[network] = spec, {key: arrays[theirs[key]] for key in expected}
    return networks


def _list_attribute(attributes, key):
    """A list attribute; long ones are split into `key0`, `key1`, ..."""
    chunks = [attributes[key]] if key in attributes else []
    while f"{key}{len(chunks)}" in attributes:
        chunks.append(attributes[f"{key}{len(chunks)}"])
    return [n.decode() if isinstance(n, bytes) else str(n) for chunk in chunks for n in chunk]


def _generator_spec(match, shapes):
    return GeneratorSpec(
        kernel=shapes["gen_conv1/kernel"][-1],
        unet=bool(match["unet"]),
        conditional=bool(match["cond"]),
        residual=not match["plain"],
        mask_classes=shapes["gen_1conv/kernel"][-1] - channel_count(GeneratorSpec()),
    )


def _discriminator_spec(match, shapes):
    plain = DiscriminatorSpec(conditional=bool(match["cond"]))
    channels, kernel = shapes["conv_dis_1/kernel"][-2:]
    depth = sum(key.endswith("/kernel") and key.startswith("conv_dis") for key in shapes)
    classes = channels - plain.channels
    return replace(plain, kernel=kernel, mask_classes=classes, patch=2 ** (depth + 1))


_RELEASED = re.compile("(?P<kind>G|DX)(?P<unet>_unet)?(?P<cond>_cond)?(?P<plain>_nn_residual)?")
_KINDS = {"G": ("generator", _generator_spec), "DX": ("discriminator", _discriminator_spec)}
