# SPDX-License-Identifier: MIT
"""What the commands share: messages on stderr, a progress bar, a silent TensorFlow."""

import argparse
import logging
import os
import shlex
import signal
import sys
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module

from segsrgan import __version__
from segsrgan.errors import UserError, one_line, printable

_PACKAGES = ("segsrgan", "supermask")
_COLOURS = {"warning": "33", "error": "31"}  # yellow and red, of terminals
_LOG_SECONDS = 30  # between lines of progress where there is no terminal


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors can be caught; it leaves the lines of texts as they are.

    It knows `--version`.
    """

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def parse_args(self, args=None, namespace=None):
        """As `argparse` does; a shell that completes a line by argcomplete gets its answer."""
        if "_ARGCOMPLETE" in os.environ:
            from argcomplete import autocomplete

            autocomplete(self)  # ends the program
        return super().parse_args(args, namespace)

    def error(self, message):
        """Raises `UserError` instead of leaving the program."""
        raise UserError(f"{message} (see --help)")


def command(build_parser, run, interrupted="", text=one_line):
    """Makes the `main` of a command; what it raises becomes a message on stderr.

    Args:
        build_parser: function that makes its `Parser`; messages begin with the `prog`.
        run: function of the parsed arguments that returns an exit status, or None for 0.
        interrupted: what Ctrl-C leaves.
        text: function that makes a message of an error.

    Returns:
        A function of the arguments without the program's name, `sys.argv[1:]` by default, and of
        another `prog` than the parser's. `run` finds the whole line as `command` among what was
        parsed. It returns the exit status: that of `run`, 2 after an
        error of the user or the system, 130 after Ctrl-C or SIGTERM.
    """

    def main(argv=None, prog=None):
        accept_all_characters()
        parser = build_parser()
        parser.prog = prog or parser.prog
        try:
            args = parser.parse_args(argv)
            words = shlex.join(sys.argv[1:] if argv is None else argv)
            args.command = f"{parser.prog} {words}"
            flags = (getattr(args, name, False) for name in ("quiet", "verbose"))
            with messages(parser.prog, *flags), _ended_by_sigterm():
                return run(args) or 0
        except KeyboardInterrupt:
            left = f"; {interrupted}" if interrupted else ""
            sys.stderr.write(f"{parser.prog}: interrupted{left}\n")
            return 130
        except (ValueError, OSError, ImportError, MemoryError) as error:
            sys.stderr.write(f"{parser.prog}: {coloured('error')}: {text(error)}\n")
            return 2

    return main


def coloured(level):
    """The name of a level, in its colour where stderr is a terminal and NO_COLOR is not set."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt"
    if is_plain or level not in _COLOURS or not sys.stderr.isatty():
        return level
    return f"\033[{_COLOURS[level]}m{level}\033[0m"


@contextmanager
def _ended_by_sigterm():
    """Lets SIGTERM, which batch systems send, end a command as Ctrl-C does: nothing is left."""
    before = None
    with suppress(ValueError):  # only the main thread may
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def accept_all_characters():
    """Makes stdout and stderr take any message: what their encoding lacks is escaped.

    What is written to one that is closed is lost, instead of landing in the next file opened.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


@contextmanager
def messages(program, quiet=False, verbose=False):
    """Shows our log on stderr for the duration of a command: information, errors, or everything.

    Of failed images everything holds the tracebacks. `program` stands before warnings and errors.
    """
    # Has no effect once TensorFlow is imported, and the user's own choice goes first.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    handler, silent = _BarHandler(program), logging.NullHandler()
    # Without a handler there a library's `logging.info` adds one that repeats our messages.
    logging.root.addHandler(silent)
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(silent)
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


def import_quietly(module):
    """Imports a module that loads TensorFlow, without the lines TensorFlow writes at its start.

    They come from C++ and go to file descriptor 2, so that is where they are stopped.
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
    """Shows `progress(label, done, total, text)` calls on stderr.

    On a terminal as one bar per label; elsewhere, as in log files, as a line each half minute, and
    one at the end of a label that has a text. A context manager that leaves the bar as it stands.
    `unit` is what is counted.
    """

    def __init__(self, quiet=False, unit="patch"):
        self._quiet, self._unit, self._bar = quiet, unit, None
        self._begun, self._written = ("", 0, 0.0), time.monotonic()  # label, units, time; last line

    def __call__(self, label, done, total, text=""):
        """Moves the bar, with a text behind it; opens it at 0 and closes it at the end."""
        if self._quiet:
            return
        if not sys.stderr.isatty():
            self._write_line(label, done, total, text)
            return
        if done == 0 or self._bar is None:
            from tqdm import tqdm

            self.close()
            options = {"mininterval": 0.2, "unit": self._unit}
            self._bar = tqdm(total=total, initial=done, desc=label, **options)
        if text:
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def _write_line(self, label, done, total, text):
        now = time.monotonic()
        if done == 0 or self._begun[0] != label:
            self._begun = label, done, now
        _, first, start = self._begun
        is_due = now - self._written >= _LOG_SECONDS and first < done < total
        if not is_due and not (done == total and text):
            return
        self._written, parts = now, [f"{self._unit} {done} of {total}"]
        if is_due:
            seconds = (now - start) * (total - done) / (done - first)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        line = ", ".join([*parts, text] if text else parts)
        sys.stderr.write(f"{printable(label)}: {line}\n")

    def close(self):
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _OneLine(logging.Formatter):
    """A message in one line, whatever the names of files hold; a traceback has several."""

    def formatMessage(self, record):  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))


class _BarHandler(logging.Handler):
    """Writes above a progress bar instead of into it; `program` stands before warnings.

    What is no error is written once: a training reads its images in every epoch.
    """

    def __init__(self, program):
        super().__init__()
        self._program, self._written = program, set()
        self.setFormatter(_OneLine())

    def emit(self, record):
        text = self.format(record)
        if record.levelno < logging.ERROR and text in self._written:
            return
        self._written.add(text)
        if record.levelno >= logging.WARNING:
            text = f"{self._program}: {coloured(record.levelname.lower())}: {text}"
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")
