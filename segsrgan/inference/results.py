# SPDX-License-Identifier: MIT
"""Where the results of a job lie, and whether they are there already.

`<image's folder>/Result_with_<name>/patch_64_step_32/SR_patch_64_step_32.nii.gz`, as in the
released original. For a DICOM folder the image's folder is the one it lies in, so that reading
it again never meets results. Where several images of a job lie in one folder, or where another
image's results are there already, the image's own name comes between:
`Result_with_<name>/<image>/patch_...`. `results.json` beside the `patch_...` folders says
which image they belong to and how they were made. With an output folder a folder below it stands
for the image's, see `choose_folders`. Or all results of a job lie side by side in one folder:
`t2_sr.nii.gz`, `t2_cortex.nii.gz`, and the record `t2.json`, see `choose_names`.
"""

import logging
import os
import platform
import re
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import (
    RECORD,
    ResultsFolder,
    files_below,
    fitting_name,
    has_content,
    real_path,
    remove,
    stamp,
)
from segsrgan.networks import outputs
from segsrgan.tables import IMAGE_SUFFIXES, stem

logger = logging.getLogger(__name__)

PREFIX = "Result_with_"
# Of the names of results on another grid than the result's own.
GRID_ENDS = ("_native", "_like")
DICOM_FOLDER, PAGE = "DICOM", "Report"  # their prefixes
_PAIR = re.compile(r"patch_(?:None|(\d+)_step_(\d+))")
# What the released original wrote, and what version 3.0 wrote at least.
_ORIGINAL = ("SR", "Cortex")
_VERSION_3_0 = ("SR", "Cortex", "Cortex_mask")


def result_files(heads=None):
    """The results that networks may give: dict, name of the result -> prefix of its file.

    Each of the heads, by default all of `segsrgan.networks.outputs`, has one, a probability a
    thresholded one, and those of one channel a map of disagreement, too. The others are no
    network's.
    """
    files = {}
    for head in outputs.HEADS if heads is None else heads:
        files[head.name] = head.file
        if head.activation == "sigmoid":
            files[f"{head.name}_mask"] = f"{head.file}_mask"
        if head.activation != "softmax":
            files[f"{head.name}_disagreement"] = f"{head.file}_disagreement"
    return files | {"invented": "Invented", "brain_mask": "Brain_mask"}


def is_map(name):
    """Whether a result of this name is a map of doubt."""
    return name == "invented" or name.endswith("_disagreement")


@dataclass(frozen=True)
class ImageResults:
    """The results of one image, for pairs of patch and step in voxels."""

    image: Path
    folder: Path  # that holds `patch_...`
    home: Path | None = None  # of `Result_with_...` where that is not the image's folder

    def label(self, pair):
        """The name of a pair's folder, such as `patch_64_step_32`."""
        patch, step = pair
        return "patch_None" if patch is None else f"patch_{patch}_step_{step}"

    def title(self, pair):
        """What messages call the results of a pair."""
        return f"{self.image}, {self.label(pair)}"

    def file_name(self, prefix, pair, suffix=".nii.gz"):
        """The name of a result file, such as `SR_patch_64_step_32.nii.gz`."""
        tail = "whole_image" if pair[0] is None else self.label(pair)
        return f"{prefix}_{tail}{suffix}"

    def entry(self, pair):
        """What the record says of a pair's whole results, a dict; empty where it says nothing."""
        return self.record.entry(self.label(pair)) or {}

    def is_finished(self, pair):
        """Whether all results of a pair are there.

        Without a record they are the released original's, which wrote no thresholded mask and did
        not tell the images of a folder apart.
        """
        label, prefixes = self.label(pair), _VERSION_3_0
        if not self.record.knows(label):
            prefixes = _ORIGINAL
            if self.home or self.folder.parent != self.image.parent or not _is_alone(self.image):
                return False
        elif (entry := self.record.entry(label)) is None or entry.get("files"):
            return entry is not None
        files = [self.folder / label / self.file_name(prefix, pair) for prefix in prefixes]
        return all(map(has_content, files))

    def has_changed(self, pair):
        """Whether the image is another than when the results of a pair were made, if known."""
        before = (self.entry(pair).get("inputs") or {}).get(self.image.name)
        return before is not None and stamp(self.image) not in (None, before)

    def claim(self):
        """Makes sure that no other image's results come here, whatever other processes do.

        Returns these results, or others further down if another image has taken this folder
        meanwhile; raises `UserError` if other images have taken all of them.
        """
        home = self.home or self.image.parent
        base = self.folder if self.folder.parent == home else self.folder.parent
        for folder in (self.folder, *_named_folders(self.image, base)):
            results = replace(self, folder=folder)
            if results.record.claim():
                return results
        raise UserError(
            f"the folders for its results in {base} belong to other images; take another "
            "--result_folder_name"
        )

    @contextmanager
    def replacing(self, pair, entry):
        """Results that take the place of a pair's when the context ends without an exception.

        Yields a function from a file's prefix, and its suffix if that is not .nii.gz, to the path
        to write it to; `entry` is a dict of JSON values for the record.
        """
        with self.record.replacing(self.label(pair), entry, self._possible(pair)) as folder:
            yield lambda prefix, *suffix: folder / self.file_name(prefix, pair, *suffix)

    def describe(self, path_of):
        """Writes what goes with results that were written by `path_of`, see `replacing`."""

    def release(self):
        """Ends a claim that nothing came of, where it would lie among other files."""

    def page(self, pair):
        """The `Path` of a pair's page, see `segsrgan.inference.pages`; it need not exist."""
        return self.folder / self.label(pair) / self.file_name(PAGE, pair, ".html")

    def _possible(self, pair):
        """The names that results of a pair may have, and what was made of them."""
        prefixes = [prefix + end for prefix in result_files().values() for end in ("", *GRID_ENDS)]
        others = self.file_name(DICOM_FOLDER, pair, ""), self.page(pair).name
        return [*(self.file_name(prefix, pair) for prefix in prefixes), *others]

    @property
    def record(self):
        """The `ResultsFolder`."""
        # Below one output folder images of many folders may have the same name.
        return ResultsFolder(self.folder, str(self.image) if self.home else self.image.name)


@dataclass(frozen=True)
class NamedResults(ImageResults):
    """The results of one image at one patch and step, beside those of others in one folder."""

    name: str = ""  # that the files begin with
    end: str = ""  # one of `GRID_ENDS` where they are on that grid alone

    def label(self, pair):
        """Empty: the files lie in the folder itself."""
        return ""

    def title(self, pair):
        """What messages call the results."""
        return str(self.image)

    def file_name(self, prefix, pair, suffix=".nii.gz"):
        """The name of a result file, such as `t2_sr.nii.gz`."""
        # `t2_cortex_mask` is a result of t2, not the classes of an image t2_cortex.
        kind = re.sub("^Mask", "classes", prefix).lower()
        return fitting_name(self.name, f"_{kind}{self.end}{suffix}")

    def is_finished(self, pair):
        """Whether all results are there, of whatever patch and step."""
        return bool(self.entry(pair))

    def claim(self):
        """Makes sure that no other results come here, whatever other processes do.

        Returns these results; raises `UserError` if files of these names belong to another image,
        or nobody knows to what.
        """
        if self.record.owner() is None:
            for name in self._possible((None, None)):
                if os.path.lexists(path := self.folder / name):
                    raise UserError(
                        f"{path}: exists already, and {self.record.name} does not say that it is a "
                        "result; move it away, or take another folder"
                    )
        if not self.record.claim():
            raise UserError(
                f"{self.folder / self.record.name} belongs to the results of another image; take "
                "another folder"
            )
        return self

    def release(self):
        """Removes the record if there are no results."""
        record = self.record
        if record.owner() == record.source and not record.labels():
            remove(self.folder / record.name)

    @property
    def record(self):
        """The `ResultsFolder`."""
        name = fitting_name(self.name, f"{self.end}.json")
        return ResultsFolder(self.folder, str(self.image), name)

    def _possible(self, pair):
        # Without those that other records of the scan name, of its results on other grids.
        others = (replace(self, end=end).record for end in ("", *GRID_ENDS) if end != self.end)
        entries = [other.entry() or {} for other in others if other.owner() == str(self.image)]
        known = {name for entry in entries for name in entry.get("files", ())}
        return [name for name in super()._possible(pair) if name not in known]


def choose_names(images, folder):
    """The `NamedResults` of every image of a job in one folder, each path once.

    They have the image's name; where several would have the same, or another image's results are
    there already, the names of the folders above it come before: `sub-01_anat_t2`. Raises
    `UserError` if all of these are taken.
    """
    names = {image: _longer_names(image) for image in images}
    counts = Counter(name for found in names.values() for name in found)
    chosen, taken = [], set()
    for image in images:
        # First those that no other image of the job could have.
        candidates = sorted(names[image], key=lambda name: counts[name] > 1)
        found = [NamedResults(image, Path(folder), name=n) for n in candidates if n not in taken]
        if not found:
            raise UserError(f"{image}: its results have no name left in {folder}; rename the image")
        owners = [(results, results.record.owner()) for results in found]
        own = [results for results, owner in owners if owner == str(image)]
        free = [results for results, owner in owners if owner is None]
        chosen.append((own + free + found)[0])
        taken.add(chosen[-1].name)
    return chosen


def _longer_names(image):
    """Names of an image's results: its own, then with its folder before it, and so on."""
    names = [stem(image)]
    for parent in image.parents:
        if parent.name:
            names.append(f"{parent.name}_{names[-1]}")
    return names


def choose_folders(images, name, output=None, start=None):
    """The `ImageResults` of every image of a job, each path once; see the module's text.

    `Result_with_` is put before the name where it is missing; raises `UserError` if it is not the
    name of a folder. Below `output`, if there is one, an image's folder has the path that it has
    in its BIDS data set (the folder of dataset_description.json), else in the folder `start`, else
    from the root. Of images that links lead to twice, with one place for their results, the
    second is left out with a warning.
    """
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        raise UserError(
            f"result_folder_name must be the name of a folder, without a path, received {name!r}"
        )
    name = PREFIX + name.removeprefix(PREFIX)
    homes = {i: _mirrored(i, Path(output), start) if output else i.parent for i in images}
    places = {image: real_path(home) for image, home in homes.items()}
    firsts = {(places[image], image.name): image for image in reversed(images)}
    together = Counter(place for (place, _), image in firsts.items() if os.path.exists(image))
    taken, chosen = set(), []
    for image in images:
        first = firsts[places[image], image.name]
        if first is not image:
            logger.warning("%s: is %s by a link and done once", image, first)
            continue
        home = homes[image]
        results = ImageResults(image, home / name, home if home != image.parent else None)
        chosen.append(_choose(results, together[places[image]] > 1, taken))
        taken.add(real_path(chosen[-1].folder))
    return chosen


def results_below(folder):
    """The results that the records in a folder and its subfolders name.

    Returns a list of (`ImageResults`, (patch, step) pair). The images are looked for where a job
    takes them from. Raises `UserError` if there is no record of a job.
    """
    folder, only = Path(os.path.abspath(folder)), None
    files = files_below(folder)
    records = [path for path in files if path.name == RECORD]
    found = [*filter(None, map(_named_results, files))]
    if not records and _PAIR.fullmatch(folder.name):
        records, only = [folder.parent / RECORD], folder.name
    for path in records:
        record = ResultsFolder(path.parent, "")
        home = next((f.parent for f in path.parents if f.name.startswith(PREFIX)), path.parent)
        image = home / str(record.owner())  # which is a path in a folder of --output
        for label in record.labels():
            if (match := _PAIR.fullmatch(label)) and only in (None, label):
                pair = tuple(number and int(number) for number in match.groups())
                found.append((ImageResults(image, path.parent), pair))
    if not found:
        raise UserError(
            f"{folder}: holds no results that a {RECORD} names; give a folder Result_with_... of "
            "job_model.py, or one above it, or an output folder of segsrgan predict"
        )
    return found


def recorded_files(folder):
    """The paths of the files in a folder that records of `NamedResults` there name, a set."""
    found = {path: ResultsFolder(folder, "", path.name) for path in Path(folder).glob("*.json")}
    names = [record.entry() or {} for record in found.values() if record.owner() is not None]
    return {Path(folder) / name for entry in names for name in entry.get("files", ())}


def found_results(image, folder):
    """The `ImageResults` of an image of which an `Outcome` names the folder."""
    if _PAIR.fullmatch(folder.name):
        return ImageResults(image, folder.parent)
    named = [NamedResults(image, folder, name=name) for name in _longer_names(image)]
    return next((item for item in named if item.record.owner() == str(image)), named[0])


def _named_results(path):
    """The `NamedResults` whose record a file is, and their pair; None if it is no such record."""
    if path.suffix != ".json" or path.name == RECORD:
        return None
    record = ResultsFolder(path.parent, "", path.name)
    results = NamedResults(Path(str(record.owner())), path.parent, name=path.stem)
    if results.file_name("SR", (None, None)) not in record.files():
        return None
    settings = results.entry((None, None)).get("settings") or {}
    return results, (settings.get("patch"), settings.get("step"))


def versions(*packages):
    """Of Python and what computes, by these packages among others, texts for the record."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", *packages):
        for package in (f"{name}-cpu", name):  # TensorFlow's without graphics cards
            with suppress(PackageNotFoundError):
                found[name] = version(package)
    return found


def weights_name(weights):
    """The name of weights, a registry name or a path, in result folders: no folder, no suffix."""
    return re.sub(r"(\.h5|\.hdf5|\.keras|\.weights)+$", "", Path(weights).name)


def _mirrored(image, output, start):
    """The folder below `output` that stands for an image's, see `choose_folders`."""
    data_sets = (f for f in image.parents if os.path.isfile(f / "dataset_description.json"))
    root = next(data_sets, start if start in image.parents else image.anchor)
    return output / image.parent.relative_to(root)


def _choose(results, shared, taken):
    """The results in the folder that is theirs already, else in the first that is nobody's."""
    image, base = results.image, results.folder
    candidates = [replace(results, folder=f) for f in (base, *_named_folders(image, base))]
    owners = {c: c.record.owner() for c in candidates if real_path(c.folder) not in taken}
    for candidate, owner in owners.items():
        if owner == candidate.record.source:
            return candidate
    # Results without a record may be those of any image beside it.
    if shared or (_has_results(base) and not _is_alone(image)):
        owners.pop(results, None)
    return next((c for c, owner in owners.items() if owner is None), candidates[-1])


def _named_folders(image, base):
    # The last one is for DICOM without a suffix beside an image of that name.
    return base / stem(image), base / image.name, base / f"{image.name}_dicom"


def _has_results(base):
    try:
        return any(base.glob("patch_*"))
    except (OSError, ValueError):  # not a possible path
        return False


def _is_alone(image):
    """Whether no other image lies in an image's folder; for a DICOM folder, no other folder."""
    try:
        with os.scandir(image.parent) as entries:
            others = {
                _header_name(entry)
                for entry in entries
                if entry.name.lower().endswith(IMAGE_SUFFIXES)
                or (image.is_dir() and entry.is_dir() and not entry.name.startswith(PREFIX))
            }
    except (OSError, ValueError):
        return False
    return others <= {_header_name(image)}


def _header_name(path):
    """The name of an image; Analyze's .img belongs to its .hdr."""
    return re.sub(r"\.img$", ".hdr", path.name, flags=re.IGNORECASE)
