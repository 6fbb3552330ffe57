# SPDX-License-Identifier: MIT
"""Where the results of a job lie, and whether they are there already.

`<image's folder>/Result_with_<name>/patch_64_step_32/SR_patch_64_step_32.nii.gz`, as in the
released original. For a DICOM folder the image's folder is the one it lies in, so that reading
it again never meets results. Where several images of a job lie in one folder, or where another
image's results are there already, the image's own name comes between:
`Result_with_<name>/<image>/patch_...`. `results.json` beside the `patch_...` folders says
which image they belong to and how they were made.
"""

import json
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from segsrgan.inference.errors import InferenceError
from segsrgan.inference.imagelist import image_stem

PREFIX = "Result_with_"
RECORD = "results.json"


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

        Without a record they are the released original's, which wrote no thresholded mask.
        """
        needed = self.files(pair)
        if self.label(pair) not in self._record().get("pairs", {}):
            del needed["Cortex_mask"]
        return all(path.is_file() for path in needed.values())

    def settings(self, pair):
        """How the results of a pair were made, a dict; None without a record."""
        return self._record().get("pairs", {}).get(self.label(pair))

    def record(self, pair, settings):
        """Notes how the results of a pair are made; creates the folder."""
        record = self._record()
        pairs = {**record.get("pairs", {}), self.label(pair): settings}
        self._write({"image": self.image.name, "pairs": pairs})

    def discard(self, pair):
        """Removes what there is of a pair's results, and folders left empty by that."""
        for path in self.files(pair, mask=True).values():
            path.unlink(missing_ok=True)
        for leftover in (self.folder / self.label(pair)).glob(".*.partial"):
            leftover.unlink(missing_ok=True)  # of a killed run
        record = self._record()
        if record.get("pairs", {}).pop(self.label(pair), None) is not None:
            if record["pairs"]:
                self._write(record)
            else:
                (self.folder / RECORD).unlink(missing_ok=True)
        for folder in (self.folder / self.label(pair), self.folder, self.folder.parent):
            try:
                folder.rmdir()
            except OSError:
                break  # not empty, or not there

    def check_writable(self):
        """Raises `InferenceError` if results cannot be written; leaves nothing behind."""
        check_writable(self.folder)

    def _record(self):
        return _read_record(self.folder)

    def _write(self, record):
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{RECORD}.", dir=self.folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, self.folder / RECORD)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def choose_places(images, name):
    """Chooses the result folder of every image of a job, see the module's text.

    Args:
        images: paths, each once.
        name: name of the results; `Result_with_` is put before it where it is missing.

    Returns:
        A list of `Place`, one per image.

    Raises:
        InferenceError: if the name is not that of a folder.
    """
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        raise InferenceError(
            f"result_folder_name must be the name of a folder, without a path, received {name!r}"
        )
    name = PREFIX + name.removeprefix(PREFIX)
    together = Counter(image.parent for image in images if image.exists())
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


def check_writable(folder):
    """Raises `InferenceError` if a folder cannot be made or written to; leaves nothing behind."""
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InferenceError(
            f"cannot write results into {folder} ({error.strerror or error}); "
            "make it writable or move the image"
        ) from error
    finally:
        for path in missing:
            try:
                path.rmdir()
            except OSError:
                break


def _choose(image, base, shared, taken):
    owner = _read_record(base).get("image")
    own = owner == image.name or (owner is None and not shared)
    candidates = ([base] if own else []) + [base / image_stem(image)]
    for folder in candidates:
        if folder not in taken and _read_record(folder).get("image") in (None, image.name):
            return folder
    return base / image.name


def _read_record(folder):
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record.get("pairs"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
