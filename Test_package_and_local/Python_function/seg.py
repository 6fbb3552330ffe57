# SPDX-License-Identifier: MIT
"""Call `segmentation` on one image and show what it wrote."""

import argparse
import sys
from pathlib import Path

from make_csv import testing_images

from segsrgan import read_volume, segmentation
from segsrgan.networks import default_weights


def main(argv=None):
    """Segment one image; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", "--image_path", type=Path, help="default: the first image found")
    arguments = parser.parse_args(argv)
    image = arguments.image_path or testing_images()[0]
    results = image.resolve().parent / "Result_segmentation_function"
    results.mkdir(exist_ok=True)
    segmentation(
        input_file_path=str(image),
        step=64,
        new_resolution=(0.5, 0.5, 0.5),
        patch=128,
        path_output_cortex=str(results / "cortex.nii.gz"),
        path_output_hr=str(results / "SR.nii.gz"),
        weights_path=default_weights(),
    )
    for path in sorted(results.iterdir()):
        grid = read_volume(path).grid
        print(f"{path}: {grid.shape} voxels of {grid.spacing} mm")
    return 0


if __name__ == "__main__":
    sys.exit(main())
