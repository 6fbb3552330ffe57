# SPDX-License-Identifier: MIT
"""What the tests of the networks share: every variant, random weights, the released layout."""

import itertools

import h5py
import numpy as np

from segsrgan.networks import GeneratorSpec

VARIANTS = [
    GeneratorSpec(2, unet, conditional, residual, classes)
    for unet, conditional, residual, classes in itertools.product(
        (False, True), (False, True), (True, False), (0, 3)
    )
]
# And those that the released original does not have.
ALL_VARIANTS = [
    *VARIANTS,
    GeneratorSpec(2, unet=True, scaled=True, blocks=3, growth=3, head=3),
    GeneratorSpec(2, blocks=2),
]


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
    ]
    return "-".join(filter(None, words))


def randomise(model, seed=0):
    """Gives a model random weights, norms included."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        loc = 1.0 if variable.name == "scale" else 0.0
        variable.assign(rng.normal(loc, 0.1, variable.shape).astype("float32"))
    return model


def inputs_for(spec, shape=(1, 16, 20, 12), seed=1):
    """Random input of a generator."""
    image = np.random.default_rng(seed).random((*shape, 1), dtype="float32")
    return [image, np.full_like(image, 3.0)] if spec.conditional else image


def run(model, inputs):
    """A model's output as NumPy."""
    return np.asarray(model(inputs, training=False))


def group_name(spec):
    """The released files' name of a generator."""
    return (
        "G"
        + "_unet" * spec.unet
        + "_cond" * spec.conditional
        + "_nn_residual" * (not spec.residual)
    )


def write_released(path, generator, discriminator=None, split=False):
    """Writes models in the layout of Keras 2.2.4's `save_weights`.

    `split` breaks the list of names into `weight_names0`, `weight_names1`, as old files do.
    """
    models = {group_name(generator.spec): generator}
    if discriminator is not None:
        models["DX_cond" if discriminator.spec.conditional else "DX"] = discriminator
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in models])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.4"
        for group_name_, model in models.items():
            group = file.create_group(group_name_)
            names = []
            for layer in model.layers:
                prefix = "" if layer.name == "dis_decision" else f"{group_name_}_"
                for variable in layer.weights:
                    names.append(f"{prefix}{layer.name}/{variable.name}:0".encode())
                    group[names[-1].decode()] = np.asarray(variable.value)
            if split:
                half = len(names) // 2
                group.attrs["weight_names0"] = np.array(names[:half])
                group.attrs["weight_names1"] = np.array(names[half:])
            else:
                group.attrs["weight_names"] = np.array(names)
