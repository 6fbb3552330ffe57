# SPDX-License-Identifier: MIT
"""The released SegSRGAN 2.2.4 on one image, for a Python 3.7 of its own.

    python3.7 peer_original.py IMAGE PATCH STEP FOLDER WEIGHTS

What its own command does, without its download of weights.
"""

import os
import sys

import SegSRGAN

sys.path.insert(0, os.path.dirname(SegSRGAN.__file__))  # it imports `utils` from there


def main(image, patch, step, folder, weights):
    from SegSRGAN.Function_for_application_test_python3 import segmentation

    cortex, sr = (os.path.join(folder, "original_" + name) for name in ("c.nii.gz", "sr.nii.gz"))
    segmentation(image, int(step), (1, 1, 1), cortex, sr, weights, "Spline", int(patch))


if __name__ == "__main__":
    main(*sys.argv[1:])
