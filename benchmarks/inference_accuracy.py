# SPDX-License-Identifier: MIT
"""Child of `inference.py`: scores of the bundled weights by engine and precision.

nilearn's T1 template at 1 mm with simulated slices of 4 mm. PSNR (peak: the reference's maximum)
and SSIM inside the brain; Dice of the thresholded cortex with that of the grey-matter map above 0.5
and with the plain network's. Prints JSON: a row for each.
"""

import argparse
import json
import sys

import numpy as np
from inference_jobs import engines
from inference_plain import Plain
from nilearn import datasets

from segsrgan import Predictor, Volume
from segsrgan.networks import default_weights
from segsrgan.volumes import degrade, dice, psnr, ssim

RATIO = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, help="ignored: results do not change")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template)
    images = (load(resolution=1).get_fdata(dtype="float32") for load in loaders)
    low, high, patch = ((80, 100, 80), (112, 132, 112), 16) if args.small else (None, None, 64)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True)) if low else ...
    truth, grey = (image[box][..., : image[box].shape[2] // RATIO * RATIO] for image in images)
    scan = degrade(Volume(truth, (1.0, 1.0, 1.0)), (1.0, 1.0, float(RATIO)))
    rows, reference = [], None
    for pair in [("plain", "float32"), *engines()]:
        predictor = _predictor(*pair)
        result = predictor.predict(scan, patch, patch // 2, 1.0)
        image, cortex = result.sr.array, result.cortex_mask.array
        reference = cortex if reference is None else reference
        row = {
            "engine": pair[0],
            "precision": pair[1],
            "psnr": float(psnr(truth, image, truth > 0)),
            "ssim": float(ssim(truth, image, truth > 0)),
            "dice": float(dice(grey > 0.5, cortex)),
            "dice_with_plain": float(dice(reference, cortex)),
        }
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    if not all(np.isfinite(row["psnr"]) for row in rows):
        sys.exit("a PSNR is not finite: the crop holds no brain, or a result is the truth itself")
    print(json.dumps(rows))


def _predictor(engine, precision):
    if engine != "plain":
        return Predictor(engine=engine, precision=precision)
    plain = Plain(default_weights())
    predictor = Predictor(engine="tensorflow", batch_size=1)
    predictor.engine = plain
    return predictor


if __name__ == "__main__":
    main()
