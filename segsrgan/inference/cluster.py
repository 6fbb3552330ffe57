# SPDX-License-Identifier: MIT
"""The images of a job spread over a Dask cluster, each worker with a predictor of its own.

Workers see the same files as this process. One that is lost has its image done again by another;
an image that has cost several workers their life fails. Results appear whole or not at all, so
that a worker which was only thought lost does no harm.
"""

import logging
import math
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec

import segsrgan
from segsrgan.errors import UserError
from segsrgan.files import remove_stale
from segsrgan.inference.checks import local_workers
from segsrgan.inference.local_cluster import local_cluster, share
from segsrgan.inference.outcome import failures
from segsrgan.inference.worker import compute_image

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 20
_POLL_SECONDS = 0.05
# Workers may come and go.
_LOOK_SECONDS = 2
_LOST = ("cancelled", "lost")


def run_on_cluster(job, waiting, recipe, address, progress):
    """Computes images on the workers of a cluster, in whatever order.

    Args:
        job: a `Job`.
        waiting: a list of (`Place`, list of (patch, step) pairs).
        recipe: a `Recipe` of the predictor.
        address: `"local:N"` for N processes of this computer, the address of a scheduler, such as
            `"tcp://host:8786"`, or its scheduler file.
        progress: called as `progress("images", images done, images in all)`.

    Yields:
        An `Outcome` for each image and pair, image by image.

    Raises:
        UserError: if Dask is missing or no scheduler answers.
        Exception: what a worker raised when it made the predictor.
    """
    if find_spec("distributed") is None:
        raise UserError("--dask needs Dask; pip install 'dask[distributed]' (or 'SegSRGAN[dask]')")
    count = local_workers(address)
    if count is not None:
        recipe = share(recipe, count)
    try:
        with _connected(address, count) as client:
            yield from _Spread(client, job, recipe, progress).run(waiting)
    finally:
        if count is not None:
            _tidy(waiting)


class _Spread:
    """Images handed out one to a worker: none waits behind another that may take it down."""

    def __init__(self, client, job, recipe, progress):
        self._client = client
        self._order = {"recipe": recipe, "job": replace(job, images=()), "level": _level()}
        self._progress = progress
        self._running = {}
        self._looked = -math.inf
        self._workers = 0

    def run(self, waiting):
        waiting, total, done, lost = deque(waiting), len(waiting), 0, False
        self._progress("images", done, total)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._count():
                    self._submit(*waiting.popleft())
                ready = [future for future in self._running if future.done()]
                if not ready:
                    time.sleep(_POLL_SECONDS)
                for future in ready:
                    lost = lost or future.status in _LOST
                    outcomes = _outcomes(future, *self._running.pop(future))
                    # Dask would compute it again if the worker that keeps what it returned is lost.
                    future.release()
                    yield from outcomes
                    done += 1
                    self._progress("images", done, total)
                if lost:
                    yield from _abandoned([*self._running.values(), *waiting])
                    return
        finally:
            self._client.cancel(list(self._running))

    def _submit(self, place, pairs):
        task = {**self._order, "place": place, "pairs": pairs, "version": segsrgan.__version__}
        future = self._client.submit(compute_image, **task, pure=False)
        self._running[future] = place, pairs

    def _count(self):
        """How many workers there are, looked up now and then."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            first, self._looked = math.isinf(self._looked), time.monotonic()
            with suppress(OSError):  # the scheduler is away; the futures will tell
                self._workers = len(self._client.nthreads())
            if first and not self._workers:
                logger.info("waiting for workers")
            cluster = self._client.cluster
            if cluster is not None and not cluster.workers:
                raise UserError("all processes of --dask local:N were lost for good; try 1")
        return self._workers


def _outcomes(future, place, pairs):
    from distributed.scheduler import KilledWorker

    if future.status in _LOST:
        return _abandoned([(place, pairs)])
    if future.status == "finished":
        outcomes, records = future.result()
        for record in records:
            _tell(record)
        return outcomes
    error = future.exception()
    if isinstance(error, KilledWorker):
        text = "the workers that computed it were lost; give them more memory, or a smaller patch"
        return failures(place, pairs, UserError(text))
    raise error


def _abandoned(images):
    """The outcomes of images that nobody will compute."""
    error = UserError("the Dask scheduler was lost; the same command goes on from here")
    return [outcome for place, pairs in images for outcome in failures(place, pairs, error)]


def _level():
    """The level of messages that anybody will see."""
    return logging.getLogger("segsrgan").getEffectiveLevel()


def _tell(record):
    """Logs what a worker logged."""
    target = logging.getLogger(record["name"])
    if target.isEnabledFor(record["levelno"]):
        target.handle(logging.makeLogRecord(record))


def _tidy(waiting):
    """Removes what local workers, which have ended, could not finish."""
    for place, _ in waiting:
        remove_stale(place.folder)


@contextmanager
def _connected(address, count):
    """A client of the scheduler."""
    from distributed import Client

    with _quiet():
        if count is not None:
            with local_cluster(count) as cluster, Client(cluster) as client:
                yield client
            return
        named = {"scheduler_file" if address.endswith(".json") else "address": address}
        try:
            client = Client(**named, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {address}; start one with `dask scheduler` and "
                "workers with `dask worker`, or take --dask local:2"
            ) from error
        with client:
            yield client


@contextmanager
def _quiet():
    """Keeps Dask's own messages back, of lost workers for instance: they are not the user's."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    try:
        for dask in levels:
            dask.setLevel(logging.CRITICAL)
        yield
    finally:
        for dask, level in levels.items():
            dask.setLevel(level)
