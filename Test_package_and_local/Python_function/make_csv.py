# SPDX-License-Identifier: MIT
"""Write the CSV of the images below Image_for_testing or Image_for_training.

Where the folder is empty, small example images are made in `example` and taken instead.
"""

import argparse
import csv
import sys
from pathlib import Path

from example_images import for_testing, for_training

from segsrgan.tables import image_files

HERE = Path(__file__).resolve().parent.parent


def images_below(folder):
    """Return the image files and DICOM folders below a folder, results left out."""
    images = []
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        if any(part.startswith("Result_") for part in place.relative_to(folder).parts):
            continue
        if any(path.suffix.lower() in (".dcm", ".ima") for path in place.iterdir()):
            images.append(place)
        else:
            images += image_files(place)
    return images


def testing_images():
    """Return the images to test with, made here if there are none."""
    images = images_below(HERE / "Image_for_testing")
    if not images:
        print("Image_for_testing is empty: a small example image is made and used instead.")
        images = [for_testing(HERE / "example")]
    return images


def training_pairs():
    """Return the (image, label) pairs of Image_for_training, made here if there are none."""
    images, labels = (images_below(HERE / "Image_for_training" / kind) for kind in ("HR", "Label"))
    if not images and not labels:
        print("Image_for_training is empty: two small example volumes are made and used instead.")
        return for_training(HERE / "example")
    if len(images) < 2 or len(images) != len(labels):
        sys.exit(
            "Image_for_training needs two images in HR and their labels, in the same order, in "
            f"Label; found {len(images)} and {len(labels)}"
        )
    return list(zip(images, labels, strict=True))


def rows(kind):
    """Return the rows of the CSV, its header first where it has one."""
    if kind == "training":
        bases = ["Train", "Test"]
        pairs = training_pairs()[:2]
        body = [[*pair, base] for pair, base in zip(pairs, bases, strict=True)]
        return [["HR_image", "Label_image", "Base"], *body]
    images = testing_images()
    return [[path.relative_to(HERE) if kind == "relatif" else path] for path in images]


def main(argv=None):
    """Write the CSV that is asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["absolute", "relatif", "training"])
    parser.add_argument("csv", type=Path)
    arguments = parser.parse_args(argv)
    with arguments.csv.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows(arguments.kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
