# SPDX-License-Identifier: MIT
"""BIDS: which scans of a data set have thick slices, and results as its derivatives.

Names and metadata follow the Brain Imaging Data Structure 1.10 and its derivatives (Gorgolewski et
al. 2016; https://bids-specification.readthedocs.io).
"""

import csv
import io
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel

from segsrgan import __version__
from segsrgan.errors import UserError
from segsrgan.files import ResultsFolder, fitting_name, json_text, write_text
from segsrgan.inference.results import GRID_ENDS, NamedResults
from segsrgan.tables import stem

logger = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"
SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "inplaneT1", "inplaneT2")
_VERSION = "1.10.0"
_RAW = "raw"  # what the derivatives call the data set they are made from
_THICK = 1.5  # times the in-plane voxels: from here on a scan gains by super-resolution
# Entities in the order in which names have them.
_ENTITIES = (
    *("sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "part", "chunk"),
    *("space", "res", "label", "desc"),
)
# The end of a result's name, and what its sidecar says.
_SEGMENTED = {
    "Cortex": ({"label": "cortex"}, "probseg", {"Manual": False}),
    "Cortex_mask": ({"label": "cortex"}, "dseg", {"Manual": False}),
    "Brain_mask": ({"desc": "brain"}, "mask", {"Type": "Brain"}),
}
_RESOLUTIONS = {
    "": "That of the super-resolved image",
    "_native": "That of the scan",
    "_like": "That of another image",
}
_MEASURES = ("cortex_volume", "brain_volume", "head_volume", "cortex_thickness", "thickness")


class Program(NamedTuple):
    """A program that makes derivatives."""

    name: str
    title: str  # of the derivatives
    table: str  # file of the group level
    ignored: tuple = ()  # names of further files that BIDS does not know


class Image(NamedTuple):
    """An image of a data set; its name is its entities and its suffix."""

    path: Path
    entities: tuple  # pairs of name and value
    suffix: str

    @property
    def is_stripped(self):
        """Whether its sidecar says that it shows the brain alone."""
        try:
            path = self.path.with_name(f"{stem(self.path)}.json")
            return json.loads(path.read_text(encoding="utf-8")).get("SkullStripped") is True
        except (OSError, ValueError, AttributeError):
            return False


SEGSRGAN = Program(
    "SegSRGAN", "SegSRGAN: isotropic images and segmentations of the cortex", "segsrgan.tsv"
)
# Pages; and what validators before version 2 do not know of derivatives.
_IGNORED = ("*.html", "*_dseg.*", "*_probseg.*", "*_mask.*")


@dataclass(frozen=True)
class BidsResults(NamedResults):
    """The results of one image of a data set: its derivatives, in the folder of its session.

    `sub-01_rec-segsrgan_T2w.nii.gz`, `sub-01_space-T2w_label-cortex_probseg.nii.gz`, `…_dseg` and
    `sub-01_space-T2w_desc-brain_mask.nii.gz`. The sidecar of the first is the record.
    """

    entities: tuple = ()  # of the image, pairs of name and value
    root: Path = Path()  # of the data set
    output: Path = Path()  # of the derivatives

    def file_name(self, prefix, pair, suffix=".nii.gz"):
        """The name of a result file; `prefix` is one of `result_files`."""
        end = next((end for end in GRID_ENDS if prefix.endswith(end)), "")
        prefix, more = prefix.removesuffix(end), {"res": end[1:]} if end else {}
        if prefix in _SEGMENTED:
            known, kind, _ = _SEGMENTED[prefix]
            return self._file(more | known | {"space": self.name}, f"{kind}{suffix}")
        # Image and maps; BIDS has no name for the second.
        more |= {} if prefix == "SR" else {"desc": re.sub("[^a-z]", "", prefix.lower())}
        made = {"rec": dict(self.entities).get("rec", "") + "segsrgan"}
        return self._file(made | more, f"{self.name}{suffix}")

    def claim(self):
        """As for all results; describes the derivatives as a data set first."""
        write_description(self.output, self.root, SEGSRGAN)
        return super().claim()

    def describe(self, path_of):
        """Writes the sidecars of what was written by `path_of`, see `replacing`."""
        for prefix, (_, _, facts) in _SEGMENTED.items():
            facts = facts | {"SpatialReference": self._uri, "Sources": [self._uri]}
            for name in (prefix + end for end in ("", *GRID_ENDS)):
                if path_of(name).exists():
                    resolution = {"Resolution": _RESOLUTIONS[name.removeprefix(prefix)]}
                    write_text(path_of(name, ".json"), json_text(facts | resolution, indent=1))

    @property
    def record(self):
        """The `ResultsFolder`, whose record is the sidecar of the image."""
        name, source = self.file_name("SR", None, ".json"), str(self.image)
        scan = Image(self.image, self.entities, self.name)
        facts = {"Sources": [self._uri], "SkullStripped": scan.is_stripped}
        return ResultsFolder(self.folder, source, name, facts)

    @property
    def _uri(self):
        return uri_of(self.image, self.root)

    def _file(self, more, end):
        return named(dict(self.entities) | more, end)


def find_scans(root, output, participants=(), sessions=(), suffixes=SUFFIXES):
    """The `BidsResults`, below a folder, of each thick-sliced image, see `find_images`."""
    images = find_images(root, output, SEGSRGAN, participants, sessions, suffixes)
    folders = [Path(output) / image.path.parent.relative_to(root) for image in images]
    places = {"root": Path(root), "output": Path(output)}
    return [
        BidsResults(path, folder, name=suffix, entities=entities, **places)
        for (path, entities, suffix), folder in zip(images, folders, strict=True)
    ]


def find_images(root, output, program, participants=(), sessions=(), suffixes=SUFFIXES):
    """The thick-sliced anatomical images of a data set, a list of `Image`.

    Images whose largest voxel edge is less than 1.5 times the smallest are left out, which is
    logged; those that cannot be read are for the job to report.

    Args:
        root: folder of the data set.
        output: folder of the derivatives.
        program: the `Program` that makes them.
        participants: labels, with or without `sub-`; none: all.
        sessions: labels, with or without `ses-`; none: all.
        suffixes: of images, such as `T2w`.

    Raises:
        UserError: if the folder is no BIDS data set, lacks a participant or session asked for, or
            has no thick scan, or if the derivatives would lie among its images or those of another
            program.
    """
    root, output = Path(root), Path(output)
    if not (root / DESCRIPTION).is_file():
        raise UserError(
            f"{root}: is not a BIDS data set, it has no {DESCRIPTION}; give the folder that has it"
        )
    below = output.relative_to(root).parts if output.is_relative_to(root) else ("derivatives",)
    if not below or any(part.startswith("sub-") for part in below):
        raise UserError(
            f"{output}: derivatives have a folder of their own; take "
            f"{root / 'derivatives' / program.name.lower()}"
        )
    _check_owner(output / DESCRIPTION, program)
    subjects = _chosen(root, "sub", participants)
    images = []
    for subject in subjects:
        found = [path for path in subject.glob("ses-*") if path.is_dir()]
        if sessions and found:
            found = _chosen(subject, "ses", sessions)
        for folder in [subject, *sorted(found)]:
            images += sorted((folder / "anat").glob("sub-*.nii*"))
    scans = []
    for image in filter(None, map(parsed, images)):
        if image.suffix not in suffixes:
            continue
        if (why := _unfit(image.path)) is not None:
            logger.info("%s: left out, %s", image.path, why)
            continue
        scans.append(image)
    if not scans:
        raise UserError(
            f"{root}: no scan with slices {_THICK} times as thick as its voxels are wide among the "
            f"{len(images)} images in anat folders; received suffixes {', '.join(suffixes)}"
        )
    return scans


def parsed(path):
    """The `Image` of a path, None if that is no name of a NIfTI file."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    *entities, suffix = path.name.split(".")[0].split("_")
    pairs = tuple(tuple(entity.split("-", 1)) for entity in entities if "-" in entity)
    return Image(path, pairs, suffix)


def named(entities, end):
    """A file name of entities, name -> value, and an end such as `T2w.nii.gz`."""
    order = sorted(entities, key=lambda name: (*_ENTITIES, name).index(name))
    return fitting_name("_".join(f"{name}-{entities[name]}" for name in order), f"_{end}")


def uri_of(path, root):
    """How derivatives refer to a file of their data set."""
    return f"bids:{_RAW}:{path.relative_to(root).as_posix()}"


def _chosen(folder, kind, labels):
    """The folders of subjects or sessions with these labels, of all without any."""
    found = {path.name: path for path in sorted(folder.glob(f"{kind}-*")) if path.is_dir()}
    names = [f"{kind}-{label.removeprefix(f'{kind}-')}" for label in labels] or list(found)
    if missing := [name for name in names if name not in found]:
        raise UserError(
            f"{folder}: has no {', '.join(missing)}; it has {', '.join(found) or 'none'}"
        )
    return [found[name] for name in names]


def _unfit(path):
    """Why an image is left out, None if it is not."""
    try:
        edges = [float(edge) for edge in nibabel.load(path).header.get_zooms()[:3]]
    except Exception:  # nibabel's, of any damage, which the reader of the image reports
        return None
    if min(edges) > 0 and max(edges) < _THICK * min(edges):
        return f"its voxels are nearly cubes ({' x '.join(f'{edge:.3g}' for edge in edges)} mm)"
    return None


def write_description(output, root, program):
    """Writes the `dataset_description.json` of a program's derivatives, unless there is one."""
    path = Path(output) / DESCRIPTION
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    uri = Path(root).absolute().as_uri()
    description = {
        "Name": program.title,
        "BIDSVersion": _VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": program.name, "Version": __version__}],
        "SourceDatasets": [{"URL": uri}],
        "DatasetLinks": {_RAW: uri},
    }
    write_text(path, json_text(description, indent=1))
    write_text(
        path.with_name(".bidsignore"),
        "\n".join((program.table, *_IGNORED, *program.ignored)) + "\n",
    )


def _check_owner(path, program):
    """Raises `UserError` if there is a description of derivatives by another program."""
    if not path.exists():
        return
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["GeneratedBy"][0]["Name"]
    except (ValueError, LookupError, TypeError):
        name = "unknown origin"
    if name != program.name:
        raise UserError(f"{path}: is of {name}; take another folder")


def write_group(output):
    """Writes `segsrgan.tsv`: volumes and verdict of each result below a folder; returns its path.

    Raises:
        UserError: if there are no results.
    """
    return write_table(output, SEGSRGAN, [_group_row(*found) for found in found_records(output)])


def found_records(output):
    """Pairs of the path of a sidecar of derivatives that is a record, and its entry, a dict.

    Raises:
        UserError: if there are no results.
    """
    found = []
    for path in sorted(Path(output).glob("sub-*/**/anat/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            entry = record["results"][""] if "segsrgan" in record else None
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if entry:
            found.append((path, entry))
    if not found:
        raise UserError(f"{output}: holds no results; run the participant level first")
    return found


def write_table(output, program, rows):
    """Writes the table of a program's derivatives; returns its path.

    Each row is (path of the sidecar, columns by name, reasons of the verdict); a value is a text,
    a number or None.
    """
    text, lines = io.StringIO(), []
    for path, values, reasons in rows:
        place = path.relative_to(output)
        numbers = {k: f"{v:.4g}" if isinstance(v, float | int) else v for k, v in values.items()}
        line = {
            "participant_id": place.parts[0],
            "session_id": next((part for part in place.parts if part.startswith("ses-")), None),
            "filename": place.with_suffix(".nii.gz").as_posix(),
            **numbers,
            "reasons": "; ".join(reasons),
        }
        lines.append({name: value or "n/a" for name, value in line.items()})
    writer = csv.DictWriter(text, lines[0], delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(Path(output) / program.table, text.getvalue())
    return Path(output) / program.table


def _group_row(path, made):
    measures = made.get("measures") or {}
    numbers = {name: measures.get(name) for name in _MEASURES}
    return path, {"verdict": made.get("verdict"), **numbers}, made.get("reasons") or ()
