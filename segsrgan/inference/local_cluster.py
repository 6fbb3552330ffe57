# SPDX-License-Identifier: MIT
"""A Dask cluster of this computer: processes that share its processors and memory."""

import logging
import os
import signal
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

from segsrgan.memory import GIB, available_memory

# A process that was lost is replaced; on a busy computer that takes longer than Dask's 15 seconds.
_RESTART_SECONDS = 600


def share(recipe, count):
    """A `Recipe` for one of several workers: with its share of the threads and the memory."""
    options = dict(recipe.options)
    free = available_memory()
    if options.get("threads") is None:
        options["threads"] = max(1, _processors() // count)
    if options.get("max_memory") is not None:
        options["max_memory"] /= count
    elif free is not None:
        options["max_memory"] = free / GIB / count
    return replace(recipe, options=tuple(options.items()))


@contextmanager
def local_cluster(count):
    """A `distributed.LocalCluster` of so many processes, which end with the context.

    If an error or an interrupt ends it, they end in the middle of whatever they do.
    """
    import dask
    from distributed import LocalCluster

    with dask.config.set({"distributed.deploy.lost-worker-timeout": _RESTART_SECONDS}):
        with _uninterrupted():
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # the predictors keep to theirs
                dashboard_address="127.0.0.1:0",  # any port that is free
                silence_logs=logging.CRITICAL,
            )
        try:
            yield cluster
        except BaseException:
            _kill(cluster)
            raise
        finally:
            cluster.close()


def _kill(cluster):
    """Ends workers that may be in the middle of an image, which would be waited for."""
    for nanny in cluster.workers.values():
        with suppress(OSError, TypeError):  # gone already
            os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def _uninterrupted():
    """Processes started meanwhile ignore Ctrl-C, which reaches all of a terminal's processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _processors():
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
