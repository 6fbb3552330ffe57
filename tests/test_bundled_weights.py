# SPDX-License-Identifier: MIT
"""The weights that come with the package, on a T1 template that their training never saw."""

import numpy as np
import pytest

from segsrgan import Predictor, Volume
from segsrgan.volumes import degrade, dice, psnr, resample_to, ssim

# What they must gain over the spline, dB and SSIM, and their Dice; well below what they do.
LEAST = (1.2, 0.015, 0.5)


@pytest.fixture(scope="module")
def template():
    """(image, grey matter, brain): a part of the nilearn template, arrays (96, 96, 64), 1 mm."""
    datasets = pytest.importorskip("nilearn.datasets")
    window = np.s_[50:146, 70:166, 80:144]
    load = (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_brain_mask,
    )
    image, grey, brain = (what(resolution=1).get_fdata(dtype="float32")[window] for what in load)
    return image / image.max(), grey > 0.5, brain > 0


@pytest.mark.parametrize(("axis", "inverted"), [(0, False), (2, True)])
def test_the_bundled_weights_beat_the_spline(axis, inverted, template):
    image, grey, brain = template
    if inverted:
        image = np.where(brain, 1.1 - image, 0).astype(np.float32)
    truth = Volume(image, (1.0, 1.0, 1.0))
    low = degrade(truth, [4.0 if k == axis else 1.0 for k in range(3)])
    spline = resample_to(low, truth.grid).array
    result = Predictor().predict(low, patch=64, step=32, new_resolution=1.0)
    gains = [f(image, result.sr.array, brain) - f(image, spline, brain) for f in (psnr, ssim)]
    found = (*gains, dice(result.cortex_mask.array, grey, brain))
    assert all(value > least for value, least in zip(found, LEAST, strict=True)), found
