# SPDX-License-Identifier: MIT
"""Memory: what is free, what an image will need, what was used at most."""

import math
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path

import psutil

from segsrgan.errors import MemoryShortage

GIB = 2**30
# Maps of `kernel` channels at full size that are alive at once, measured: ResNet 5, U-Net 7.
FEATURE_MAPS = 7
# Per voxel of the result, besides 4 for each channel, and of the scan; measured.
RESULT_BYTES, SCAN_BYTES = 44, 20
# Of a control group of version 2, then 1: limit, usage, and what of it the system gives back.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.high", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_memory():
    """Bytes that can be taken without swapping.

    The smallest of the machine's figure and those of the control groups that this process is in
    and of all groups around them: those of containers, of SLURM's jobs, of systemd's slices.
    """
    return min([psutil.virtual_memory().available, *_group_figures()])


def resident_memory():
    """Bytes of this process in memory."""
    return psutil.Process().memory_info().rss


def required_memory(shape, patch, batch_size, kernel, channels, scan=0):
    """Estimated bytes to process one image.

    Per result voxel, measured: the interpolated image, sums over patches, results and what they
    are made of. Per voxel of a batch: the feature maps alive at once. Per voxel of the scan: what
    is measured of it.

    Args:
        shape: the result's voxels (x, y, z).
        patch: the patch's edge in voxels, None for the whole image.
        batch_size: patches computed at once.
        kernel: channels of the generator's widest feature maps, as if of whole size.
        channels: output channels of the generator, and as many more as are kept beside them.
        scan: voxels of the scan.
    """
    voxels = math.prod(max(int(n), patch or 0) for n in shape)
    batch = voxels if patch is None else batch_size * patch**3
    maps = batch * 4 * (FEATURE_MAPS * kernel + 4 * channels)
    return voxels * (RESULT_BYTES + 4 * channels) + maps + scan * SCAN_BYTES


class MemoryBudget:
    """What may still be taken, by several threads that prepare, compute and write images.

    `limit` are the bytes that the process may have in all; what the machine has free when None.
    """

    def __init__(self, limit=None):
        # Libraries, the network and what it needs by itself are there already.
        self._limit = None if limit is None else limit - resident_memory()
        self._lock = threading.RLock()  # objects may be collected at any moment
        self._promised = 0
        self._held = 0

    def free(self):
        """Bytes that nobody has taken or been promised."""
        available = available_memory()
        with self._lock:
            figures = [available - self._promised]
            if self._limit is not None:
                figures.append(self._limit - self._promised - self._held)
        return max(0, min(figures))

    @contextmanager
    def promised(self, amount):
        """Sets bytes aside that are about to be taken, for the duration of the context."""
        self._change(promised=amount)
        try:
            yield
        finally:
            self._change(promised=-amount)

    def hold(self, thing, amount):
        """Counts the bytes of an object for as long as it lives."""
        self._change(held=amount)
        weakref.finalize(thing, self._change, held=-amount).atexit = False

    def largest_batch(self, batch_sizes, needed_for, what, remedy):
        """The largest batch that fits, halved from the largest wanted, and its bytes.

        Args:
            batch_sizes: the least and the largest that may be taken.
            needed_for: function from a batch size to the bytes that it needs.
            what: the thing that needs the memory, for the message.
            remedy: what to ask for instead, for the message.

        Raises:
            MemoryShortage: if the least does not fit.
        """
        free, (least, size) = self.free(), batch_sizes
        while (needed := needed_for(size)) > free and size > least:
            size = max(least, size // 2)
        if needed > free:
            within = "" if self._limit is None else " within max_memory"
            raise MemoryShortage(
                f"{what} needs about {needed / GIB:.3g} GiB of memory, {free / GIB:.3g} GiB are "
                f"free{within}; {remedy}"
            )
        return size, needed

    def _change(self, promised=0, held=0):
        with self._lock:
            self._promised += promised
            self._held += held


class PeakMemory:
    """Context manager: the `bytes` of this process in memory, at most, inside it.

    A thread looks at it fifty times a second. The system's own record is left alone: it cannot be
    reset without misleading whoever else reads it.
    """

    def __init__(self):
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self):
        while not self._stop.wait(0.02):
            self._look()

    def _look(self):
        self.bytes = max(self.bytes, resident_memory())


def _group_figures(proc="/proc/self/cgroup", root="/sys/fs/cgroup"):
    """Free bytes of each control group with a limit, from the process's own up to the root."""
    try:
        lines = Path(proc).read_text().splitlines()
    except OSError:  # not Linux
        return []
    figures = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path(root) / ("memory" if controllers else "")
        inner = top / path.lstrip("/")
        groups = [inner, *inner.parents]
        figures += [_group_free(group) for group in groups[: groups.index(top) + 1]]
    return [figure for figure in figures if figure is not None]


def _group_free(group):
    figures = []
    for limit, usage, cached in _GROUP_FILES:
        try:
            free = int((group / limit).read_text()) - int((group / usage).read_text())
            statistics = (group / "memory.stat").read_text().split()
            figures.append(max(0, free) + int(statistics[statistics.index(cached) + 1]))
        except (OSError, ValueError, IndexError):
            continue  # absent, or "max": no limit
    return min(figures, default=None)
