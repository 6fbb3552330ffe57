# SPDX-License-Identifier: MIT
"""Examinations with a known answer: thick, moved stacks of any volume (Gu et al. 2023, sec. 3.1).

The volume is centred on its object, brought to an isotropic cube, and seen in three planes. In
each but the reference's the patient has moved rigidly; each is acquired in thick slices and has
its own contrast. `simulate` makes one in memory, `make_case` the files of one, `find_pairs` finds
the volumes of a public collection as it was unpacked.
"""

import csv
import io
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from segsrgan.errors import UserError, VolumeError, one_line
from segsrgan.files import ResultsFolder, files_below, stamp, write_text
from segsrgan.tables import expanded, image_files, is_image_name, stem
from segsrgan.volumes import Volume, degrade, read_volume, write_volume
from segsrgan.volumes.comparison import match
from supermask.folders import check_folder, leftovers
from supermask.geometry import Rigid, isotropic_grid, middle_of, sample, voxels_of, write_transform
from supermask.patients import safe_name, unused_name
from supermask.results import in_words
from supermask.settings import PLANES, Simulation
from supermask.views import View, read_mask

logger = logging.getLogger(__name__)

RECORD, TABLE = "case.json", "cases.csv"
# Names that files of a case may have.
_OURS = re.compile(r"(truth|truth_image|(axial|coronal|sagittal)(_mask)?)\.nii\.gz|true_\w+\.tfm")
_MIN_SIZE = 16  # voxels of a cube's edge
_CUT = 2.0  # percent of the voxels, at most, that auto-contrast makes black or white
# The ends of BraTS' names without suffix, of 2017 to 2021 and of 2023 on. In 2015 they were
# PATIENT/VSD.Brain.XX.O.MR_Flair.684/VSD.Brain.XX.O.MR_Flair.684.mha and, for the mask,
# VSD.Brain_3more.XX.O.OT.6560.
_ENDS = {
    "flair": ("_flair", "-t2f", r"\.mr_flair\.\d+$"),
    "t1": ("_t1", "-t1n", r"\.mr_t1\.\d+$"),
    "t1ce": ("_t1ce", "-t1c", r"\.mr_t1c\.\d+$"),
    "t2": ("_t2", "-t2w", r"\.mr_t2\.\d+$"),
}
_MASK = re.compile(r"(_seg|-seg|_labels|\.ot\.\d+)$")


@dataclass(frozen=True, eq=False)
class Case:
    """A simulated examination."""

    views: tuple[View, ...]  # with masks, one for each plane, the reference first
    transforms: tuple[Rigid, ...]  # the true one from the reference to each view
    truth: Volume  # uint8, the high-resolution mask in the pose of the reference
    image: Volume  # float32, the high-resolution image


def simulate(image, mask, rng, simulation=None):
    """Makes an examination of a volume.

    Args:
        image: a `Volume`; None: the mask is seen itself.
        mask: a `Volume`, voxels from 0.5 belong to the object.
        rng: a `numpy.random.Generator`.
        simulation: a `Simulation`.

    Returns:
        A `Case`.

    Raises:
        UserError: if the mask is empty, or a view would see nothing of the object.
    """
    simulation = simulation or Simulation()
    mask = mask.with_array((mask.array >= 0.5).astype(np.float32))
    if not mask.array.any():
        raise UserError("the mask is empty; there is no object to simulate views of")
    image = mask if image is None else image
    grid = _cube(mask, simulation)
    poses = [Rigid(centre=middle_of(grid))]
    poses += [_pose(grid, simulation, rng) for _ in simulation.planes[1:]]
    views = [
        _view(image, mask, grid, pose, plane, distance, simulation, rng)
        for pose, plane, distance in zip(poses, simulation.planes, simulation.slices, strict=True)
    ]
    truth = (sample(mask, grid) >= 0.5).astype(np.uint8)
    images = Volume.from_grid(truth, grid), Volume.from_grid(_moved(image, grid), grid)
    return Case(tuple(views), tuple(poses), *images)


def _cube(mask, simulation):
    """The isotropic cube around the object."""
    points, direction, size = voxels_of(mask), mask.direction, simulation.size
    if size is None:
        extent = float(np.ptp(points @ direction, axis=0).max())
        room = 1.5 * extent / simulation.spacing + 2 * simulation.shift
        size = max(_MIN_SIZE, 4 * round(room / 4))
    return isotropic_grid(points, direction, simulation.spacing, size)


def _pose(grid, simulation, rng):
    """A random motion: from points of the reference to the same anatomy in the view."""
    angles = np.deg2rad(rng.uniform(-1, 1, 3) * simulation.angle)
    shift = rng.uniform(-1, 1, 3) * simulation.shift * simulation.spacing
    return Rigid(angles, shift, middle_of(grid))


def _view(image, mask, grid, pose, plane, distance, simulation, rng):
    """A thick stack of the moved patient."""
    back = pose.inverse()
    spacing = np.full(3, simulation.spacing)
    spacing[PLANES.index(plane)] = distance  # the grid's axes are in the order of the patient's
    moved = degrade(Volume.from_grid(_moved(image, grid, back), grid), tuple(spacing))
    outline = degrade(Volume.from_grid(sample(mask, grid, back), grid), tuple(spacing))
    outline = outline.with_array((outline.array >= 0.5).astype(np.float32))
    if not outline.array.any():
        raise UserError(
            f"the {plane} view sees nothing of the object; take a larger size, or less motion"
        )
    array = moved.array
    if simulation.contrast:
        low, high = np.percentile(array, (rng.uniform(0, _CUT), 100 - rng.uniform(0, _CUT)))
        if high <= low:  # most of the volume is empty
            low, high = array.min(), array.max()
        array = np.clip((array - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
    if simulation.noise:
        noise = rng.standard_normal(array.shape, dtype=np.float32) * np.ptp(array)
        array = array + np.float32(simulation.noise) * noise
    return View(moved.with_array(array.astype(np.float32)), outline, plane)


def _moved(image, grid, transform=None):
    """An image's values on a grid; beyond its field of view its darkest, as air is in CT."""
    low = np.float32(image.array.min())
    return sample(image.with_array(image.array - low), grid, transform, order=3) + low


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """An examination to be made: of which files, where it goes, the seed of its random numbers."""

    mask: str
    image: str | None
    folder: Path
    seed: tuple[int, ...]
    base: str = "Train"
    channel: int = 0


def plan_cases(masks, images, output, *, repeat=1, test=0.0, seed=0, channel=0):
    """A `CasePlan` for each repetition of each mask and, unless they are None, its image.

    Of the volumes, the last ones, a fraction of `test`, are for testing.
    """
    if images and len(images) != len(masks):
        raise UserError(
            f"expected as many images as masks, received {len(images)} and {len(masks)}"
        )
    if repeat < 1 or not 0 <= test < 1 or seed < 0:
        raise UserError(
            "repeat must be at least 1, test from 0 to below 1, seed 0 or more, received "
            f"{repeat}, {test:g} and {seed}"
        )
    first_test = len(masks) - round(test * len(masks))
    plans, taken = [], set()
    for index, mask in enumerate(masks):
        name = unused_name(safe_name(stem(images[index] if images else mask)), taken, index + 1)
        files = {"mask": str(Path(mask)), "image": str(Path(images[index])) if images else None}
        base = "Test" if index >= first_test else "Train"
        for number in range(repeat):
            folder = name if repeat == 1 else f"{name}_{number + 1:02d}"
            place, seeds = Path(output) / folder, (seed, index, number)
            plans.append(CasePlan(**files, folder=place, seed=seeds, base=base, channel=channel))
    return plans


def make_case(plan, simulation, labels=None, overwrite=False):
    """Makes the examination of a `CasePlan` and writes it; a finished one is kept.

    Returns whether a whole one exists now; if not, the cause has been logged.
    """
    results = ResultsFolder(plan.folder, plan.folder.name, RECORD)
    # Before anything is read: what is replaced from here on has changed.
    entry = {
        **{name: value for name, value in vars(plan).items() if name != "folder"},
        "stamps": [path and stamp(path) for path in (plan.mask, plan.image)],
        "labels": labels,
        "simulation": asdict(simulation),
    }
    if results.entry() is not None and not overwrite:
        return _is_as_requested(plan.folder, results.entry(), entry)
    try:
        check_folder(results, overwrite)
        mask, image = read_mask(plan.mask, labels), None
        if plan.image is not None:
            image = read_channel(plan.image, plan.channel)
            mask, _ = match(mask, image.grid, plan.mask, plan.image)
            View(image, mask, path=plan.image)  # checks that they belong together
        case = simulate(image, mask, np.random.default_rng(plan.seed), simulation)
        _write(case, results, entry)
    except (ValueError, OSError, MemoryError) as error:
        logger.error("%s: %s", plan.mask, one_line(error))
        return False
    return True


def _is_as_requested(folder, made, requested):
    """Whether a finished examination is the one requested; logs if not."""
    requested = json.loads(json.dumps(requested))
    requested |= requested.pop("simulation")
    made = {**made, **made.get("simulation", {})}
    others = [name for name in requested if made.get(name) != requested[name]]
    others = [
        "files that have changed since" if name == "stamps" else f"{name} {made.get(name)}"
        for name in others
    ]
    if others:
        text = (
            "%s: is finished, but with %s; --overwrite makes it anew, or name another output folder"
        )
        logger.error(text, folder, ", ".join(others))
    else:
        logger.info("%s: is finished", folder)
    return not others


def _write(case, results, entry):
    reference = case.views[0].name
    pairs = list(zip(case.views, case.transforms, strict=True))
    volumes = {view.name: view.volume for view in case.views}
    volumes |= {
        f"{view.name}_mask": view.mask.with_array(view.mask.array.astype(np.uint8))
        for view in case.views
    }
    volumes |= {"truth": case.truth, "truth_image": case.image}
    entry = {**entry, "motion": {view.name: in_words(transform) for view, transform in pairs}}
    with results.replacing("", entry, leftovers(results, _OURS)) as folder:
        for name, volume in volumes.items():
            write_volume(volume, folder / f"{name}.nii.gz")
        for view, transform in pairs[1:]:
            write_transform(transform, folder / f"true_{view.name}_to_{reference}.tfm")


def check_table(output):
    """Raises `UserError` if the table's name is taken by a file of others."""
    path = Path(output) / TABLE
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        names = file.readline().rstrip().split(",")
    if names[0] != "patient" or names[-2:] != ["truth", "base"]:
        raise UserError(f"{path}: is not a table of simulated cases; name another output folder")


def write_table(output):
    """Writes the table of all cases in a folder, which `read_patients` reads; returns its path."""
    folders = sorted(path.parent for path in Path(output).glob(f"*/{RECORD}"))
    entries = {f.name: ResultsFolder(f, f.name, RECORD).entry() for f in folders}
    entries = {name: entry for name, entry in entries.items() if entry is not None}
    planes = list(dict.fromkeys(p for e in entries.values() for p in e["simulation"]["planes"]))
    text = io.StringIO()
    columns = ["patient", *planes, *(f"{p}_mask" for p in planes), "truth", "base"]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for name, entry in entries.items():
        seen = entry["simulation"]["planes"]
        files = [*seen, *(f"{plane}_mask" for plane in seen), "truth"]
        paths = {file: f"{name}/{file}.nii.gz" for file in files}
        writer.writerow({"patient": name, **paths, "base": entry["base"]})
    path = Path(output) / TABLE
    write_text(path, text.getvalue())
    return path


def find_pairs(folder, modality="flair"):
    """The volumes of a collection as sorted `(image, mask)` paths.

    The folder is that of a task of the Medical Segmentation Decathlon (with imagesTr and labelsTr),
    or of BraTS, in which masks may lie at any depth and of which the modality is "flair", "t1",
    "t1ce" or "t2". Raises `UserError` if there are none, or a mask has no image.
    """
    folder = expanded(folder)
    if modality not in _ENDS:
        raise UserError(f"modality must be one of {', '.join(_ENDS)}, received {modality!r}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give that of a collection")
    if (folder / "labelsTr").is_dir():
        pairs = [(folder / "imagesTr" / mask.name, mask) for mask in _images(folder / "labelsTr")]
    else:
        masks = [path for path in _images(folder) if _MASK.search(stem(path).lower())]
        pairs = [(_beside(mask, modality), mask) for mask in masks]
    if not pairs:
        raise UserError(
            f"{folder}: holds neither labelsTr, as tasks of the Medical Segmentation Decathlon do, "
            "nor masks of BraTS, whose names end with seg; name the files by --masks and --images"
        )
    missing = [str(mask) for image, mask in pairs if image is None or not image.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} masks have no image, such as {missing[0]}, or several "
            "that it may be; unpack the collection again, or name another modality"
        )
    return pairs


def _images(folder):
    """The images in a folder at any depth, but no hidden ones, which archives of macOS bring."""
    paths = sorted(files_below(folder))
    return [path for path in paths if path.name[0] != "." and is_image_name(path.name)]


def _beside(mask, modality):
    """The image of a mask of BraTS, None if it is missing or not the only one."""
    name, (*ends, old) = stem(mask).lower(), _ENDS[modality]
    if ".ot." in _MASK.search(name)[0]:
        # Unpacked as it is, each of a patient's volumes lies in a separate folder.
        folder = mask.parent if len(_images(mask.parent)) > 1 else mask.parent.parent
        found = [path for path in _images(folder) if re.search(old, stem(path).lower())]
    else:
        names = {_MASK.sub(end, name) for end in ends}
        found = [path for path in image_files(mask.parent) if stem(path).lower() in names]
    return found[0] if len(found) == 1 else None


def read_channel(path, channel=0):
    """One `Volume` of an image that may have several, as the Decathlon's brains do."""
    import SimpleITK as sitk

    from segsrgan.volumes.itk import from_itk, sitk_path

    reader = sitk.ImageFileReader()
    with sitk_path(path) as name:
        reader.SetFileName(name)
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            return read_volume(path)  # which can read more, or says what is wrong
        size = reader.GetSize()
        count = size[3] if len(size) == 4 else 1
        if not 0 <= channel < count:
            raise UserError(
                f"{path}: channel must be from 0 to {count - 1}, received {channel}; try 0"
            )
        if count == 1:
            return read_volume(path)
        reader.SetExtractSize([*size[:3], 0])
        reader.SetExtractIndex([0, 0, 0, channel])
        try:
            return from_itk(reader.Execute(), str(path))
        except RuntimeError as error:
            raise VolumeError(f"{path}: cannot be read ({str(error).splitlines()[-1]})") from error
