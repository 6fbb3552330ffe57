# SPDX-License-Identifier: MIT
"""What the commands share: messages on stderr, a progress bar, a silent TensorFlow."""

import argparse
import logging
import os
import signal
import sys
from contextlib import contextmanager, suppress
from importlib import import_module

from segsrgan.errors import UserError, full_text, one_line

_PACKAGES = ("segsrgan", "supermask")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and can be caught."""

    def error(self, message):
        """Raises `UserError` instead of leaving the program."""
        raise UserError(f"{message} (see --help)")


def status_of(run, program, interrupted="", text=one_line):
    """Runs a command; what it raises becomes a message on stderr.

    Args:
        run: function without arguments that returns an exit status.
        program: name that stands before the message.
        interrupted: what Ctrl-C left.
        text: function that makes a message of an error.

    Returns:
        Its exit status, 2 after an error of the user or the system, 130 after Ctrl-C.
    """
    try:
        return run()
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted{interrupted and '; '}{interrupted}\n")
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        sys.stderr.write(f"{program}: error: {text(error)}\n")
        return 2


def train(argv, program, parse, module, scores, remedy):
    """Runs the command of a training.

    Args:
        argv: arguments without the program's name.
        program: its name in messages.
        parse: makes of `argv` the settings, which have a `snapshot_folder`, and the last epoch.
        module: full name of the one whose `run(settings, progress, stop)` trains.
        scores: those of the last row that are shown.
        remedy: what to try when memory runs out.

    Returns:
        The exit status: 0 done, 1 the training failed, 2 nothing could be done, 130 interrupted
        by Ctrl-C, 143 by SIGTERM.
    """
    stop = _Stop()
    try:
        settings, last = parse(argv)
        with messages(program), stop:
            return _train(settings, last, program, module, scores, stop)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted; --resume goes on from the last state\n")
        return 128 + (stop.signal or signal.SIGINT)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        text = (
            f"out of memory; try {remedy}" if isinstance(error, MemoryError) else full_text(error)
        )
        sys.stderr.write(f"{program}: error: {text}\n")
        return 1 if stop.listening or isinstance(error, RuntimeError) else 2


def _train(settings, last, program, module, scores, stop):
    training = import_quietly(module)
    bar = ProgressBar(unit="cycle")
    try:
        row = training.run(settings, progress=bar, stop=stop)
    finally:
        bar.close()
    row = row or {}
    if row and not settings.worker_index:  # the chief alone has scores
        shown = ", ".join(f"{key} {row[key]:.4g}" for key in scores if key in row)
        shown = shown or "nothing to score it on"
        sys.stdout.write(f"epoch {row['epoch']}: {shown}; results in {settings.snapshot_folder}\n")
    if stop.signal is None or row.get("epoch", 0) >= last:
        return 0
    sys.stderr.write(f"{program}: {stop.message(settings.snapshot_folder)}\n")
    return 128 + stop.signal


class _Stop:
    """Whether SIGTERM or Ctrl-C asked a training to stop, for as long as it is entered.

    The training asks by calling it. Before the first call a signal would go unnoticed: then, and
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

    def message(self, folder):
        """What the user reads when the training has stopped.

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


@contextmanager
def messages(program, quiet=False, verbose=False):
    """Shows our log on stderr for the duration of a command.

    Args:
        program: name that stands before errors.
        quiet: errors only.
        verbose: everything, tracebacks of failed images included.
    """
    # Has no effect once TensorFlow is imported, and the user's own choice goes first.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    handler = _BarHandler()
    handler.setFormatter(_Formatter(program))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def import_quietly(module):
    """Imports a module that loads TensorFlow, without the lines TensorFlow writes at its start.

    They come from C++ and go to file descriptor 2, so that is where they are stopped.

    Args:
        module: full name of the module.

    Returns:
        The module.
    """
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr to keep quiet
        return import_module(module)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        loaded = import_module(module)
        if "keras" in sys.modules:  # on JAX it loads TensorFlow later, which would be heard
            import_module("tensorflow").config.list_physical_devices()
        return loaded
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class ProgressBar:
    """Shows `progress(label, done, total, text)` calls as one bar per label on stderr.

    Args:
        quiet: show nothing.
        unit: what is counted.
    """

    def __init__(self, quiet=False, unit="patch"):
        self._quiet = quiet
        self._unit = unit
        self._bar = None

    def __call__(self, label, done, total, text=""):
        """Moves the bar, with a text behind it; opens it at 0 and closes it at the end."""
        if self._quiet:
            return
        if done == 0 or self._bar is None:
            self._open(label, done, total)
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self):
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, label, done, total):
        from tqdm import tqdm

        self.close()
        # In a log file a line now and then is enough.
        interval = 0.2 if sys.stderr.isatty() else 30
        self._bar = tqdm(
            total=total, initial=done, desc=label, unit=self._unit, mininterval=interval
        )


class _BarHandler(logging.Handler):
    """Writes above a progress bar instead of into it."""

    def emit(self, record):
        text = self.format(record)
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")


class _Formatter(logging.Formatter):
    def __init__(self, program):
        super().__init__()
        self._program = program

    def format(self, record):
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return f"{self._program}: {record.levelname.lower()}: {text}"
