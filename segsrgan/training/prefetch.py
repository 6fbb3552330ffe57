# SPDX-License-Identifier: MIT
"""Work done ahead by a thread."""

import queue
import threading


def prefetch(items, depth=4):
    """Yields the items of an iterable, made by a thread while earlier ones are used.

    At most `depth` items are ahead of the one in use, the one being made included. An exception
    of the iterable is raised here, after the items before it. When the consumer stops early, the
    thread ends after the item it is making, and closes the iterable if that is a generator.

    Args:
        items: any iterable; it is used by the thread alone.
        depth: at least 1.
    """
    line, room = queue.SimpleQueue(), threading.Semaphore(depth)
    stop, end = threading.Event(), object()

    def work():
        iterator = None
        try:
            iterator = iter(items)
            while True:
                room.acquire()
                if stop.is_set():
                    return
                item = next(iterator, end)
                line.put((item, None))
                if item is end:
                    return
                del item  # or it would stay in memory until the next one is made
        except BaseException as error:
            line.put((end, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = line.get()
            room.release()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
            del item
    finally:
        stop.set()
        room.release()
