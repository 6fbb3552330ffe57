# SPDX-License-Identifier: MIT
"""Signals that end a training after its cycle, with its state saved."""

import os
import signal
from contextlib import suppress


class Stop:
    """The wish to stop that SIGTERM and Ctrl-C express, for as long as it is entered.

    The training asks by calling it. Before the first call nobody would hear the wish: then, and
    at a second Ctrl-C, `KeyboardInterrupt` is raised.
    """

    def __init__(self):
        self.signal = None
        self.listening = False
        self._handlers = {}

    def __call__(self):
        """Whether to stop."""
        self.listening = True
        return self.signal is not None

    def __enter__(self):
        with suppress(ValueError):  # only the main thread may; elsewhere nothing is caught
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def farewell(self, folder):
        """What to tell the user when the training has stopped.

        Args:
            folder: of its state and settings.
        """
        config = os.path.join(folder, "settings.toml")
        return (
            f"stopped by {self.signal.name}, the state is saved; go on with the same command and "
            f"--resume, or --config {config} --resume"
        )

    def _receive(self, number, _):
        again = self.signal is not None and number == signal.SIGINT
        self.signal = self.signal or signal.Signals(number)
        if again or not self.listening:
            raise KeyboardInterrupt
        # Not through the log: it may be in the middle of a line.
        text = b"\nstopping after this cycle; Ctrl-C again stops at once\n"
        with suppress(OSError):
            os.write(2, text)
