# SPDX-License-Identifier: MIT
"""Work done ahead by a thread."""

import threading
import time

import pytest

from segsrgan.training.prefetch import prefetch


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_order_is_kept():
    assert list(prefetch(iter(range(20)), depth=3)) == list(range(20))
    assert list(prefetch([])) == []


def test_an_error_comes_after_the_items_before_it():
    def broken():
        yield 1
        raise OSError("unreadable")

    items = prefetch(broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="unreadable"):
        next(items)


def test_only_so_many_items_are_made_ahead():
    made = []

    def make():
        for number in range(9):
            made.append(number)
            yield number

    items = prefetch(make(), depth=2)
    for number in range(4):
        assert next(items) == number
        assert wait_for(lambda: len(made) == number + 3)  # noqa: B023 - used at once
        time.sleep(0.05)
        assert len(made) == number + 3  # this one and two ahead
    items.close()


def test_the_thread_ends_and_closes_its_source_when_the_consumer_stops():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = set(threading.enumerate())
    items = prefetch(endless())
    next(items)
    items.close()
    assert closed.wait(5)
    assert wait_for(lambda: set(threading.enumerate()) <= before)
