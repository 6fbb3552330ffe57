# SPDX-License-Identifier: MIT
"""What the tests of the networks share: every variant, random weights, the released layout."""

import itertools

import h5py
import numpy as np

from segsrgan.networks import GeneratorSpec, build_generator
from segsrgan.networks.architecture import simplified_arrays
from segsrgan.networks.models import assign_weights, read_weights

_FLAGS = list(itertools.product((False, True), repeat=3))
# Those that the released original does not have.
_FURTHER = [
    GeneratorSpec(2, unet=True, scaled=True, blocks=3, growth=3, head=3),
    GeneratorSpec(2, blocks=2),
    GeneratorSpec(levels=(3, 4), scaled=True, blocks=1),
    GeneratorSpec(levels=(3, 4), conditional=True, mask_classes=3),
]
ALL_VARIANTS = [GeneratorSpec(2, *flags, c) for flags in _FLAGS for c in (0, 3)] + _FURTHER
# Half of them, for what takes long: each of three fields with each value of the others.
RELEASED_VARIANTS = [GeneratorSpec(2, *flags, 3 * (sum(flags) % 2)) for flags in _FLAGS]
VARIANTS = RELEASED_VARIANTS + _FURTHER


def name_of(spec):
    """A readable name of a variant, for pytest."""
    words = [
        "unet" if spec.unet else "resnet",
        "conditional" if spec.conditional else "",
        "residual" if spec.residual else "direct",
        f"{spec.mask_classes}classes",
        f"{spec.blocks}blocks" if spec.blocks else "",
        f"growth{spec.growth}" if spec.growth != 2 else "",
        f"head{spec.head}" if spec.head != 7 else "",
        f"levels{spec.levels}" if spec.levels else "",
    ]
    return "-".join(filter(None, words))


def simplified(model, patch=None, formulation="fast"):
    """The model of the image alone that computes what a conditional one computes."""
    spec, arrays = simplified_arrays(model.spec, read_weights(model))
    return assign_weights(build_generator(spec, patch, formulation), arrays)


def randomise(model, seed=0):
    """Gives a model random weights, norms included."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        loc = 1.0 if variable.name == "scale" else 0.0
        variable.assign(rng.normal(loc, 0.1, variable.shape).astype("float32"))
    return model


def inputs_for(spec, shape=(2, 8, 12, 16), seed=1):
    """Random input of a generator; JAX compiles each shape, so most tests share the default."""
    image = np.random.default_rng(seed).random((*shape, 1), dtype="float32")
    return [image, np.full_like(image, 3.0)] if spec.conditional else image


def run(model, inputs):
    """A model's output as NumPy."""
    return np.asarray(model(inputs, training=False))


def write_released(path, generator, discriminator=None, split=False):
    """Writes models in the layout of Keras 2.2.4's `save_weights`.

    `split` breaks the list of names into `weight_names0`, `weight_names1`, as old files do.
    """
    spec = generator.spec
    words = "_unet" * spec.unet, "_cond" * spec.conditional, "_nn_residual" * (not spec.residual)
    models = {"G" + "".join(words): generator}
    if discriminator is not None:
        models["DX_cond" if discriminator.spec.conditional else "DX"] = discriminator
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in models])
        for network, model in models.items():
            group, names = file.create_group(network), []
            for name, array in read_weights(model).items():
                prefix = "" if name.startswith("dis_decision") else f"{network}_"
                group[f"{prefix}{name}:0"] = array
                names.append(f"{prefix}{name}:0".encode())
            half = len(names) // 2
            parts = {"0": names[:half], "1": names[half:]} if split else {"": names}
            for number, part in parts.items():
                group.attrs[f"weight_names{number}"] = np.array(part)
