# SPDX-License-Identifier: MIT
"""What was measured on this machine, in a small file that later runs read.

`$XDG_CACHE_HOME/segsrgan/engines.json`, or in `~/.cache`: `{key: {measurements}}`. Without a
folder that can be written to, everything works and is measured again.
"""

import json
import logging
import os
import platform
from hashlib import sha256
from pathlib import Path

from segsrgan.files import locked, write_text

logger = logging.getLogger(__name__)

# The oldest entries go; every snapshot of a training that is applied makes some.
_KEPT = 200


def digest(*parts):
    """A short text that stands for all of the parts, which are texts or arrays' bytes."""
    total = sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:32]


def processor():
    """Model and abilities of the processor; virtual machines do not tell the model alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def recall(key):
    """What `remember` was given for a key, else None."""
    entry = _read().get(key)
    return entry if isinstance(entry, dict) else None


def remember(key, entry):
    """Keeps a dict of JSON values."""
    try:
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            entries = {**_read(), key: entry}
            kept = dict(list(entries.items())[-_KEPT:])
            write_text(path, json.dumps(kept, indent=1))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        logger.debug("the choice of an engine cannot be remembered (%s)", error)


def _path():
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "segsrgan" / "engines.json"


def _read():
    try:
        entries = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return entries if isinstance(entries, dict) else {}
