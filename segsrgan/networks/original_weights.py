# SPDX-License-Identifier: MIT
"""Reads the weight files of the released SegSRGAN (HDF5 written by Keras 2.2.4).

Each network is a root group named after its variant, `G[_unet][_cond][_nn_residual]` and
`DX[_cond]`; the attribute `weight_names` of a group lists its arrays as
`<group>_<layer>/<weight>:0`. Everything is found by these names. Kernels are stored
(kx, ky, kz, in, out), as ours are.
"""

import re

from segsrgan.networks.architecture import (
    DiscriminatorSpec,
    GeneratorSpec,
    discriminator_shapes,
    generator_shapes,
)
from segsrgan.networks.hdf5 import declared_shapes, read_arrays, subgroups
from segsrgan.networks.outputs import channel_count

_GENERATOR = re.compile(r"G(?P<unet>_unet)?(?P<cond>_cond)?(?P<plain>_nn_residual)?$")
_DISCRIMINATOR = re.compile(r"DX(?P<cond>_cond)?$")


def read_original(file):
    """Reads both networks of an open `h5py.File` in the released layout.

    Returns:
        `{"generator": (spec, arrays), "discriminator": (spec, arrays)}`, with the networks that
        are there; `arrays` maps `layer/weight` to float32 arrays. Empty in files of another kind.

    Raises:
        UserError: if the arrays are not those of a network.
    """
    networks = {}
    for name, group in _groups(file).items():
        if match := _GENERATOR.match(name):
            network, spec_of, shapes_of = "generator", _generator_spec, generator_shapes
        elif match := _DISCRIMINATOR.match(name):
            network, spec_of, shapes_of = "discriminator", _discriminator_spec, discriminator_shapes
        else:
            continue
        names, declared = _names(name, group), declared_shapes(group)
        shapes = {ours: declared[theirs] for ours, theirs in names.items() if theirs in declared}
        if spec := spec_of(match, shapes):
            # A name that the list lacks is reported as it is.
            expected = {names.get(n, n): shape for n, shape in shapes_of(spec).items()}
            arrays = read_arrays(group, expected)
            networks[network] = spec, {n: arrays[names[n]] for n in shapes_of(spec)}
    return networks


def _groups(file):
    # model.save() puts the weights one level down, save_weights() at the root.
    groups = subgroups(file)
    return subgroups(groups["model_weights"]) if "model_weights" in groups else groups


def _names(name, group):
    """Our names of the arrays of a group -> those in the file."""
    listed = _list_attribute(group.attrs, "weight_names")
    return {entry.removesuffix(":0").removeprefix(f"{name}_"): entry for entry in listed}


def _list_attribute(attributes, key):
    """A list attribute; long ones are split into `key0`, `key1`, ..."""
    if key in attributes:
        chunks = [attributes[key]]
    else:
        chunks = []
        while f"{key}{len(chunks)}" in attributes:
            chunks.append(attributes[f"{key}{len(chunks)}"])
    return [n.decode() if isinstance(n, bytes) else str(n) for chunk in chunks for n in chunk]


def _generator_spec(match, shapes):
    first, last = shapes.get("gen_conv1/kernel"), shapes.get("gen_1conv/kernel")
    if first is None or last is None:
        return None
    return GeneratorSpec(
        kernel=first[-1],
        unet=bool(match["unet"]),
        conditional=bool(match["cond"]),
        residual=not match["plain"],
        mask_classes=last[-1] - channel_count(GeneratorSpec()),
    )


def _discriminator_spec(match, shapes):
    first = shapes.get("conv_dis_1/kernel")
    if first is None:
        return None
    plain = DiscriminatorSpec(conditional=bool(match["cond"]))
    depth = sum(key.endswith("/kernel") and key.startswith("conv_dis") for key in shapes)
    return DiscriminatorSpec(
        kernel=first[-1],
        conditional=plain.conditional,
        mask_classes=first[-2] - plain.channels,
        patch=2 ** (depth + 1),
    )
