# SPDX-License-Identifier: MIT
"""What the bundled weights make of real scans, for the eye.

    python benchmarks/pictures.py --data FOLDER [--weights NAME] [--output docs/images]

An axial T2 of an adult, out of a DICOM folder with several series; an adult's FLAIR-like scan of
thick slices; a stack of a fetus in motion, cut to its brain by its mask. For each a picture with
three planes: the scan, its cubic spline interpolation, the result, the segmentation.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parent.parent / "docs" / "images"
COLUMNS = ("scan", "cubic spline", "SegSRGAN", "segmentation")


def scans(folder):
    """Yields (name, Volume, resolution of the result in mm)."""
    from segsrgan import read_volume

    yield "dicom_t2", read_volume(folder / "dicom" / "mixed_folder", series="AX FSE T2"), 0.8
    yield "clinical", read_volume(next((folder / "clinical").glob("*.nii.gz"))), 1.0
    stack = read_volume(folder / "fetal_stacks" / "sub-01_run-1_T2w.nii.gz")
    mask = read_volume(folder / "fetal_stacks" / "sub-01_run-1_T2w_desc-brain_mask.nii.gz")
    yield "fetal_stack", brain_of(stack, mask), 0.8


def brain_of(stack, mask):
    """A stack cut to its mask, 0 outside."""
    from segsrgan import Volume

    inside = mask.array > 0.5
    box = tuple(slice(max(0, index.min() - 8), index.max() + 9) for index in np.nonzero(inside))
    corner = [part.start for part in box]
    return Volume(
        np.where(inside, stack.array, 0)[box].astype(np.float32),
        stack.spacing,
        tuple(stack.grid.index_to_physical(corner)),
        stack.direction,
    )


def draw(path, scan, spline, result):
    """Saves the picture; all volumes have one field of view and the same axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    top = np.percentile(spline.array[spline.array > spline.array.mean()], 99)
    volumes = (scan, spline, result.sr, result.sr)
    figure, panels = plt.subplots(3, len(volumes), figsize=(2.6 * len(volumes), 7.6))
    for row, (axis, part) in enumerate(zip(range(3), (0.42, 0.45, 0.55), strict=True)):
        across, up = (k for k in range(3) if k != axis)
        for column, (title, volume) in enumerate(zip(COLUMNS, volumes, strict=True)):
            panel = panels[row, column]
            size = np.array(volume.array.shape) * volume.spacing
            extent = (0, size[across], 0, size[up])
            how = {"origin": "lower", "extent": extent}
            index = int(part * volume.array.shape[axis])
            panel.imshow(volume.array.take(index, axis).T, "gray", vmin=0, vmax=top, **how)
            if column == len(volumes) - 1:
                cortex = result.cortex_mask.array.take(index, axis).T
                panel.imshow(np.ma.masked_equal(cortex, 0), "autumn", alpha=0.5, **how)
            panel.axis("off")
            if row == 0:
                panel.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", help="name or file (default: the bundled)")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from segsrgan import Predictor
    from segsrgan.volumes import resample

    predictor = Predictor(args.weights)
    for name, scan, resolution in scans(args.data):
        start = time.perf_counter()
        result = predictor.predict(scan, 128, 64, (resolution,) * 3)
        print(
            f"{name}: {scan.array.shape} of {np.round(scan.spacing, 2)} mm to "
            f"{result.sr.array.shape} of {resolution} mm, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        draw(args.output / f"{name}.png", scan, resample(scan, (resolution,) * 3), result)


if __name__ == "__main__":
    main()
