# SPDX-License-Identifier: MIT
"""Child of `inference.py`: MONAI's sliding window over the same network in torch.

    python inference_monai.py IMAGE PATCH STEP FOLDER KERNEL

The interpolation is the cubic spline that ours takes, reading and writing are SimpleITK's.
"""

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from training_torch import Generator


def main(image, patch, step, folder, kernel):
    scan = sitk.ReadImage(image)
    array = sitk.GetArrayFromImage(scan).astype(np.float32).T
    array /= array.max()
    fine = ndimage.zoom(array, scan.GetSpacing(), order=3)
    network = Generator(int(kernel)).eval()
    patch, step = int(patch), int(step)
    with torch.inference_mode():
        result = sliding_window_inference(
            torch.from_numpy(fine)[None, None], (patch,) * 3, 1, network, overlap=1 - step / patch
        )
    sr, cortex = result[0].numpy()
    for name, values in (("sr", sr), ("cortex", cortex), ("mask", (cortex > 0.5).astype("uint8"))):
        written = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
        sitk.WriteImage(written, str(Path(folder) / f"monai_{name}.nii.gz"))


if __name__ == "__main__":
    main(*sys.argv[1:])
