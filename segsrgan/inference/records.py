# SPDX-License-Identifier: MIT
"""`results.json`: which image the results of a folder belong to, and how they were made.

`{"image": "lr.nii.gz", "pairs": {"patch_64_step_32": {settings}, "patch_None": null}}`; among the
settings is what the image looked like, null stands for results that are being replaced. Without
pairs it is a claim: results of this image will lie here.
"""

import json
from contextlib import suppress

from segsrgan.files import create_text, locked, write_text

RECORD = "results.json"


def read_record(folder):
    """The record of a folder, a dict with `pairs`; empty where there is none or it is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record.get("pairs"), dict) else {}
    except (OSError, ValueError, AttributeError):
        return {}


def claim(folder, image):
    """Takes a folder for the results of an image; creates it.

    Args:
        folder: the result folder.
        image: name of the image, str.

    Returns:
        Whether it belongs to the image now; False if to another one.

    Raises:
        OSError: if it cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        record = read_record(folder)
        if record.get("image") is None:
            path = folder / RECORD
            # One that names no image is damaged.
            write = write_text if path.exists() else create_text
            with suppress(FileExistsError):
                write(path, _text(image, record.get("pairs", {})))
        return read_record(folder).get("image") == image


def note(folder, image, label, settings):
    """Notes how the results of a pair were made, None: that they are not whole at present."""
    pairs = {**read_record(folder).get("pairs", {}), label: settings}
    write_text(folder / RECORD, _text(image, pairs))


def _text(image, pairs):
    return json.dumps({"image": image, "pairs": pairs}, indent=1)
