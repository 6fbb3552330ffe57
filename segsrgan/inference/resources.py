# SPDX-License-Identifier: MIT
"""Memory: what is free, what an image will need, what was used at most."""

import math
import os
import sys
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path

from segsrgan.inference.errors import MemoryShortage

GIB = 2**30


def available_memory():
    """Bytes that can be taken without swapping, None where the system does not say.

    The smaller of the machine's and the control group's (container's) figures.
    """
    figures = [_meminfo("MemAvailable"), _cgroup_free()]
    figures = [figure for figure in figures if figure is not None]
    if figures:
        return min(figures)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def required_memory(shape, patch, batch_size, kernel, channels):
    """Estimated bytes to process one image.

    Args:
        shape: the result's voxels, three ints.
        patch: the patch's edge in voxels, None for the whole image.
        batch_size: patches computed at once.
        kernel: channels of the generator's first convolution.
        channels: output channels of the generator.

    Returns:
        int. Per result voxel: the interpolated image, perhaps padded, accumulators and results
        (float32), masks. Per voxel of a batch: the feature maps alive at once.
    """
    voxels = math.prod(max(int(n), patch or 0) for n in shape)
    batch = voxels if patch is None else batch_size * patch**3
    return voxels * (20 + 4 * channels) + batch * 4 * (FEATURE_MAPS * kernel + 4 * channels)


def plan_batch(budget, shape, spacing, patch, batch_sizes, kernel, channels, there=0):
    """The largest batch that fits.

    Args:
        budget: a `MemoryBudget`.
        shape: see `required_memory`.
        spacing: voxel size of the result in mm, three numbers, for the message.
        patch: see `required_memory`.
        batch_sizes: the least and the largest that may be taken.
        kernel: see `required_memory`.
        channels: see `required_memory`.
        there: bytes of it that are in memory already.

    Returns:
        The patches computed at once, and the bytes needed besides those that are there.

    Raises:
        MemoryShortage: if the least does not fit.
    """
    free, (least, batch_size) = budget.free(), batch_sizes
    while True:
        needed = required_memory(shape, patch, batch_size, kernel, channels) - there
        if free is None or needed <= free:
            return batch_size, needed
        if batch_size == least:
            break
        batch_size = max(least, batch_size // 2)
    within = " within max_memory" if budget.limited else ""
    coarser = "a coarser resolution"
    patches = f" in patches of {patch}" if patch else ""
    raise MemoryShortage(
        f"a result of {'x'.join(map(str, shape))} voxels{patches} needs about "
        f"{needed / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free{within}; ask for "
        f"{f'a smaller patch or {coarser}' if patch else f'{coarser} or a patch of 128'} "
        f"(received {','.join(f'{value:g}' for value in spacing)} mm)"
    )


# Maps of `kernel` channels at full size alive at once, measured: ResNet 5, U-Net 7.
FEATURE_MAPS = 7


class MemoryBudget:
    """What may still be taken, by several threads that prepare, compute and write images.

    Args:
        limit: bytes that the process may have in all; what the machine has free when None.
    """

    def __init__(self, limit=None):
        # Libraries, the network and what it needs by itself are there already.
        self._limit = None if limit is None else limit - resident_memory()
        self._lock = threading.RLock()  # objects may be collected at any moment
        self._promised = 0
        self._held = 0

    @property
    def limited(self):
        """Whether there is a limit besides the machine's."""
        return self._limit is not None

    def free(self):
        """Bytes that nobody has taken or been promised, None where that is not known."""
        available = available_memory()
        with self._lock:
            figures = [] if available is None else [available - self._promised]
            if self._limit is not None:
                figures.append(self._limit - self._promised - self._held)
        return max(0, min(figures)) if figures else None

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

    def _change(self, promised=0, held=0):
        with self._lock:
            self._promised += promised
            self._held += held


class PeakMemory:
    """Context manager: the largest resident memory of this process inside it.

    A thread looks at it fifty times a second. The system's own record is left alone: it cannot be
    reset without misleading whoever else reads it.

    Attributes:
        bytes: the peak so far; where the system does not tell the present size (not Linux), the
            record of the whole process.
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


def resident_memory():
    """Bytes of this process in memory; its largest so far where the system tells only that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _record_of_process()


def _meminfo(name):
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _record_of_process():
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cgroup_free(root="/sys/fs/cgroup"):
    names = {
        Path(root): ("memory.max", "memory.current", "inactive_file"),
        Path(root) / "memory": (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    }
    for folder, (limit, usage, cached) in names.items():
        try:
            free = int((folder / limit).read_text()) - int((folder / usage).read_text())
            statistics = (folder / "memory.stat").read_text().split()
            return free + int(statistics[statistics.index(cached) + 1])
        except (OSError, ValueError, IndexError):
            continue  # absent, or "max": no limit
    return None
