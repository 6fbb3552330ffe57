# SPDX-License-Identifier: MIT
"""The released SegSRGAN 2.2.4 on one image, as its own command but for the download of weights.

python3.7 peer_original.py IMAGE PATCH STEP FOLDER WEIGHTS
"""

import os
import sys

import SegSRGAN

sys.path.insert(0, os.path.dirname(SegSRGAN.__file__))  # it imports `utils` from there
from SegSRGAN.Function_for_application_test_python3 import segmentation  # noqa: E402

image, patch, step, folder, weights = sys.argv[1:]
cortex, sr = (os.path.join(folder, "original_" + name) for name in ("c.nii.gz", "sr.nii.gz"))
segmentation(image, int(step), (1, 1, 1), cortex, sr, weights, "Spline", int(patch))
