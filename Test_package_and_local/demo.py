# SPDX-License-Identifier: MIT
"""From a thick-sliced brain MRI to an isotropic image and a cortex segmentation, with scores.

The truth is the 1 mm T1 template that nilearn carries. It is degraded to slices of 4 mm, given to
`job_model.py` in a CSV as a user would, and what comes back is compared with the truth beside
cubic spline interpolation.
"""

import argparse
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from segsrgan import Volume, read_volume, write_volume
from segsrgan.volumes import degrade, dice, psnr, resample, resample_to, ssim

LOW_RESOLUTION = (1.0, 1.0, 4.0)
HIGH_RESOLUTION = (1.0, 1.0, 1.0)
PATCH, STEP = 128, 64
# Where the picture cuts the brain, as fractions of the volume: beside the midline, to see cortex.
CUTS = (0.36, 0.45, 0.55)


def load_truth(folder):
    """Write nilearn's template, grey matter and brain mask as NIfTI and read them as Volumes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn import datasets

        images = {
            "t1": datasets.load_mni152_template(resolution=1),
            "grey_matter": datasets.load_mni152_gm_template(resolution=1),
            "brain": datasets.load_mni152_brain_mask(resolution=1),
        }
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.to_filename(folder / f"{name}.nii.gz")
    return [read_volume(folder / f"{name}.nii.gz") for name in images]


def run_job_model(folder, image):
    """Run the command on a CSV with one image; return the SR and cortex probability Volumes."""
    (folder / "data.csv").write_text(f"{image.name}\n")
    command = [sys.executable, str(Path(sys.executable).with_name("job_model.py"))]
    command += ["--path", "data.csv", "--patch", str(PATCH), "--step", str(STEP)]
    command += ["--new_low_res", ",".join(f"{size:g}" for size in HIGH_RESOLUTION)]
    command += ["--result_folder_name", "demo", "--overwrite"]
    print(f"In {folder}:\n  {' '.join([Path(command[1]).name, *command[2:]])}", flush=True)
    status = subprocess.run(command, cwd=folder).returncode
    if status:
        sys.exit(f"job_model.py failed with status {status}")
    pair = f"patch_{PATCH}_step_{STEP}"
    results = folder / "Result_with_demo" / pair
    return [read_volume(results / f"{kind}_{pair}.nii.gz") for kind in ("SR", "Cortex")]


def onto(volume, truth):
    """Bring a volume to the truth's grid, of which its own is a continuation: no value changes.

    Both begin at the same corner; 189 slices of 1 mm make 48 of 4 mm, which make 192 of 1 mm.
    """
    offset = np.abs(volume.grid.physical_to_index(truth.origin)).max()
    if offset > 1e-3 or not np.allclose(volume.spacing, truth.spacing, atol=1e-5):
        raise ValueError(f"the result is not on the truth's grid: first voxels {offset} apart")
    return resample_to(volume, truth.grid, interp="sitk", interpolation_type="NearestNeighbor")


def plane(volume, truth, axis):
    """Return a slice of the volume at the truth's cut, as imshow wants it, and its extent in mm."""
    cut = (np.array(CUTS) * truth.array.shape).astype(int)
    index = volume.grid.physical_to_index(truth.grid.index_to_physical(cut))[axis]
    index = int(np.clip(np.rint(index), 0, volume.array.shape[axis] - 1))
    across, up = (i for i in range(3) if i != axis)
    size = np.array(volume.array.shape) * volume.spacing
    return volume.array.take(index, axis=axis).T, (0, size[across], 0, size[up])


def save_picture(path, truth, columns, outline):
    """Draw three planes of every column, cut to the head, the outline over the last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, len(columns), figsize=(3.1 * len(columns), 9.6))
    top = np.percentile(truth.array[truth.array > 0], 99.5)
    head = np.argwhere(truth.array > 0.1 * top)
    first, last = (head.min(0) - 4) * truth.spacing, (head.max(0) + 5) * truth.spacing
    for column, (title, volume) in enumerate(columns):
        axes[0, column].set_title(title)
        for row, (across, up) in enumerate([(1, 2), (0, 2), (0, 1)]):
            panel = axes[row, column]
            pixels, extent = plane(volume, truth, row)
            panel.imshow(pixels, "gray", origin="lower", extent=extent, vmin=0, vmax=top)
            if column == len(columns) - 1:
                pixels, extent = plane(outline, truth, row)
                panel.contour(pixels, [0.5], colors="red", linewidths=0.6, extent=extent)
            panel.set(xlim=(first[across], last[across]), ylim=(first[up], last[up]))
            panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv=None):
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_results"))
    folder = parser.parse_args(argv).output.resolve()
    logging.basicConfig(level=logging.WARNING)
    start = time.perf_counter()

    truth, grey_matter, brain = load_truth(folder / "truth")
    low = degrade(truth, LOW_RESOLUTION)
    write_volume(low, folder / "t1_thick.nii.gz")
    print(f"Input: {low.array.shape} voxels of {tuple(low.spacing)} mm", flush=True)
    result, cortex = (onto(v, truth) for v in run_job_model(folder, folder / "t1_thick.nii.gz"))
    spline = onto(resample(low, HIGH_RESOLUTION), truth)

    inside = brain.array > 0.5
    print(f"\n{'inside the brain':<20}{'PSNR':>8}{'SSIM':>8}")
    for name, volume in (("cubic spline", spline), ("SegSRGAN", result)):
        scores = [score(truth.array, volume.array, mask=inside) for score in (psnr, ssim)]
        print(f"{name:<20}{scores[0]:>8.2f}{scores[1]:>8.4f}")
    overlap = dice(cortex.array > 0.5, grey_matter.array > 0.5)
    print(f"Dice of the cortex against the grey-matter map: {overlap:.3f}\n")

    columns = [("input, 4 mm slices", low), ("cubic spline", spline), ("SegSRGAN", result)]
    columns += [("truth", truth), ("segmentation", result)]
    outline = Volume.from_grid((cortex.array > 0.5).astype(np.float32), cortex.grid)
    save_picture(folder / "demo.png", truth, columns, outline)
    print(f"Picture: {folder / 'demo.png'}")
    print(f"Image and segmentation: {folder / 'Result_with_demo'}")
    print(f"Input and truth: {folder / 't1_thick.nii.gz'}, {folder / 'truth'}")
    print(f"Time: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
