# SPDX-License-Identifier: MIT
"""Two folders, or two patterns: predictions and references are matched by name."""

import glob
import logging
import os
from pathlib import Path

from segsrgan.errors import UserError
from segsrgan.evaluation.case import Case
from segsrgan.tables import IMAGE_SUFFIXES, image_files, stem

logger = logging.getLogger(__name__)

KINDS = ("image", "label")
# What job_model.py puts before the names of its results.
PREFIXES = ("SR_", "Cortex_mask_", "Cortex_", "Mask_")


def match_cases(predictions, references, kind, masks=None, baselines=None, allow_missing=False):
    """Makes cases of the files of folders that have the same name.

    A place is either a folder, of which every image file counts (not those of its subfolders),
    its name without suffix and without a leading `PREFIXES`; or a pattern with one `*`, as
    `"out/*/SR.nii.gz"` or `"hr/*_T2w.nii.gz"`, where the name is what the `*` stands for.

    Args:
        predictions: a place, a str.
        references: likewise.
        kind: "image" or "label", what these are.
        masks: a place of regions in which images are compared, or None.
        baselines: a place of images of low resolution, or None.
        allow_missing: whether a name that one of the places has not is left out, with a
            warning, and not an error.

    Returns:
        A list of `Case`, sorted by name.

    Raises:
        UserError: if a place does not exist, two of its files have one name, names are
            missing somewhere, or none is everywhere.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be {' or '.join(KINDS)}, received {kind!r}")
    if kind == "label" and (masks or baselines):
        raise UserError("masks and baselines are for images; leave them out, or kind image")
    places = {
        kind: predictions,
        f"reference_{kind}": references,
        "mask": masks,
        "baseline": baselines,
    }
    found = {role: _names(place) for role, place in places.items() if place}
    common = set.intersection(*(set(names) for names in found.values()))
    missing = [
        f"{role} ({places[role]}) lacks {_listed(lacking)}"
        for role, names in found.items()
        if (lacking := sorted(set().union(*found.values()) - names.keys()))
    ]
    if missing and (not allow_missing or not common):
        raise UserError(
            f"the names do not match: {'; '.join(missing)}; --allow_missing leaves these out, a "
            'pattern such as "folder/*_T2w.nii.gz" says by its * which part of a name counts'
        )
    for text in missing:
        logger.warning("left out: %s", text)
    return [
        Case(**{role: names[name] for role, names in found.items()}, name=name)
        for name in sorted(common)
    ]


def _names(place):
    """Name -> path, of the images of a folder or a pattern."""
    place = os.path.expanduser(place)
    if "*" in place:
        files = _of_pattern(place)
    elif os.path.isdir(place):
        files = [(_short(path), path) for path in image_files(place)]
    else:
        what = "a file" if os.path.exists(place) else "nothing of this name"
        raise UserError(
            f"{place}: expected a folder, or a pattern with one * in quotes, received {what}; "
            "single cases go into a CSV file, see --path"
        )
    if not files:
        raise UserError(f"{place}: has no image; expected one of {', '.join(IMAGE_SUFFIXES)}")
    names = {}
    for name, path in files:
        if name in names:
            raise UserError(
                f"{names[name]} and {path}: expected one file for each case, both are named "
                f'{name!r}; choose by a pattern such as "{Path(path).parent}/SR_*.nii.gz"'
            )
        names[name] = path
    return names


def _of_pattern(pattern):
    if pattern.count("*") != 1:
        raise UserError(f"{pattern}: expected one * for the name of the case; use one")
    before, after = (glob.escape(part) for part in pattern.split("*"))
    paths = sorted(glob.glob(f"{before}*{after}"))
    start, end = pattern.index("*"), len(pattern) - pattern.index("*") - 1
    return [(stem(path[start : len(path) - end]), path) for path in paths]


def _short(path):
    name = stem(path)
    for prefix in PREFIXES:
        if name.startswith(prefix) and name != prefix:
            return name.removeprefix(prefix)
    return name


def _listed(names, shown=10):
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
