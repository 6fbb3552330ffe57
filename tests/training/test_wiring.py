# SPDX-License-Identifier: MIT
"""Every flag of the training reaches what it is for."""

import hashlib

import keras
import numpy as np
from keras import ops
from training.command import GAN, Command

from segsrgan.training.run import Loop


def losses(gan):
    """The losses of random images and a linear critic."""
    shape = (2, 16, 16, 16, gan.generator.spec.channels)
    target, output = np.random.default_rng(0).random((2, *shape), "float32")

    def critic(images):
        return ops.sum(images, axis=(1, 2, 3, 4))[:, None]

    epsilon = np.full(2, 0.5, "float32")
    critical = gan.discriminator_loss(critic, lambda _, images: images, target, output, epsilon)
    return [float(loss) for loss, _ in (critical, gan.generator_loss(critic, target, output))]


def fingerprint(train, monkeypatch, flags):
    """Everything that a training starts with, without the training."""
    seen = {}

    def look(self):
        batches = self.data.stream(range(1, 2), self.discriminator_updates)
        digest = hashlib.sha256()
        for index, batch in enumerate(batches):
            if index % (self.discriminator_updates + 1) == 0:
                digest.update(b"".join(array.tobytes() for array in batch))
        gan = self.networks
        seen["data"] = digest.hexdigest()
        seen["memory"] = self.data.memory()
        seen["test"] = sum(float(batch.lr.sum()) for batch in self.test.all_patches())
        seen["generator"] = gan.generator.spec
        seen["discriminator"] = gan.discriminator and gan.discriminator.spec
        seen["weights"] = float(sum(np.abs(w).sum() for w in gan.generator.get_weights()))
        seen["objective"] = losses(gan)
        seen["precision"] = gan.generator.layers[1].compute_dtype
        rates = (gan.generator_optimizer, gan.discriminator_optimizer)
        seen["rates"] = [float(o.learning_rate) if o else None for o in rates]
        seen["optimizer"] = (rates[0].beta_1, rates[0].ema_momentum, gan.clip_gradient)
        seen["loop"] = (self.discriminator_updates, self.snapshot, self.epochs, self.state_minutes)
        seen["records"] = self.history._board is None

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", look)
        assert train(GAN, "--epoch 1", flags, run=f"run_{len(flags)}_{abs(hash(flags))}") == 0
    keras.config.set_dtype_policy("float32")
    return seen


FLAGS = {
    "--new_low_res 1 1 5": "data test",
    "--slice_thickness 5": "data test",
    "--contrast_max 0.1": "data",
    "--percent_val_max 0.2": "data",
    "--patch_size 32": "data discriminator memory",
    "--stride 4": "data",
    "--interp sitk --interpolation_type Linear": "data test generator",
    "--interp profile": "data test generator",
    "--image_cropping_method overlapping_with_mask": "data",
    "--fit_mask True": "data generator discriminator",
    "--flip False": "data",
    "--rotation 10": "data",
    "--elastic 3": "data",
    "--images_in_memory 1": "data",
    "--batch_size 3": "data",
    "--seed 1": "data weights",
    "--kernel_gen 3": "generator weights",
    "--kernel_dis 3": "discriminator",
    "--u_net_generator True": "generator",
    "--is_conditional True": "generator discriminator",
    "--is_residual False": "generator",
    "--scaled_residual True": "generator",
    "--blocks_gen 3": "generator weights",
    "--growth_gen 3": "generator weights",
    "--head_gen 3": "generator weights",
    "--slice_voxels 4": "data test generator",
    "--lambrec 2": "objective",
    "--lambadv 0.01": "objective",
    "--lambgp 10": "objective",
    "--nu 0.1": "objective",
    "--reconstruction_loss balanced": "objective",
    "--reconstruction_loss balanced --lambda_image 2": "objective",
    "--reconstruction_loss balanced --lambda_entropy 2": "objective",
    "--reconstruction_loss balanced --lambda_dice 2": "objective",
    "--zero_head True": "weights",
    "--steps 2": "data",
    "--schedule cosine --warm_up 3": "rates",
    "--beta_1 0.9": "optimizer",
    "--ema 0.9": "optimizer",
    "--clip_gradient 1": "optimizer",
    "--reconstruction_loss dice": "objective",
    "--lrgen 0.01": "rates",
    "--lrdis 0.01": "rates",
    "--number_of_disciminator_iteration 2": "loop",
    "--snapshot 2": "loop",
    "--epoch 2": "loop",
    "--state_minutes 1": "loop",
    "--precision mixed_bfloat16": "precision",
    "--tensorboard False": "records",
}


def test_every_flag_reaches_what_it_is_for(tmp_path, monkeypatch):
    train = Command(tmp_path)
    plain = fingerprint(train, monkeypatch, "")
    assert fingerprint(train, monkeypatch, " ") == plain
    for flags, parts in FLAGS.items():
        other = fingerprint(train, monkeypatch, flags)
        unchanged = [part for part in parts.split() if plain[part] == other[part]]
        assert not unchanged, f"{flags} changes nothing of {unchanged}"
