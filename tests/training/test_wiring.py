# SPDX-License-Identifier: MIT
"""Every flag of the training reaches what it is for."""

import hashlib
from dataclasses import asdict

import keras
import numpy as np
from training.command import GAN, Command

from segsrgan.training.run import Loop


def fingerprint(train, monkeypatch, flags):
    """Everything that a training starts with, without the training."""
    seen = {}

    def look(self):
        digest, updates = hashlib.sha256(), self.discriminator_updates
        for index, batch in enumerate(self.data.stream(range(1, 2), updates)):
            if index % (updates + 1) == 0:
                digest.update(b"".join(array.tobytes() for array in batch))
        gan = self.networks
        seen.update(data=digest.hexdigest(), memory=self.data.memory())
        seen["test"] = sum(float(batch.lr.sum()) for batch in self.test.all_patches())
        for name, network in (("gen", gan.generator), ("dis", gan.discriminator)):
            seen.update({f"{name}_{k}": value for k, value in asdict(network.spec).items()})
        seen["weights"] = float(sum(np.abs(w).sum() for w in gan.generator.get_weights()))
        seen["precision"] = gan.generator.layers[1].compute_dtype
        for name in ("generator", "discriminator"):
            seen[f"rate_{name}"] = float(getattr(gan, f"{name}_optimizer").learning_rate)
        adam = gan.generator_optimizer
        seen.update(beta=adam.beta_1, ema=adam.ema_momentum, clip=gan.clip_gradient)
        seen.update(updates=updates, snapshot=self.snapshot, epochs=self.epochs)
        seen.update(minutes=self.state_minutes, records=self.history._board is None)

    monkeypatch.setattr(Loop, "run", look)
    assert train(GAN, "--epoch 1", flags, run=f"run_{len(flags)}_{abs(hash(flags))}") == 0
    keras.config.set_dtype_policy("float32")
    return seen


# What each of them changes can be told apart from what others do.
TOGETHER = (
    {
        "--kernel_gen 3": "gen_kernel weights",
        "--kernel_dis 3": "dis_kernel",
        "--is_conditional True": "gen_conditional dis_conditional",
        "--scaled_residual True": "gen_scaled",
        "--blocks_gen 3": "gen_blocks",
        "--growth_gen 3": "gen_growth",
        "--head_gen 3": "gen_head",
        "--lrgen 0.01": "rate_generator",
        "--lrdis 0.01": "rate_discriminator",
        "--beta_1 0.9": "beta",
        "--ema 0.9": "ema",
        "--clip_gradient 1": "clip",
        "--number_of_disciminator_iteration 2": "updates",
        "--snapshot 2": "snapshot",
        "--epoch 2": "epochs",
        "--state_minutes 1": "minutes",
        "--precision mixed_bfloat16": "precision",
        "--tensorboard False": "records",
    },
    {
        "--u_net_generator True": "gen_unet",
        "--is_residual False": "gen_residual",
        "--schedule cosine --warm_up 3": "rate_generator rate_discriminator",
        "--steps 2": "data",
    },
)
ALONE = {
    "--new_low_res 1 1 5": "data test",
    "--slice_thickness 5": "data test",
    "--contrast_max 0.1": "data",
    "--percent_val_max 0.2": "data",
    "--patch_size 32": "data dis_patch memory",
    "--stride 4": "data",
    "--interp sitk --interpolation_type Linear": "data test gen_interp",
    "--interp profile": "data test gen_interp",
    "--image_cropping_method overlapping_with_mask": "data",
    "--fit_mask True": "data gen_mask_classes dis_mask_classes",
    "--flip False": "data",
    "--rotation 10": "data",
    "--elastic 3": "data",
    "--images_in_memory 1": "data",
    "--batch_size 3": "data",
    "--seed 1": "data weights",
    "--slice_voxels 4": "data test gen_slice_voxels",
    "--zero_head True": "weights",
}


def test_every_flag_reaches_what_it_is_for(tmp_path, monkeypatch):
    train = Command(tmp_path)
    plain = fingerprint(train, monkeypatch, "")
    assert fingerprint(train, monkeypatch, " ") == plain
    for group in (*TOGETHER, *({flags: parts} for flags, parts in ALONE.items())):
        other = fingerprint(train, monkeypatch, " ".join(group))
        for flags, parts in group.items():
            unchanged = [part for part in parts.split() if plain[part] == other[part]]
            assert not unchanged, f"{flags} changes nothing of {unchanged}"
