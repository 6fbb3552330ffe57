# SPDX-License-Identifier: MIT
"""From three thick stacks of a moving patient to one high-resolution mask and image.

Real stacks of a fetus where the folder of real data is at hand (--data), three orthogonal planes
between which it has moved, twice. Otherwise nilearn's T1 template, as small as a fetus's brain,
of which `supermask-simulate` makes three stacks with 4 mm slices while it moves.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import supermask
from segsrgan import read_volume
from segsrgan.volumes import dice
from supermask.geometry import sample

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = os.environ.get("SEGSRGAN_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
PLANES = ("axial", "coronal", "sagittal")
# Two acquisitions of each plane.
EXAMINATIONS = {"first": (1, 3, 5), "second": (2, 4, 6)}
# Of an adult's brain to that of the fetuses whom the bundled weights know.
_SCALE = 0.55


def fetal_table(data, folder):
    """Write a CSV of the real stacks; return its path."""
    stem = Path(data).resolve() / "fetal_stacks" / "sub-01_run-"
    path = folder / "stacks.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["patient", *(f"{kind}_{k}" for kind in ("view", "mask") for k in (1, 2, 3))]
        )
        for name, runs in EXAMINATIONS.items():
            stacks = [f"{stem}{run}_T2w.nii.gz" for run in runs]
            masks = [f"{stem}{run}_T2w_desc-brain_mask.nii.gz" for run in runs]
            writer.writerow([name, *stacks, *masks])
    return path


def simulated_table(folder):
    """Write nilearn's template, simulate stacks of it, and return the path of their CSV."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nilearn import datasets

        found = {
            "t1": datasets.load_mni152_template(resolution=1),
            "brain": datasets.load_mni152_brain_mask(resolution=1),
        }
    for name, image in found.items():
        small = image.affine @ np.diag([_SCALE, _SCALE, _SCALE, 1])
        type(image)(image.get_fdata(), small).to_filename(folder / f"{name}.nii.gz")
    flags = ["--images", "t1.nii.gz", "--masks", "brain.nii.gz", "-o", "simulated", "--slices", "4"]
    flags += ["--spacing", "1", "--angle", "20", "--shift", "8", "--overwrite"]
    run("supermask-simulate", flags, folder)
    return folder / "simulated" / "cases.csv"


def shipped_weights():
    """The name of the first weights of SuperMask that come with the package, or None."""
    from segsrgan.networks.registry import available  # loads TensorFlow

    names = [entry["name"] for entry in available() if entry.get("kind") == "supermask"]
    return names[0] if names else None


def run(name, flags, folder):
    """Run a command of the package as a user would."""
    command = [str(Path(sys.executable).with_name(name)), *map(str, flags)]
    print(f"In {folder}:\n  {' '.join([name, *command[1:]])}", flush=True)
    status = subprocess.run(command, cwd=folder).returncode
    if status:
        raise SystemExit(f"{name} failed with exit status {status}")


def overlaps(patient):
    """{(plane, plane): Dice of the masks where headers put them} of a patient."""
    found = supermask.predict(patient.views, patient.masks, alignment="none")
    return {(item.first, item.second): item.dice for item in found.agreements}


def columns(patient, results):
    """(title, array) of every stack, as its header has it and aligned, and of the fused image."""
    image = read_volume(results / "image.nii.gz")
    views = {view.name: view for view in map(supermask.read_view, patient.views)}
    found = []
    for title in ("{}, by header", "{}, aligned"):
        for name, view in views.items():
            path = results / f"{name}_to_axial.tfm"
            if title.endswith("aligned") and not path.is_file():
                continue  # the reference is not moved
            pose = supermask.read_transform(path) if title.endswith("aligned") else None
            found.append((title.format(name), sample(view.volume, image.grid, pose, order=3)))
    return [*found, ("fused", image.array)]


def save_picture(path, pictures, mask):
    """Draw three planes through the middle of each picture, the mask's outline over them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, len(pictures), figsize=(2.4 * len(pictures), 7.4))
    middle = [n // 2 for n in mask.shape]
    for column, (title, array) in enumerate(pictures):
        axes[0, column].set_title(title, fontsize=9)
        for row in range(3):
            panel, shown = axes[row, column], array.take(middle[row], axis=row).T
            top = np.percentile(array[mask > 0], 99.5)
            panel.imshow(shown, "gray", origin="lower", vmin=0, vmax=top)
            outline = mask.take(middle[row], axis=row).T
            panel.contour(outline, [0.5], colors="red", linewidths=0.6)
            panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(argv=None):
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=DATA, help="folder of real data, with fetal_stacks")
    parser.add_argument("--output", type=Path, default=Path("demo_results") / "supermask")
    args = parser.parse_args(argv)
    folder, start = args.output.resolve(), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    real = (Path(args.data) / "fetal_stacks").is_dir()
    table = fetal_table(args.data, folder) if real else simulated_table(folder)
    name = None if real else shipped_weights()
    weights = ["--weights", name] if name else []
    run("supermask-predict", ["--path", table, "-o", "results", "--overwrite", *weights], folder)

    print(f"\n{'Dice of the masks':<34}{'by header':>12}{'aligned':>12}")
    for patient in supermask.read_patients(table):
        before, results = overlaps(patient), folder / "results" / patient.name
        record = json.loads((results / "results.json").read_text())
        for item in record["results"][""]["agreement"]:
            name = f"{patient.name}: {item['first']} and {item['second']}"
            print(f"{name:<34}{before[item['first'], item['second']]:>12.3f}{item['dice']:>12.3f}")
        mask = read_volume(results / "mask.nii.gz")
        if patient.truth is not None:
            truth = sample(read_volume(patient.truth), mask.grid) >= 0.5
            print(f"{patient.name}: Dice with the truth {dice(mask.array, truth):.3f}")
        save_picture(folder / f"{patient.name}.png", columns(patient, results), mask.array)
        print(f"Picture: {folder / f'{patient.name}.png'}")
    print(f"Masks, images, transforms: {folder / 'results'}")
    print(f"Time: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
