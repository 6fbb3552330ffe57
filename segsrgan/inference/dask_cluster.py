# SPDX-License-Identifier: MIT
"""The images of a job spread over a Dask cluster, each worker with a predictor of its own.

Workers see the same files as this process. Dask gives the image of a worker that is lost to
another; an image that has cost several workers their life fails. Results appear whole or not at
all, so that a worker which was only thought lost does no harm.
"""

import logging
import os
import signal
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from logging.handlers import QueueHandler
from types import SimpleNamespace

import segsrgan
from segsrgan.errors import UserError
from segsrgan.files import remove_stale
from segsrgan.inference.jobs import failures, run_here
from segsrgan.inference.settings import local_workers
from segsrgan.memory import GIB, available_memory

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 20
# Workers may come and go: how often they are counted.
_COUNT_SECONDS = 2
# A process that was lost is replaced; on a busy computer that takes longer than Dask's 15 seconds.
_RESTART_SECONDS = 600
# A process computes one image at a time, however many threads a worker has.
_LOCK = threading.Lock()


def run_on_cluster(job, waiting, recipe, progress, address):
    """Computes images as `run_here` does, on the workers of a cluster and in whatever order.

    The recipe, which makes the `Predictor`, is hashable, can be pickled, and has `settings`;
    `progress("images", done, total)` is called. The address is `"local:N"` for N processes of this
    computer, that of a scheduler, such as `"tcp://host:8786"`, or its scheduler file.
    """
    if find_spec("distributed") is None:
        raise UserError("--dask needs Dask; pip install 'SegSRGAN[dask]'")
    from distributed.utils import silence_logging_cmgr

    processes = local_workers(address)
    if processes is not None:
        recipe = divided(recipe, processes)
    level = logging.getLogger("segsrgan").getEffectiveLevel()
    order = replace(job, results=()), recipe, segsrgan.__version__, level
    try:
        # Dask's own messages, of lost workers for instance, are not the user's.
        with silence_logging_cmgr(logging.CRITICAL), _connected(address, processes) as client:
            yield from _spread(client, waiting, order, progress)
    finally:
        if processes is not None:  # they have ended, perhaps in the middle of an image
            for results, _ in waiting:
                remove_stale(results.folder)


def divided(recipe, processes):
    """A recipe for one of several processes: with its part of the threads and the memory."""
    from dask.system import CPU_COUNT

    settings = recipe.settings
    memory = settings.max_memory or available_memory() / GIB
    threads = settings.threads or max(1, CPU_COUNT // processes)
    settings = replace(settings, threads=threads, max_memory=memory / processes)
    return replace(recipe, settings=settings)


def compute_image(order, results, pairs):
    """Computes an image on a worker and writes its results; also raises what its predictor does.

    `order` is a `Job`, its recipe, which is made once for all images, the version of the package
    that gives the order, and the least level of messages that are wanted. Returns a list of
    `Outcome` and the messages, a list of `logging.LogRecord`.
    """
    job, recipe, version, level = order
    if version != segsrgan.__version__:
        raise UserError(
            f"a Dask worker has SegSRGAN {segsrgan.__version__}, the job comes from {version}; "
            "install the same version everywhere"
        )
    with _LOCK, _recorded(level) as records:
        predictor = _predictor(recipe)
        outcomes = list(run_here(job, [(results, pairs)], lambda: predictor, lambda *call: None))
        return outcomes, records


def _spread(client, waiting, order, progress):
    """Hands images out one to a worker: none waits behind another that may take it down."""
    from distributed import wait

    waiting, total, done, running = deque(waiting), len(waiting), 0, {}
    progress("images", done, total)
    try:
        while waiting or running:
            if client.cluster is not None and not client.cluster.workers:
                raise UserError("all processes of --dask local:N were lost for good; try local:1")
            for _ in range(min(len(waiting), _worker_count(client) - len(running))):
                image = waiting.popleft()
                running[client.submit(compute_image, order, *image, pure=False)] = image
            if not running:
                time.sleep(_COUNT_SECONDS)
                continue
            with suppress(TimeoutError):
                wait(list(running), timeout=_COUNT_SECONDS, return_when="FIRST_COMPLETED")
            for future in [future for future in running if future.done()]:
                outcomes = _outcomes(future, *running[future])
                del running[future]
                # Dask would compute it again if the worker that keeps what it returned is lost.
                future.release()
                yield from outcomes
                done += 1
                progress("images", done, total)
    except CancelledError:
        error = UserError("the Dask scheduler was lost; the same command goes on from here")
        for results, pairs in [*running.values(), *waiting]:
            yield from failures(results, pairs, error)
    finally:
        client.cancel(list(running))


def _worker_count(client):
    try:
        return len(client.nthreads())
    except OSError as error:
        raise CancelledError from error


def _outcomes(future, results, pairs):
    """The outcomes that a worker returned; its messages are logged here."""
    from distributed.scheduler import KilledWorker

    try:
        outcomes, records = future.result()
    except KilledWorker:
        text = "the workers that computed it were lost; give them more memory, or a smaller patch"
        return failures(results, pairs, UserError(text))
    for record in records:
        target = logging.getLogger(record.name)
        if target.isEnabledFor(record.levelno):
            target.handle(record)
    return outcomes


@lru_cache(maxsize=1)
def _predictor(recipe):
    return recipe()


@contextmanager
def _recorded(level):
    """A list of our loggers' messages, which are not shown here."""
    records, ours = [], logging.getLogger("segsrgan")
    handler = QueueHandler(SimpleNamespace(put_nowait=records.append))
    before, propagated = ours.level, ours.propagate
    ours.setLevel(level)
    ours.propagate = False
    ours.addHandler(handler)
    try:
        yield records
    finally:
        ours.removeHandler(handler)
        ours.propagate = propagated
        ours.setLevel(before)


@contextmanager
def _connected(address, processes):
    """A client of the scheduler at an address, or of that many processes of this computer."""
    from distributed import Client

    if processes is not None:
        with _local_cluster(processes) as cluster, Client(cluster) as client:
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
        if not client.nthreads():
            logger.info("waiting for workers")
        yield client


@contextmanager
def _local_cluster(processes):
    """A `distributed.LocalCluster`, encrypted, so that nobody else can give it orders.

    If an error or an interrupt ends it, its processes end in the middle of whatever they do.
    """
    import dask
    from distributed import LocalCluster

    before = signal.getsignal(signal.SIGINT)
    # Elsewhere no signal arrives, and none may be set.
    main_thread = threading.current_thread() is threading.main_thread()
    pages = {f"distributed.{who}.http.routes": [] for who in ("scheduler", "worker")}  # unencrypted
    with dask.config.set({"distributed.deploy.lost-worker-timeout": _RESTART_SECONDS, **pages}):
        # Ctrl-C reaches all of a terminal's processes; these leave it to this one.
        if main_thread:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            cluster = LocalCluster(
                n_workers=processes,
                threads_per_worker=1,
                memory_limit=0,  # the predictors keep to theirs
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
                security=True,
            )
        finally:
            if main_thread:
                signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        try:
            yield cluster
        except BaseException:
            for nanny in cluster.workers.values():
                with suppress(OSError, TypeError):  # gone already
                    os.kill(nanny.pid, signal.SIGKILL)
            raise
        finally:
            cluster.close()
