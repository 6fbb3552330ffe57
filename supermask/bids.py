# SPDX-License-Identifier: MIT
"""BIDS: which stacks of a data set belong together, and their results as its derivatives.

An examination is what a session has of one suffix and of equal entities but `acq` and `run`, by
which its stacks differ. See `segsrgan.inference.bids`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from segsrgan.errors import UserError
from segsrgan.files import ResultsFolder, check_writable, json_text, write_text
from segsrgan.inference.bids import (
    SUFFIXES,
    Program,
    find_images,
    found_records,
    named,
    parsed,
    uri_of,
    write_description,
    write_table,
)
from segsrgan.tables import stem
from supermask.folders import PatientResults, extremes_of, verdict_of
from supermask.patients import MOST_VIEWS, Patient
from supermask.settings import PLANES

logger = logging.getLogger(__name__)

SUPERMASK = Program(
    "SuperMask", "SuperMask: masks of several stacks", "supermask.tsv", ("*_xfm.*",)
)
_MADE = "supermask"
_OF_A_STACK = ("acq", "run")  # entities by which the stacks of an examination differ
_OF_A_MASK = {"space", "label", "desc"}  # those that a mask may have beside its stack's
_MASKS = ("mask", "dseg")


@dataclass(frozen=True)
class BidsPatientResults(PatientResults):
    """The results of an examination: derivatives in the folder of its session.

    `sub-01_rec-supermask_T2w.nii.gz`, whose sidecar is the record, and
    `sub-01_space-T2w_desc-supermask_mask.nii.gz`; of each stack `sub-01_acq-cor_…`.
    """

    entities: tuple = ()  # that all stacks have, pairs of name and value
    suffix: str = "T2w"
    stacks: tuple = ()  # the `segsrgan.inference.bids.Image`s
    root: Path = Path()  # of the data set
    output: Path = Path()  # of the derivatives

    @property
    def record(self):
        """The `ResultsFolder`, whose record is the sidecar of the image."""
        facts = {
            "Sources": [uri_of(image.path, self.root) for image in self.stacks],
            "SkullStripped": all(image.is_stripped for image in self.stacks),
        }
        return ResultsFolder(self.folder, self.patient, self._made(".json"), facts)

    @property
    def page(self):
        """The `Path` of the page, see `supermask.pages`; it need not exist."""
        return self.folder / self._made(".html", desc="report")

    def file_name(self, kind):
        """The name of a file of the whole examination, see `PatientResults`."""
        if kind == "image":
            return self._made(".nii.gz")
        end, more = ("mask", {}) if kind == "mask" else ("probseg", {"label": "object"})
        known = {**dict(self.entities), "space": self.suffix, **more, "desc": _MADE}
        return named(known, f"{end}.nii.gz")

    def mask_name(self, name, stack):
        """The name of the file of a view's mask."""
        entities = dict(parsed(Path(stack)).entities)
        return named(entities | {"space": self.suffix, "desc": "aligned"}, "mask.nii.gz")

    def transform_name(self, name, stack, reference):
        """The name of the file of a view's transform."""
        entities = dict(parsed(Path(stack)).entities)
        return named(
            entities | {"from": self.suffix, "to": "reference", "mode": "image"}, "xfm.tfm"
        )

    def check(self, overwrite=False):
        """Raises `UserError` if results may not or cannot be written."""
        record = self.record
        paths = [self.folder / name for name in (record.name, *self._names())]
        if not record.knows() and (taken := [path for path in paths if path.exists()]):
            raise UserError(
                f"{taken[0]}: exists already, and no record says that it is a result; move it "
                "away, or take another folder"
            )
        if record.entry() is not None and not overwrite:
            raise UserError(f"{self.folder / record.name}: is finished; --overwrite replaces it")
        check_writable(self.folder)

    def replacing(self, entry):
        """`ResultsFolder.replacing`; the page of earlier results and what a killed run left go."""
        write_description(self.output, self.root, SUPERMASK)
        return self.record.replacing("", entry, self._names())

    def describe(self, folder, prediction):
        """Writes the sidecars of the masks of a prediction that a folder holds."""
        reference = uri_of(Path(prediction.views[0].path), self.root)
        views = [(self.mask_name(v.name, v.path), [Path(v.path)]) for v in prediction.views]
        stacks = [image.path for image in self.stacks]
        for name, sources in [(self.file_name(k), stacks) for k in ("mask", "probability")] + views:
            sources = [uri_of(path, self.root) for path in sources]
            facts = {"Manual": False, "SpatialReference": reference, "Sources": sources}
            write_text(folder / f"{stem(name)}.json", json_text(facts, indent=1))

    def _made(self, end, **more):
        """The name of the image, or of what has its name."""
        made = {"rec": dict(self.entities).get("rec", "") + _MADE}
        return named(dict(self.entities) | made | more, f"{self.suffix}{end}")

    def _names(self):
        """The names that results may have, but for the record."""
        masks = [self.file_name(kind) for kind in ("mask", "probability")]
        paths = [image.path for image in self.stacks]
        masks += [self.mask_name("", path) for path in paths]
        transforms = [self.transform_name("", path, "") for path in paths]
        sidecars = [f"{stem(name)}.json" for name in masks]
        return [self.file_name("image"), *masks, *sidecars, *transforms, self.page.name]


def find_examinations(root, output, participants=(), sessions=(), suffixes=SUFFIXES, masks=None):
    """The examinations of a data set that have two or three stacks of different planes.

    Of several stacks of one plane that with the smallest voxels is taken. What is left out is
    logged.

    Args:
        root: folder of the data set.
        output: folder of the derivatives.
        participants: labels, with or without `sub-`; none: all.
        sessions: labels, with or without `ses-`; none: all.
        suffixes: of images, such as `T2w`.
        masks: folder of derivatives with masks of the stacks, or None.

    Returns:
        A list of (`Patient`, `BidsPatientResults`).

    Raises:
        UserError: see `segsrgan.inference.bids.find_images`; if no examination has two such stacks,
            or the folder of masks does not exist.
    """
    root, output = Path(root), Path(output)
    if masks is not None and not Path(masks).is_dir():
        raise UserError(f"--masks {masks}: is not a folder; name that of derivatives with masks")
    groups = {}
    for image in find_images(root, output, SUPERMASK, participants, sessions, suffixes):
        common = tuple(pair for pair in image.entities if pair[0] not in _OF_A_STACK)
        groups.setdefault((image.path.parent, common, image.suffix), []).append(image)
    found = []
    for (folder, common, suffix), images in groups.items():
        name = named(dict(common), suffix)
        stacks = _chosen(name, images)
        if len(stacks) < 2:
            text = "%s: left out, has stacks of one plane alone: %s"
            logger.info(text, name, ", ".join(image.path.name for image in images))
            continue
        place = output / folder.relative_to(root)
        results = BidsPatientResults(place, name, common, suffix, tuple(stacks), root, output)
        found.append((_patient(name, stacks, root, masks), results))
    if not found:
        raise UserError(
            f"{root}: no examination has two thick stacks of one suffix in different planes, which "
            "differ by acq- or run- in their names"
        )
    return found


def found_examinations(output):
    """The `BidsPatientResults` of all whole results in derivatives; `UserError` without any."""
    found = []
    for path, entry in found_records(output):
        _, entities, suffix = parsed(path.with_suffix(".nii.gz"))
        entities = {**dict(entities), "rec": dict(entities)["rec"].removesuffix(_MADE)}
        entities = tuple(pair for pair in entities.items() if pair[1])
        results = BidsPatientResults(path.parent, entry["patient"], entities, suffix)
        found.append(results)
    return found


def write_group(output):
    """Writes `supermask.tsv`: volume, agreement and motion of each result; returns its path.

    Raises:
        UserError: if there are no results.
    """
    rows = []
    for path, entry in found_records(output):
        verdict, reasons = verdict_of(entry)
        dice, turned, shifted = extremes_of(entry)
        values = {"verdict": verdict, "mask_volume": entry["mask_volume"], "least_dice": dice}
        values |= {"turned_degrees": turned, "shifted_mm": shifted}
        rows.append((path, values, reasons))
    return write_table(Path(output), SUPERMASK, rows)


def _chosen(name, images):
    """The stack with the smallest voxels of each plane, a list of `Image`; logs the others."""
    finest_first = sorted((*_geometry(image.path), image.path, image) for image in images)
    chosen = {}
    for plane, _, path, image in finest_first:
        if plane in chosen:
            other = chosen[plane].path.name
            text = "%s: left out of %s; %s is %s, too, and its voxels are no larger"
            logger.info(text, path, name, other, plane)
        elif len(chosen) == MOST_VIEWS:
            logger.info("%s: left out of %s; %d stacks are taken", path, name, MOST_VIEWS)
        else:
            chosen[plane] = image
    return sorted(chosen.values())


def _geometry(path):
    """The plane of a stack and the volume of its voxels, mm3.

    Of one that cannot be read, which the job reports, its name and 0.
    """
    try:
        header = nibabel.load(path)
        edges = np.array(header.header.get_zooms()[:3], float)
        normal = header.affine[:3, int(edges.argmax())]
        return PLANES[int(np.abs(normal).argmax())], float(edges.prod())
    except Exception:  # nibabel's, of any damage
        return path.name, 0.0


def _patient(name, stacks, root, masks):
    """The `Patient` of stacks, with the masks that a folder of derivatives has of them."""
    paths = [image.path for image in stacks]
    if masks is None:
        return Patient(name, paths)
    try:
        return Patient(name, paths, tuple(_mask_of(image, root, Path(masks)) for image in stacks))
    except UserError as error:
        return Patient(name, (), problem=str(error))


def _mask_of(image, root, masks):
    """The path of the mask of a stack, None if there is none; `UserError` if there are several."""
    folder = masks / image.path.parent.relative_to(root)
    found = []
    for path in sorted(folder.glob("sub-*.nii*")):
        other = parsed(path)
        if other is None or other.suffix not in _MASKS:
            continue
        more = dict(set(other.entities) - set(image.entities))
        is_of_stack = set(image.entities) <= set(other.entities) and more.keys() <= _OF_A_MASK
        space = more.get("space")
        if is_of_stack and (space not in SUFFIXES or space == image.suffix):
            found.append(path)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{image.path.name}: has several masks: {names}; keep one of them")
    return found[0] if found else None
