# SPDX-License-Identifier: MIT
"""Where the results of a job lie, and whether they are there already.

`<image's folder>/Result_with_<name>/patch_64_step_32/SR_patch_64_step_32.nii.gz`, as in the
released original. For a DICOM folder the image's folder is the one it lies in, so that reading
it again never meets results. Where several images of a job lie in one folder, or where another
image's results are there already, the image's own name comes between:
`Result_with_<name>/<image>/patch_...`. `results.json` beside the `patch_...` folders says
which image they belong to and how they were made.
"""

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.files import check_writable, locked, remove, remove_stale, stamp, temporary_beside
from segsrgan.inference.records import claim, note, read_record
from segsrgan.tables import IMAGE_SUFFIXES, stem

PREFIX = "Result_with_"
_STAMP = "image_stamp"  # beside the settings in the record


@dataclass(frozen=True)
class Place:
    """The results of one image.

    Args:
        image: the image's path.
        folder: the folder that holds `patch_...`.
    """

    image: Path
    folder: Path

    def label(self, pair):
        """The name of a pair's folder, such as `patch_64_step_32`."""
        patch, step = pair
        return "patch_None" if patch is None else f"patch_{patch}_step_{step}"

    def files(self, pair, mask=False):
        """Result kind -> path, for one (patch, step) pair; `Mask` only if asked for.

        In the order of writing: where the last three exist, the first does.
        """
        label = self.label(pair)
        tail = "whole_image" if pair[0] is None else label
        kinds = ("Mask",) * mask + ("Cortex_mask", "SR", "Cortex")
        return {kind: self.folder / label / f"{kind}_{tail}.nii.gz" for kind in kinds}

    def is_finished(self, pair):
        """Whether all results of a pair are there.

        Without a note of ours they are the released original's, which wrote no thresholded mask
        and did not tell the images of a folder apart.
        """
        needed = self.files(pair)
        pairs = read_record(self.folder).get("pairs", {})
        if self.label(pair) not in pairs:
            del needed["Cortex_mask"]
            if self.folder.parent != self.image.parent or not _is_alone(self.image):
                return False
        elif pairs[self.label(pair)] is None:
            return False
        return all(os.path.isfile(path) for path in needed.values())

    def has_changed(self, pair):
        """Whether the image is another than when the results of a pair were made, if known."""
        before = (self._made(pair) or {}).get(_STAMP)
        return before is not None and before != stamp(self.image)

    def settings(self, pair):
        """How the results of a pair were made, a dict; None if that is not known."""
        made = self._made(pair)
        return made and {key: value for key, value in made.items() if key != _STAMP}

    def _made(self, pair):
        made = read_record(self.folder).get("pairs", {}).get(self.label(pair))
        return made if isinstance(made, dict) else None

    def claim(self):
        """Makes sure that no other image's results come here, whatever other processes do.

        Returns:
            This place, or one further down if another image has taken this folder meanwhile.

        Raises:
            UserError: if other images have taken all of them.
            OSError: if the folder cannot be written to.
        """
        base = self.folder if self.folder.parent == self.image.parent else self.folder.parent
        for folder in (self.folder, *_named_folders(self.image, base)):
            if claim(folder, self.image.name):
                return replace(self, folder=folder)
        raise UserError(
            f"the folders for its results in {base} belong to other images; take another "
            "--result_folder_name"
        )

    @contextmanager
    def replacing(self, pair, settings, mask=False):
        """Results that take the place of a pair's on leaving without an exception.

        What is there stays until all is written; whatever ends the writing before, only what was
        written here is removed. A run killed during the exchange has noted that the results are
        not whole.

        Args:
            pair: (patch, step).
            settings: how they are made, for the record.
            mask: whether there is a `Mask`.

        Yields:
            Result kind -> path to write to, in the order of `files`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        files, label = self.files(pair, mask), self.label(pair)
        temporary = temporary_beside(self.folder / label)
        try:
            temporary.mkdir()
            yield {kind: temporary / path.name for kind, path in files.items()}
            with locked(self.folder):
                note(self.folder, self.image.name, label, None)
                (self.folder / label).mkdir(exist_ok=True)
                for path in files.values():
                    os.replace(temporary / path.name, path)
                for kind, path in self.files(pair, mask=True).items():
                    if kind not in files:
                        path.unlink(missing_ok=True)
                made = {**settings, _STAMP: stamp(self.image)}
                note(self.folder, self.image.name, label, made)
        finally:
            remove(temporary)

    def check_writable(self):
        """Raises `UserError` if results cannot be written; leaves nothing behind."""
        check_writable(self.folder)


def choose_places(images, name):
    """Chooses the result folder of every image of a job, see the module's text.

    Args:
        images: paths, each once.
        name: name of the results; `Result_with_` is put before it where it is missing.

    Returns:
        A list of `Place`, one per image.

    Raises:
        UserError: if the name is not that of a folder.
    """
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        raise UserError(
            f"result_folder_name must be the name of a folder, without a path, received {name!r}"
        )
    name = PREFIX + name.removeprefix(PREFIX)
    together = Counter(image.parent for image in images if os.path.exists(image))
    taken, places = set(), []
    for image in images:
        folder = _choose(image, image.parent / name, together[image.parent] > 1, taken)
        taken.add(folder)
        places.append(Place(image, folder))
    return places


def weights_name(weights):
    """The name of weights as it appears in result folders: no folder, no suffix.

    Args:
        weights: registry name, or path of a file.
    """
    name = Path(weights).name
    for suffix in (".h5", ".hdf5", ".keras", ".weights"):
        name = name.removesuffix(suffix)
    return name


def _choose(image, base, shared, taken):
    """The folder that is the image's already, else the first that is nobody's."""
    folders = [base, *_named_folders(image, base)]
    owners = {folder: read_record(folder).get("image") for folder in folders if folder not in taken}
    for folder, owner in owners.items():
        if owner == image.name:
            return folder
    # Results without a record may be those of any image beside it.
    if shared or (_has_results(base) and not _is_alone(image)):
        owners.pop(base, None)
    return next((folder for folder, owner in owners.items() if owner is None), folders[-1])


def _named_folders(image, base):
    return base / stem(image), base / image.name


def _has_results(base):
    try:
        return any(base.glob("patch_*"))
    except (OSError, ValueError):  # no possible path
        return False


def _is_alone(image):
    """Whether no other image lies in an image's folder; for a DICOM folder, no other folder."""
    try:
        with os.scandir(image.parent) as entries:
            others = {
                _header_name(entry.name)
                for entry in entries
                if entry.name.lower().endswith(IMAGE_SUFFIXES)
                or (image.is_dir() and entry.is_dir() and not entry.name.startswith(PREFIX))
            }
    except (OSError, ValueError):
        return False
    return others <= {_header_name(image.name)}


def _header_name(name):
    """The name of an image; Analyze's .img belongs to its .hdr."""
    return name[:-4] + ".hdr" if name.lower().endswith(".img") else name
