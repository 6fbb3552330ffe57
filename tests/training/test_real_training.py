# SPDX-License-Identifier: MIT
"""A short training on real volumes improves image and segmentation of one left out."""

import numpy as np
import pytest

from segsrgan import Predictor, read_volume, write_volume
from segsrgan.networks import default_weights, load_generator, save_generator
from segsrgan.networks.architecture import LAST_CONVOLUTION
from segsrgan.SegSRGAN_training import main
from segsrgan.volumes import degrade, dice, psnr

CORTEX = 5


def write_templates(source, folder):
    """Cortex labels of five templates and the CSV; the last one is the test image."""
    paths = sorted((source / "fetal_templates").glob("*_T2w.nii.gz"))[::3]
    lines = ["HR_image,Label_image,Base"]
    for index, path in enumerate(paths):
        labels = read_volume(str(path).replace("_T2w", "_labels"))
        cortex = labels.with_array((labels.array == CORTEX).astype("float32"))
        write_volume(cortex, folder / f"cortex{index}.nii.gz")
        base = "Test" if index == len(paths) - 1 else "Train"
        lines.append(f"{path},cortex{index}.nii.gz,{base}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return read_volume(paths[-1]), cortex.array > 0


def score(weights, truth, cortex):
    """PSNR inside the brain and Dice of the cortex, from slices four times as thick."""
    low = degrade(truth, tuple(np.array(truth.spacing) * (1, 1, 4)))
    result = Predictor(weights).predict(low, 128, 64, truth.spacing)
    window = tuple(slice(0, n) for n in truth.array.shape)
    quality = psnr(truth.array, result.sr.array[window], truth.array > 0)
    return quality, dice(result.cortex_mask.array[window] > 0, cortex)


@pytest.mark.slow
def test_a_short_training_improves_a_template_that_it_never_saw(data_dir, tmp_path):
    truth, cortex = write_templates(data_dir, tmp_path)
    # The last layer is to be learnt anew: the image is the interpolated one, the cortex everywhere.
    start, generator = tmp_path / "start", load_generator(default_weights())
    head = generator.get_layer(LAST_CONVOLUTION)
    head.set_weights([np.zeros_like(array) for array in head.get_weights()])
    save_generator(generator, start)
    run = tmp_path / "run"
    flags = "-n 0.8 0.8 3.2 --patch_size 64 --stride 40 --batch_size 4 --kernel_dis 8 --epoch 8"
    flags += " --number_of_discriminator_iteration 1 --lrgen 3e-3 --reconstruction_loss dice"
    outputs = ["-sf", run, "-dice", run / "dice.csv", "-mse", run / "mse.csv"]
    command = ["--csv", tmp_path / "data.csv", *flags.split(), *outputs, "--weights", start]
    assert main([str(word) for word in command]) == 0
    before = score(start, truth, cortex)
    after = score(run / "SegSRGAN_epoch_8", truth, cortex)
    assert after[0] > before[0] + 0.05
    assert after[1] > before[1] + 0.1
