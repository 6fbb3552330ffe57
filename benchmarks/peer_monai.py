# SPDX-License-Identifier: MIT
"""MONAI's sliding window over the paper's generator, written plainly in torch, on one image.

    python peer_monai.py IMAGE PATCH STEP FOLDER KERNEL

The interpolation is the cubic spline that ours takes, reading and writing are SimpleITK's.
"""

import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import nn

BLOCKS = 6


def conv(channels, filters, size, stride=1):
    return nn.Conv3d(channels, filters, size, stride, size // 2, bias=False, padding_mode="reflect")


def normalised(channels, filters, size, stride=1):
    norm = nn.InstanceNorm3d(filters, affine=True)
    return nn.Sequential(conv(channels, filters, size, stride), norm, nn.ReLU())


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        last = conv(channels, channels, 3), nn.InstanceNorm3d(channels, affine=True)
        self.body = nn.Sequential(normalised(channels, channels, 3), *last)

    def forward(self, x):
        return x + self.body(x)


def generator(k):
    return nn.Sequential(
        normalised(1, k, 7),
        normalised(k, 2 * k, 3, 2),
        normalised(2 * k, 4 * k, 3, 2),
        *(Block(4 * k) for _ in range(BLOCKS)),
        nn.Upsample(scale_factor=2),
        normalised(4 * k, 2 * k, 3),
        nn.Upsample(scale_factor=2),
        normalised(2 * k, k, 3),
        conv(k, 2, 7),
    )


def main(image, patch, step, folder, kernel):
    scan = sitk.ReadImage(image)
    array = sitk.GetArrayFromImage(scan).astype(np.float32).T
    fine = torch.from_numpy(ndimage.zoom(array / array.max(), scan.GetSpacing(), order=3))
    body, patch, overlap = generator(int(kernel)).eval(), int(patch), 1 - int(step) / int(patch)

    def network(x):
        y = body(x).float()
        return torch.cat([x - y[:, :1], torch.sigmoid(y[:, 1:])], 1)

    with torch.inference_mode():
        result = sliding_window_inference(fine[None, None], (patch,) * 3, 1, network, overlap)
    sr, cortex = result[0].numpy()
    for name, values in (("sr", sr), ("cortex", cortex), ("mask", (cortex > 0.5).astype("uint8"))):
        written = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
        sitk.WriteImage(written, str(Path(folder) / f"monai_{name}.nii.gz"))


if __name__ == "__main__":
    main(*sys.argv[1:])
