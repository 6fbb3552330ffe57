# SPDX-License-Identifier: MIT
"""Reads the weight files of the released SegSRGAN (HDF5 written by Keras 2.2.4).

Each network is a root group named after its variant, `G[_unet][_cond][_nn_residual]` and
`DX[_cond]`; the attribute `weight_names` of a group lists its arrays as
`<group>_<layer>/<weight>:0`. Everything is found by these names. Kernels are stored
(kx, ky, kz, in, out), as ours are.
"""

import re

import numpy as np

from segsrgan.networks.discriminator import DiscriminatorSpec
from segsrgan.networks.generator import GeneratorSpec

_GENERATOR = re.compile(r"G(?P<unet>_unet)?(?P<cond>_cond)?(?P<plain>_nn_residual)?$")
_DISCRIMINATOR = re.compile(r"DX(?P<cond>_cond)?$")


def is_original(file):
    """Whether an open `h5py.File` has the layout of a Keras 2 weights file."""
    return "layer_names" in file.attrs or any(
        "weight_names" in group.attrs for group in _groups(file).values()
    )


def read_original(file):
    """Reads both networks of an open `h5py.File` in the released layout.

    Returns:
        `{"generator": (spec, arrays), "discriminator": (spec, arrays)}`, with the networks that
        are there; `arrays` maps `layer/weight` to float32 arrays. Empty if there is none.
    """
    networks = {}
    for name, group in _groups(file).items():
        if match := _GENERATOR.match(name):
            arrays = _read_group(name, group)
            networks["generator"] = (_generator_spec(match, arrays), arrays)
        elif match := _DISCRIMINATOR.match(name):
            arrays = _read_group(name, group)
            networks["discriminator"] = (_discriminator_spec(match, arrays), arrays)
    return networks


def _groups(file):
    import h5py

    # model.save() puts the weights one level down, save_weights() at the root.
    root = file["model_weights"] if "model_weights" in file else file
    return {name: item for name, item in root.items() if isinstance(item, h5py.Group)}


def _read_group(name, group):
    arrays = {}
    for entry in _names(group.attrs, "weight_names"):
        key = entry.removesuffix(":0").removeprefix(f"{name}_")
        arrays[key] = np.asarray(group[entry], dtype=np.float32)
    return arrays


def _names(attributes, key):
    """A list attribute; long ones are split into `key0`, `key1`, ..."""
    if key in attributes:
        chunks = [attributes[key]]
    else:
        chunks = []
        while f"{key}{len(chunks)}" in attributes:
            chunks.append(attributes[f"{key}{len(chunks)}"])
    return [n.decode() if isinstance(n, bytes) else str(n) for chunk in chunks for n in chunk]


def _generator_spec(match, arrays):
    first, last = arrays.get("gen_conv1/kernel"), arrays.get("gen_1conv/kernel")
    if first is None or last is None:
        return None
    return GeneratorSpec(
        kernel=first.shape[-1],
        unet=bool(match["unet"]),
        conditional=bool(match["cond"]),
        residual=not match["plain"],
        mask_classes=last.shape[-1] - 2,
    )


def _discriminator_spec(match, arrays):
    first = arrays.get("conv_dis_1/kernel")
    if first is None:
        return None
    conditional = bool(match["cond"])
    depth = sum(key.endswith("/kernel") and key.startswith("conv_dis") for key in arrays)
    return DiscriminatorSpec(
        kernel=first.shape[-1],
        conditional=conditional,
        mask_classes=first.shape[-2] - 2 - conditional,
        patch=2 ** (depth + 1),
    )
